//! Text of others on terminals: a name, a line of a file or an argument must neither move the
//! cursor nor look like another one.

use std::fmt::Write as _;

/// Whether a terminal shows a character as it is.
pub fn is_printable(c: char) -> bool {
    let is_disguise = matches!(
        c,
        // Soft hyphen, and the mark of Arabic letters: nothing is seen of them.
        '\u{ad}' | '\u{61c}'
        // Zero-width space, and marks of direction. The joiners before the latter are letters'.
        | '\u{200b}' | '\u{200e}'..='\u{200f}'
        // Separators of lines and paragraphs; embeddings and overrides of direction (UAX #9 §2).
        | '\u{2028}'..='\u{202e}'
        // Invisible operators, isolates of direction, and deprecated format characters.
        | '\u{2060}'..='\u{206f}'
        // The byte order mark, and annotations.
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        // Tags: invisible ASCII.
        | '\u{e0000}'..='\u{e007f}'
    );
    !c.is_control() && !is_disguise
}

/// Returns text on one line, with escapes in place of what is not printable.
pub fn printable(text: &str) -> String {
    escaped(text, &[])
}

/// Returns text as [`printable`], but with its lines and tabs.
pub fn printable_lines(text: &str) -> String {
    escaped(text, &['\n', '\t'])
}

fn escaped(text: &str, allowed: &[char]) -> String {
    let mut said = String::with_capacity(text.len());
    for c in text.chars() {
        if is_printable(c) || allowed.contains(&c) {
            said.push(c);
        } else {
            write!(said, "{}", c.escape_default()).expect("memory takes all text");
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_chose_moves_no_cursor_and_hides_nothing() {
        assert_eq!(printable("a\tb\x1b[2Jü\n\u{9b}"), "a\\tb\\u{1b}[2Jü\\n\\u{9b}");
        assert_eq!(printable("x\u{202e}y\u{2066}z\u{200b}"), "x\\u{202e}y\\u{2066}z\\u{200b}");
        assert_eq!(printable_lines("a\n\tb\r\x1b"), "a\n\tb\\r\\u{1b}");
        // Letters of people stay as they are, joined or with marks.
        for text in ["Zürich", "日本", "e\u{301}", "می\u{200c}خواهم", "👩\u{200d}🔧"]
        {
            assert_eq!(printable(text), text);
        }
    }
}
