//! Records of reports of group membership: IGMPv3's (RFC 3376 §4.2.4) and MLDv2's (RFC 3810
//! §5.2.5), which differ in the length of addresses.

use zerocopy::{FromBytes as _, big_endian::U16};

/// What a report says of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Its host wants to hear it, from some sources at least.
    Joined,
    /// Its host wants to hear it no longer.
    Left,
    /// Neither.
    None,
}

/// The report goes on beyond the octets at hand, or is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut;

/// The records of a report whose addresses have `N` octets.
#[derive(Debug, Clone)]
pub struct Records<'a, const N: usize> {
    left: u16,
    octets: &'a [u8],
}

impl<'a, const N: usize> Records<'a, N> {
    /// Those behind the fixed part of a report, which is 8 octets long and ends with their number.
    pub fn of(report: &'a [u8]) -> Option<Self> {
        let (fixed, octets) = report.split_at_checked(8)?;
        let left = U16::read_from_suffix(fixed).ok()?.1.get();
        Some(Self { left, octets })
    }

    /// Takes the next record off.
    fn take(&mut self) -> Option<([u8; N], Change)> {
        // Type, length of auxiliary words, number of sources, group.
        let (fixed, rest) = self.octets.split_first_chunk::<4>()?;
        let (group, rest) = rest.split_first_chunk::<N>()?;
        let [kind, auxiliary, ..] = *fixed;
        let sources = U16::read_from_suffix(fixed).ok()?.1.get();
        let behind = usize::from(sources) * N + usize::from(auxiliary) * 4;
        self.octets = rest.get(behind..)?;
        Some((*group, change(kind, sources)))
    }
}

impl<const N: usize> Iterator for Records<'_, N> {
    type Item = Result<([u8; N], Change), Cut>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.take();
        // A number says how many there should be: nothing is read behind the first that is cut.
        if record.is_none() {
            self.left = 0;
        }
        Some(record.ok_or(Cut))
    }
}

/// Which way a record of this kind changes a membership (RFC 3376 §4.2.12): sources are of no
/// matter here, but for whether there are any.
const fn change(kind: u8, sources: u16) -> Change {
    match (kind, sources) {
        // MODE_IS_INCLUDE and CHANGE_TO_INCLUDE: of none is to leave.
        (1 | 3, 0) => Change::Left,
        // With MODE_IS_EXCLUDE, CHANGE_TO_EXCLUDE, ALLOW_NEW_SOURCES.
        (1..=5, _) => Change::Joined,
        // BLOCK_OLD_SOURCES leaves others.
        _ => Change::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records(octets: &[u8]) -> Vec<Result<([u8; 4], Change), Cut>> {
        Records::<4>::of(octets).unwrap().collect()
    }

    #[test]
    fn records_are_read_and_what_is_cut_ends_them() {
        let mut report = vec![0x22, 0, 0, 0, 0, 0, 0, 3];
        // An auxiliary word and two sources; then to include nothing; then one that is cut.
        report.extend([2, 1, 0, 2, 239, 1, 1, 1, 10, 0, 0, 1, 10, 0, 0, 2, 9, 9, 9, 9]);
        report.extend([3, 0, 0, 0, 239, 1, 1, 2]);
        let first = [Ok(([239, 1, 1, 1], Change::Joined)), Ok(([239, 1, 1, 2], Change::Left))];
        assert_eq!(records(&report), [&first[..], &[Err(Cut)]].concat());
        report.extend([6, 0, 0, 1, 239, 1, 1, 3, 10, 0, 0, 1]);
        let last = [Ok(([239, 1, 1, 3], Change::None))];
        assert_eq!(records(&report), [&first[..], &last].concat());
        // So many that there cannot be, and sources that overlap what follows.
        report[6..8].fill(0xff);
        assert_eq!(records(&report).len(), 4);
        report[10..12].fill(0xff);
        assert_eq!(records(&report), [Err(Cut)]);
        assert!(Records::<4>::of(&report[..7]).is_none());
    }

    proptest! {
        #[test]
        fn no_report_is_too_strange(octets in proptest::collection::vec(any::<u8>(), 8..100)) {
            let read = Records::<16>::of(&octets).unwrap();
            prop_assert!(read.count() <= octets.len() / 20 + 1);
        }
    }
}
