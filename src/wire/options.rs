//! Lists of options, each of a type, a length and a value: the one walk over them that there is.
//!
//! Takes the octets of a list, returns its options one by one, and refuses what is cut, stands
//! still or goes on for too long. Formats: DHCPv4 (RFC 2132 §2), DHCPv6 (RFC 8415 §21.1), neighbour
//! discovery (RFC 4861 §4.6), IPv4 (RFC 791 §3.1).

use std::cell::Cell;

/// How the options of a list are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// An octet each of type and length; type 0 alone pads, type 255 alone ends.
    Dhcpv4,
    /// Two octets each of type and length.
    Dhcpv6,
    /// An octet each of type and length; the length counts units of eight octets, those two
    /// included.
    Neighbour,
    /// An octet each of type and length, those two included; type 1 alone pads, type 0 alone ends.
    Ipv4,
}

/// Why a list cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// An option is cut, or shorter than its own type and length.
    Malformed,
    /// There are more options than a message may have.
    TooMany,
}

/// How many options may be read yet, of a message and of all lists within it.
#[derive(Debug)]
pub struct Budget(Cell<u8>);

impl Budget {
    /// What one message may have.
    // Real ones have at most some twenty; thousands take DHCPv6's codec 80 ms.
    pub const OPTIONS: u8 = 64;

    /// The budget of one message.
    pub fn new() -> Self {
        Self(Cell::new(Self::OPTIONS))
    }

    fn spend(&self) -> Result<(), Unreadable> {
        self.0.set(self.0.get().checked_sub(1).ok_or(Unreadable::TooMany)?);
        Ok(())
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// Its type.
    pub code: u16,
    /// Its octets, type and length included.
    pub octets: &'a [u8],
    /// Its octets after type and length.
    pub value: &'a [u8],
}

/// The options of a list; padding is left out, and nothing comes after an error.
#[derive(Debug)]
pub struct Options<'a, 'b> {
    layout: Layout,
    rest: &'a [u8],
    budget: &'b Budget,
}

impl<'a, 'b> Options<'a, 'b> {
    /// The options in `octets`, as far as `budget` goes.
    pub fn new(layout: Layout, octets: &'a [u8], budget: &'b Budget) -> Self {
        Self { layout, rest: octets, budget }
    }

    fn read(&mut self) -> Result<Option<Item<'a>>, Unreadable> {
        let (pad, end) = match self.layout {
            Layout::Dhcpv4 => (Some(0), Some(255)),
            Layout::Ipv4 => (Some(1), Some(0)),
            Layout::Dhcpv6 | Layout::Neighbour => (None, None),
        };
        // Padding costs no budget: BOOTP clients fill up to 300 octets with it (RFC 1542 §2.1).
        while let Some((first, tail)) = self.rest.split_first()
            && Some(*first) == pad
        {
            self.rest = tail;
        }
        match self.rest.first() {
            None => return Ok(None),
            first if first.copied() == end => return Ok(None),
            Some(_) => self.budget.spend()?,
        }
        let (code, header_len, len) = self.header().ok_or(Unreadable::Malformed)?;
        let (octets, rest) = self.rest.split_at_checked(len).ok_or(Unreadable::Malformed)?;
        // A length below that of type and length would make the walk stand still (RFC 4861 §4.6).
        let value = octets.get(header_len..).ok_or(Unreadable::Malformed)?;
        self.rest = rest;
        Ok(Some(Item { code, octets, value }))
    }

    /// The type of the first option, the octets of its type and length, and those of all of it.
    fn header(&self) -> Option<(u16, usize, usize)> {
        if self.layout == Layout::Dhcpv6 {
            let (code, rest) = self.rest.split_first_chunk()?;
            let len = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
            return Some((u16::from_be_bytes(*code), 4, 4 + len));
        }
        let (code, len) = (*self.rest.first()?, usize::from(*self.rest.get(1)?));
        let len = match self.layout {
            Layout::Neighbour => len * 8,
            Layout::Ipv4 => len,
            Layout::Dhcpv4 | Layout::Dhcpv6 => 2 + len,
        };
        Some((code.into(), 2, len))
    }
}

impl<'a> Iterator for Options<'a, '_> {
    type Item = Result<Item<'a>, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read().transpose();
        // Where one option is cut, nothing behind it is where it seems to be.
        if !matches!(next, Some(Ok(_))) {
            self.rest = &[];
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The types and values of a list.
    fn read(layout: Layout, octets: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, Unreadable> {
        let budget = Budget::new();
        let options = Options::new(layout, octets, &budget);
        options.map(|item| item.map(|item| (item.code, item.value.to_vec()))).collect()
    }

    #[test]
    fn each_layout_is_read_as_its_rfc_says() {
        let two = Ok(vec![(53, vec![1]), (12, b"vm".to_vec())]);
        assert_eq!(read(Layout::Dhcpv4, &[0, 53, 1, 1, 0, 0, 12, 2, b'v', b'm', 255, 9, 200]), two);
        assert_eq!(read(Layout::Dhcpv6, &[0, 53, 0, 1, 1, 0, 12, 0, 2, b'v', b'm']), two);
        let one = Ok(vec![(1, vec![1, 2, 3, 4, 5, 6])]);
        assert_eq!(read(Layout::Neighbour, &[1, 1, 1, 2, 3, 4, 5, 6]), one);
        assert_eq!(read(Layout::Ipv4, &[1, 148, 4, 0, 0, 0, 7, 7]), Ok(vec![(148, vec![0, 0])]));
    }

    #[test]
    fn what_is_cut_or_stands_still_is_refused() {
        for (layout, octets) in [
            (Layout::Dhcpv4, &[53][..]),
            (Layout::Dhcpv4, &[53, 2, 1]),
            (Layout::Dhcpv6, &[0, 1, 0]),
            (Layout::Dhcpv6, &[0, 1, 0, 1]),
            (Layout::Neighbour, &[1, 0, 0, 0, 0, 0, 0, 0]),
            (Layout::Neighbour, &[1, 2, 0, 0, 0, 0, 0, 0]),
            (Layout::Ipv4, &[148, 1, 0, 0]),
            (Layout::Ipv4, &[148, 0, 0, 0]),
        ] {
            assert_eq!(read(layout, octets), Err(Unreadable::Malformed), "{layout:?} {octets:?}");
        }
    }

    #[test]
    fn a_message_and_what_is_within_it_share_a_budget() {
        let many = [0, 8, 0, 0].repeat(64);
        assert_eq!(read(Layout::Dhcpv6, &many).map(|options| options.len()), Ok(64));
        assert_eq!(read(Layout::Dhcpv6, &[0, 8, 0, 0].repeat(65)), Err(Unreadable::TooMany));
        let budget = Budget::new();
        assert_eq!(Options::new(Layout::Dhcpv6, &many, &budget).count(), 64);
        let within = Options::new(Layout::Dhcpv6, &[0, 5, 0, 0], &budget).next();
        assert_eq!(within, Some(Err(Unreadable::TooMany)));
        assert_eq!(read(Layout::Dhcpv4, &[0; 1500]), Ok(vec![]), "padding is no option");
    }
}
