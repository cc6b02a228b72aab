//! A filter's text to words, each with the column it begins at.

use super::BadFilter;

/// Octets of text at most.
const MAX_LEN: usize = 4096;

/// A word: a name, a number, an address, or what stands between those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) column: usize,
    pub(super) text: &'a str,
    /// It stood behind a backslash, and means no keyword.
    pub(super) is_escaped: bool,
}

/// What is of two characters, before what is of one.
const PAIRS: [&str; 8] = ["&&", "||", "==", "!=", ">=", "<=", "<<", ">>"];
const SINGLES: &str = "()[]!=<>+-*/%&|^:";

/// Returns the words of a text, and the column of its end.
pub(super) fn words(text: &str) -> Result<(Vec<Word<'_>>, usize), BadFilter> {
    if text.len() > MAX_LEN {
        return Err(BadFilter { column: MAX_LEN + 1, expected: "a shorter filter" });
    }
    let mut words = Vec::new();
    let mut rest = text;
    let mut brackets = 0_usize;
    loop {
        rest = rest.trim_start();
        let column = text[..text.len() - rest.len()].chars().count() + 1;
        let Some(first) = rest.chars().next() else {
            return Ok((words, text.trim_end().chars().count() + 1));
        };
        let is_escaped = first == '\\';
        if is_escaped {
            rest = &rest[1..];
        }
        let len = match len(rest, brackets > 0) {
            Some(len) => len,
            None => return Err(BadFilter { column, expected: "a word, a number or an operator" }),
        };
        let (word, after) = rest.split_at(len);
        match word {
            "[" => brackets += 1,
            "]" => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        words.push(Word { column, text: word, is_escaped });
        rest = after;
    }
}

/// Returns how long the first word is; none where there is none.
fn len(rest: &str, is_index: bool) -> Option<usize> {
    let first = rest.chars().next()?;
    // IPv6 addresses may begin with two colons. In brackets, a colon is in front of a size.
    if is_part(first, is_index) && (first != ':' || rest.starts_with("::")) && first != '-' {
        return Some(rest.find(|c| !is_part(c, is_index)).unwrap_or(rest.len()));
    }
    if PAIRS.iter().any(|pair| rest.starts_with(pair)) {
        return Some(2);
    }
    SINGLES.contains(first).then_some(1)
}

// As in libpcap, a hyphen between letters or digits is of the word: tcp-syn, 10-20.
fn is_part(c: char, is_index: bool) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') || c == ':' && !is_index
}

/// A number: decimal, or as in C hexadecimal or octal.
pub(super) fn number(word: &str) -> Option<u32> {
    let (digits, radix) = match word.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&word[2..], 16),
        [b'0', _, ..] => (&word[1..], 8),
        _ => (word, 10),
    };
    // `from_str_radix` takes a sign.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_as_they_are_meant() {
        for (text, parted) in [
            ("  udp port  53 ", "udp|port|53"),
            ("!(tcp||udp)", "!|(|tcp||||udp|)"),
            ("ip[2:2]<=0x10", "ip|[|2|:|2|]|<=|0x10"),
            ("host ::1 or fd00::/64", "host|::1|or|fd00::|/|64"),
            ("ether host 02:00:00:00:00:01", "ether|host|02:00:00:00:00:01"),
            ("portrange 10-20", "portrange|10-20"),
            ("tcp[tcpflags]&tcp-syn!=0", "tcp|[|tcpflags|]|&|tcp-syn|!=|0"),
            ("ip[0]-1>2", "ip|[|0|]|-|1|>|2"),
            ("ip proto \\icmp", "ip|proto|icmp"),
            ("1<<2", "1|<<|2"),
        ] {
            let (words, _) = words(text).unwrap();
            let texts = words.iter().map(|word| word.text).collect::<Vec<_>>();
            assert_eq!(texts.join("|"), parted, "{text}");
        }
        let (found, end) = words(" é".trim_start_matches('é').trim()).map_or((vec![], 0), |it| it);
        assert!(found.is_empty() && end == 0);
        assert_eq!(words("ip § 1").unwrap_err().column, 4);
        assert_eq!(words(&"a".repeat(4097)).unwrap_err().column, 4097);
        assert_eq!(words("").unwrap().1, 1);
    }
}
