//! What a translation must not change, worked out from the bytes alone.
//!
//! A checksum and what it covers add up to the same before and after, right or wrong: a router that makes a wrong checksum
//! right hides the damage from the receiver. This holds for the part of a packet that is there, too.

use std::collections::BTreeSet;

use vr_tests::checksum::{pseudo_header, sum};

/// Sums modulo 0xffff, each with what it is of.
pub type Residues = Vec<(&'static str, u16)>;

/// Where the parts of a frame are that a translation may change, and the sums that it may not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub changeable: BTreeSet<usize>,
    pub residues: Residues,
}

/// The parts of an Ethernet frame with IPv4 in it.
pub fn parts(frame: &[u8]) -> Parts {
    let mut parts = Parts::default();
    parts.changeable.extend(0..12);
    parts.changeable.insert(14 + 8);
    packet(frame, 14, frame.len(), false, &mut parts);
    parts
}

fn packet(frame: &[u8], at: usize, limit: usize, quoted: bool, parts: &mut Parts) {
    let Some(header) = frame.get(at..at + 20).filter(|_| at + 20 <= limit) else {
        return;
    };
    let header_len = usize::from(header[0] & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let offset = usize::from(fragment & 0x1fff) * 8;
    let protocol = header[9];
    let (start, end) = (at + header_len, (at + total).min(limit));
    // A quote's end is where the message ends: routers shorten the quote and not its length field.
    let end = if quoted { limit } else { end };
    parts.changeable.extend(at + 10..at + 20);
    if let Some(whole) = frame.get(at..start).filter(|_| start <= limit && !quoted) {
        parts.residues.push(("IPv4 header", modulo(sum(&[whole]))));
    } else {
        parts
            .residues
            .push(("quoted IPv4 header", modulo(sum(&[header]))));
    }
    let segment = frame.get(start..end.max(start)).unwrap_or_default();
    // What tells flows apart may change where all of it is there.
    if offset == 0 && segment.len() >= 8 {
        match (protocol, segment[0]) {
            (6 | 17, _) => parts.changeable.extend(start..start + 4),
            (1, 0 | 8 | 13 | 14) => parts.changeable.extend(start + 2..start + 6),
            _ => {}
        }
    }
    if protocol == 1 && offset == 0 {
        let what = if quoted { "quoted ICMP" } else { "ICMP" };
        parts.residues.push((what, modulo(sum(&[segment]))));
        if quoted {
            return;
        }
        if segment.len() >= 8 && matches!(segment[0], 3 | 4 | 5 | 11 | 12) {
            parts.changeable.extend(start + 2..start + 4);
            packet(frame, start + 8, end, true, parts);
        }
        return;
    }
    let in_header = match protocol {
        6 => 16,
        17 | 33 | 136 => 6,
        _ => return,
    };
    if offset > in_header || segment.len() < in_header - offset + 2 {
        return;
    }
    let field = in_header - offset;
    if protocol == 17 && segment[field..field + 2] == [0, 0] {
        return;
    }
    parts.changeable.extend(start + field..start + field + 2);
    let [source, destination] = [12, 16].map(|at| {
        let octets: [u8; 4] = header[at..at + 4].try_into().expect("four bytes");
        octets.into()
    });
    let pseudo = pseudo_header(
        source,
        destination,
        protocol,
        total.wrapping_sub(header_len),
    );
    let what = if quoted {
        "quoted transport"
    } else {
        "transport"
    };
    parts
        .residues
        .push((what, modulo(sum(&[&pseudo, segment]))));
}

/// 0 and 0xffff are the same sum.
const fn modulo(sum: u16) -> u16 {
    sum % 0xffff
}
