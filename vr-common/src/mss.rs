//! The largest segment that the two ends of a TCP connection offer each other (RFC 9293 §3.7.1), kept below what the way between
//! them takes: for ways that drop packets which are too large without a word.

use crate::{
    csum::Delta,
    packet::{Packet, ZeroChecksum},
    session::track::TCP_SYN,
    wire::{
        eth,
        ipv4::{self, Ipv4},
        transport::{TCP, TCP_CHECKSUM, TCP_DATA_OFFSET, TCP_FLAGS, TCP_HEADER_LEN},
    },
};

/// Options that are looked at: a SYN has MSS, window scale, SACK, timestamps and what pads them.
const LOOKS: usize = 12;
const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;

/// Lowers the MSS option of a TCP SYN to `limit`, if it is higher; everything else stays as it is.
#[inline(always)]
pub fn clamp<P: Packet + ?Sized>(packet: &mut P, limit: u16) -> Option<()> {
    const IP_AT: usize = eth::HEADER_LEN;

    if !packet.reach(IP_AT + ipv4::MIN_HEADER_LEN) {
        return None;
    }
    let ip = Ipv4::read(packet, IP_AT)?;
    if ip.protocol != TCP || ip.fragment.offset() != 0 {
        return None;
    }
    let tcp = ip.payload_at();
    if tcp + TCP_HEADER_LEN > ip.end() || !packet.reach(tcp + TCP_HEADER_LEN) {
        return None;
    }
    if packet.u8(tcp + TCP_FLAGS)? & TCP_SYN == 0 {
        return None;
    }
    let end = tcp + (usize::from(packet.u8(tcp + TCP_DATA_OFFSET)? >> 4) << 2);
    if end > ip.end() || !packet.reach(end) {
        return None;
    }
    let mut at = TCP_HEADER_LEN;
    for _ in 0..LOOKS {
        if tcp + at + 4 > end {
            return None;
        }
        let kind = packet.u8(tcp + at)?;
        if kind == END {
            return None;
        }
        if kind == NOTHING {
            at += 1;
            continue;
        }
        let len = usize::from(packet.u8(tcp + at + 1)?);
        if len < 2 {
            return None;
        }
        if kind == MSS && len == 4 {
            return lower(packet, tcp, at + 2, limit);
        }
        at += len;
    }
    None
}

/// Lowers the number `at` bytes behind the beginning of the TCP header.
#[inline(always)]
fn lower<P: Packet + ?Sized>(packet: &mut P, tcp: usize, at: usize, limit: u16) -> Option<()> {
    let high = packet.u8(tcp + at)?;
    let low = packet.u8(tcp + at + 1)?;
    if u16::from_be_bytes([high, low]) <= limit {
        return None;
    }
    let [new_high, new_low] = limit.to_be_bytes();
    // At an odd place its bytes are the second of one word and the first of the next: the same sum, with the bytes swapped.
    let (old, new) = if at & 1 == 0 {
        ([high, low], [new_high, new_low])
    } else {
        ([low, high], [new_low, new_high])
    };
    let words = Delta::default().word(u16::from_ne_bytes(old), u16::from_ne_bytes(new));
    packet.update_transport_checksum(
        tcp + TCP_CHECKSUM,
        Delta::default(),
        words,
        ZeroChecksum::IsASum,
    )?;
    packet.set_u8(tcp + at, new_high)?;
    packet.set_u8(tcp + at + 1, new_low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csum;

    /// A frame with a TCP header of these flags and options, and its right checksums.
    fn frame(flags: u8, options: &[u8]) -> Vec<u8> {
        let header = 20 + options.len();
        let mut frame = vec![0u8; 14];
        frame.extend([0x45, 0, 0, (20 + header) as u8, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0; 20]);
        frame.extend(options);
        frame[34 + 12] = (header as u8 / 4) << 4;
        frame[34 + 13] = flags;
        let sum = sum_of(&frame);
        frame[50..52].copy_from_slice(&sum.to_ne_bytes());
        frame
    }

    fn sum_of(frame: &[u8]) -> u16 {
        let mut all = frame[26..34].to_vec();
        all.extend([0, 6, 0, (frame.len() - 34) as u8]);
        all.extend(&frame[34..]);
        all[12 + 16..12 + 18].fill(0);
        csum::full(&all)
    }

    #[test]
    fn the_option_is_lowered_wherever_it_stands_and_never_raised() {
        let cases: [(&str, u8, &[u8], &[u8]); 9] = [
            ("alone", 2, &[2, 4, 5, 180], &[2, 4, 5, 0]),
            ("in a SYN ACK", 0x12, &[2, 4, 5, 180], &[2, 4, 5, 0]),
            ("low enough", 2, &[2, 4, 4, 200], &[2, 4, 4, 200]),
            ("just right", 2, &[2, 4, 5, 0], &[2, 4, 5, 0]),
            ("no SYN", 0x10, &[2, 4, 5, 180], &[2, 4, 5, 180]),
            (
                "at an odd place",
                2,
                &[1, 2, 4, 0xff, 0xfe, 1, 1, 0],
                &[1, 2, 4, 5, 0, 1, 1, 0],
            ),
            (
                "behind another",
                2,
                &[3, 3, 7, 2, 4, 5, 180, 0],
                &[3, 3, 7, 2, 4, 5, 0, 0],
            ),
            (
                "behind the end",
                2,
                &[0, 0, 0, 0, 2, 4, 5, 180],
                &[0, 0, 0, 0, 2, 4, 5, 180],
            ),
            (
                "of another length",
                2,
                &[2, 3, 9, 1, 1, 1, 1, 1],
                &[2, 3, 9, 1, 1, 1, 1, 1],
            ),
        ];
        for (name, flags, options, expected) in cases {
            let mut frame = frame(flags, options);
            clamp(frame.as_mut_slice(), 1280);
            assert_eq!(&frame[54..], expected, "{name}");
            assert_eq!(
                u16::from_ne_bytes([frame[50], frame[51]]),
                sum_of(&frame),
                "{name}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_options_leave_the_checksum_as_right_as_it_was(
            words in proptest::collection::vec(proptest::prelude::any::<[u8; 4]>(), 0..10),
            limit in 536u16..2000,
        ) {
            let mut frame = frame(2, &words.concat());
            clamp(frame.as_mut_slice(), limit);
            let found = u16::from_ne_bytes([frame[50], frame[51]]);
            let right = sum_of(&frame);
            proptest::prop_assert!(found == right || found ^ right == 0xffff);
        }
    }
}
