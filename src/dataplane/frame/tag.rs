//! VLAN tags of a trunk's frames, taken off and put on: between the two a frame is as its network
//! sees it.
//!
//! Takes the private head of a frame, whose MACs move by the four octets of a tag, and what its
//! sender left to be done, which moves with its packet. What stands behind the head is not touched.

use super::{Frame, HEAD_LEN, Outgoing, verdict::DropReason};
use crate::{
    addr::MacAddr,
    wire::{
        ethernet::{HEADER_LEN, TAG_LEN},
        vlan::{Outermost, VlanId},
    },
};

/// Where a tag stands: behind the two MACs.
const AT: usize = 2 * size_of::<MacAddr>();

/// Takes the outermost tag off a frame. Returns the VLAN it named: none where there was no tag, or
/// one that names a priority alone.
pub fn take_off(frame: &mut Frame) -> Result<Option<VlanId>, DropReason> {
    if let Some(reason) = frame.invalid {
        return Err(reason);
    }
    if frame.head_len < HEADER_LEN {
        return Err(DropReason::FrameTooShort);
    }
    let vlan = match Outermost::of(frame.head()) {
        Outermost::None => return Ok(None),
        Outermost::Cut => return Err(DropReason::FrameTooShort),
        Outermost::Reserved => return Err(DropReason::VlanNotAllowed),
        Outermost::Priority => None,
        Outermost::Vlan(vlan) => Some(vlan),
    };
    frame.offload = frame.offload.moved(-(TAG_LEN as i16)).ok_or(DropReason::BadVnetHeader)?;
    // What is behind the tag moves, and not the MACs in front of it: a head begins where it is.
    frame.head.copy_within(AT + TAG_LEN..HEAD_LEN, AT);
    frame.head_len -= TAG_LEN;
    frame.len -= TAG_LEN;
    Ok(vlan)
}

/// Appends the head of a frame with the tag of a VLAN to `heads`. Returns the frame as it leaves,
/// but for its head; none where it is too short to have one, or what is to be done about it would
/// be too far away.
pub fn put_on<'a>(frame: &Outgoing<'a>, vlan: VlanId, heads: &mut Vec<u8>) -> Option<Outgoing<'a>> {
    let (macs, rest) = frame.head.split_at_checked(AT)?;
    let offload = frame.offload.moved(TAG_LEN as i16)?;
    heads.extend_from_slice(macs);
    heads.extend_from_slice(&vlan.tag());
    heads.extend_from_slice(rest);
    Some(Outgoing { offload, len: frame.len + TAG_LEN, ..*frame })
}

/// Whether a frame that leaves without a tag of ours would be taken for one of a VLAN, by a tag of
/// its sender's own.
// Behind a tag that names no VLAN, too: there are hosts that take that one off and look again.
pub fn names_vlan(mut head: &[u8]) -> bool {
    loop {
        match Outermost::of(head) {
            Outermost::None | Outermost::Cut => return false,
            Outermost::Reserved | Outermost::Vlan(_) => return true,
            Outermost::Priority => head = &head[TAG_LEN..],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::vnet::{Offload, SegmentKind, Segments};

    const MACS: [u8; AT] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

    fn frame(tail: &[u8]) -> Frame {
        let mut frame = Frame { head_len: AT + tail.len(), ..Frame::default() };
        frame.head[..AT].copy_from_slice(&MACS);
        frame.head[AT..AT + tail.len()].copy_from_slice(tail);
        frame.len = frame.head_len;
        frame
    }

    fn vlan(number: u16) -> VlanId {
        VlanId::new(number).unwrap()
    }

    /// What a frame says once its tag is off: its VLAN's number, and what is behind its MACs.
    fn taken_off(tail: &[u8]) -> Result<(u16, Vec<u8>), DropReason> {
        let mut frame = frame(tail);
        let vlan = take_off(&mut frame)?;
        assert_eq!((&frame.head()[..AT], frame.len), (&MACS[..], frame.head_len));
        Ok((vlan.map_or(0, VlanId::get), frame.head()[AT..].to_vec()))
    }

    #[test]
    fn the_outermost_tag_is_taken_off() {
        assert_eq!(taken_off(&[0x81, 0, 0xa0, 10, 8, 6, 1]), Ok((10, vec![8, 6, 1])));
        assert_eq!(taken_off(&[8, 6, 1]), Ok((0, vec![8, 6, 1])));
        assert_eq!(taken_off(&[0x81, 0, 0xa0, 0, 8, 6]), Ok((0, vec![8, 6])), "a priority");
        let double = [0x81, 0, 0, 10, 0x81, 0, 0, 20, 8, 6];
        assert_eq!(taken_off(&double), Ok((10, double[4..].to_vec())));
        let service = [0x88, 0xa8, 0, 10, 0x81, 0, 0, 20, 8, 6];
        assert_eq!(taken_off(&service), Ok((0, service.to_vec())), "no customer's");
        assert_eq!(taken_off(&[0x81, 0, 0x0f, 0xff, 8, 6]), Err(DropReason::VlanNotAllowed));
    }

    #[test]
    fn cut_tags_are_refused() {
        for len in 2..6 {
            let cut = &[0x81, 0, 0, 10, 8, 6][..len];
            assert_eq!(taken_off(cut), Err(DropReason::FrameTooShort), "{len}");
        }
        assert_eq!(taken_off(&[8]), Err(DropReason::FrameTooShort));
        assert_eq!(taken_off(&[0x81, 0, 0, 10, 8, 6]), Ok((10, vec![8, 6])));
        let invalid = Some(DropReason::FrameTooLong);
        let mut frame = Frame { invalid, ..frame(&[0x81, 0, 0, 10, 8, 6]) };
        assert_eq!(take_off(&mut frame), Err(DropReason::FrameTooLong));
    }

    #[test]
    fn what_is_left_to_be_done_moves_with_the_packet() {
        let sum = |start| Offload::Checksum { start, offset: 16 };
        let mut tagged = Frame { offload: sum(38), ..frame(&[0x81, 0, 0, 10, 8, 0]) };
        assert_eq!(take_off(&mut tagged), Ok(Some(vlan(10))));
        assert_eq!(tagged.offload, sum(34));
        let mut bare = Frame { offload: sum(34), ..frame(&[8, 0]) };
        assert_eq!((take_off(&mut bare), bare.offload), (Ok(None), sum(34)));
        let mut broken = Frame { offload: sum(3), ..frame(&[0x81, 0, 0, 10, 8, 0]) };
        assert_eq!(take_off(&mut broken), Err(DropReason::BadVnetHeader));
    }

    #[test]
    fn a_whole_head_loses_its_tag_and_keeps_its_tail() {
        let mut long = frame(&[0x81, 0, 0, 10, 8, 0]);
        (0..HEAD_LEN as u8).skip(18).for_each(|at| long.head[usize::from(at)] = at);
        (long.head_len, long.len) = (HEAD_LEN, 1504);
        assert_eq!(take_off(&mut long), Ok(Some(vlan(10))));
        assert_eq!((long.head_len, long.len), (HEAD_LEN - 4, 1500));
        assert_eq!(long.head()[14..], (18..HEAD_LEN as u8).collect::<Vec<_>>());
    }

    #[test]
    fn a_tag_is_put_on_behind_the_macs() {
        let segments = Segments { kind: SegmentKind::Tcp4, size: 1460, ecn: false };
        let cut = |start| Offload::Segmentation { start, offset: 16, segments };
        let head = [&MACS[..], &[8, 0, 0x45]].concat();
        let mut heads = vec![0xee];
        let frame = Outgoing { len: 3000, ..Outgoing::private(&head, cut(34)) };
        let tagged = put_on(&frame, vlan(4094), &mut heads).unwrap();
        assert_eq!((tagged.len, tagged.offload), (3004, cut(38)));
        assert_eq!(heads, [&[0xee], &MACS[..], &[0x81, 0, 0x0f, 0xfe, 8, 0, 0x45]].concat());
        assert!(put_on(&Outgoing::private(&head[..11], cut(34)), vlan(1), &mut heads).is_none());
        assert!(put_on(&Outgoing::private(&head, cut(65535)), vlan(1), &mut heads).is_none());
    }

    #[test]
    fn tags_of_a_senders_own_are_found() {
        let names = |tail: &[u8]| names_vlan(&[&MACS[..], tail].concat());
        assert!(names(&[0x81, 0, 0, 10, 8, 0]));
        assert!(names(&[0x81, 0, 0, 0, 0x81, 0, 0, 10, 8, 0]), "behind a priority");
        assert!(names(&[0x81, 0, 0x0f, 0xff, 8, 0]));
        assert!(!names(&[0x81, 0, 0xe0, 0, 8, 0]) && !names(&[8, 0]) && !names(&[]));
        assert!(!names(&[0x88, 0xa8, 0, 10, 0x81, 0, 0, 10, 8, 0]));
        let tags = [[0x81, 0, 0, 0]; 40].concat();
        assert!(!names(&tags), "nothing but priorities");
    }
}
