//! Internet checksums, recomputed in full: nothing here updates one incrementally, so it can judge what does.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use crate::view::{ICMP, TCP, UDP, View, ip_packet};

/// The one's complement sum (RFC 1071) of all `parts` as one run of bytes.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for (position, byte) in parts.iter().copied().flatten().enumerate() {
        sum += u64::from(*byte) << if position % 2 == 0 { 8 } else { 0 };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The Internet checksum of all `parts` as one run of bytes.
pub fn internet(parts: &[&[u8]]) -> u16 {
    !sum(parts)
}

/// The pseudo header that TCP and UDP include in their checksum.
pub fn pseudo_header(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    length: usize,
) -> [u8; 12] {
    let mut header = [0; 12];
    header[..4].copy_from_slice(&source.octets());
    header[4..8].copy_from_slice(&destination.octets());
    header[9] = protocol;
    header[10..].copy_from_slice(&(length as u16).to_be_bytes());
    header
}

/// Checks every checksum of an Ethernet frame with IPv4 in it; see [`check_ip`].
pub fn check_checksums(frame: &[u8]) -> Result<()> {
    check_ip(ip_packet(frame)?)
}

/// Checks every checksum of an IPv4 packet: of its header, of its UDP, TCP or ICMP, and within an ICMP error of the
/// header that it quotes and, if the quote is whole, of the UDP, TCP or ICMP in there.
///
/// What cannot be known is not checked: the transport of a fragment, other protocols, a UDP checksum left out.
pub fn check_ip(packet: &[u8]) -> Result<()> {
    let view = View::of_ip(packet).context("cannot be checked")?;
    check_view(&view, packet)?;
    if let Some(quote) = view.quoted_bytes() {
        let quoted = View::of_quote(quote).context("the quote of an ICMP error")?;
        check_view(&quoted, quote).context("the quote of an ICMP error")?;
    }
    Ok(())
}

fn check_view(view: &View<'_>, packet: &[u8]) -> Result<()> {
    let header = &packet[..view.header_length];
    let stored = u16::from_be_bytes([header[10], header[11]]);
    ensure!(
        sum(&[header]) == 0xffff,
        "the IPv4 header has the checksum {stored:#06x} instead of {:#06x}",
        internet(&[&header[..10], &header[12..]])
    );
    let segment = view.segment;
    if view.is_fragment() || view.is_cut {
        return Ok(());
    }
    let (name, at) = match view.protocol {
        UDP => ("UDP", 6),
        TCP => ("TCP", 16),
        ICMP => ("ICMP", 2),
        _ => return Ok(()),
    };
    let least = if view.protocol == TCP { 20 } else { 8 };
    ensure!(
        segment.len() >= least,
        "{name} is only {} bytes long",
        segment.len()
    );
    if view.protocol == UDP {
        let length = usize::from(u16::from_be_bytes([segment[4], segment[5]]));
        ensure!(
            length == segment.len(),
            "UDP says it is {length} bytes long, but it is {}",
            segment.len()
        );
    }
    let stored = u16::from_be_bytes([segment[at], segment[at + 1]]);
    if view.protocol == UDP && stored == 0 {
        return Ok(());
    }
    let pseudo = pseudo_header(view.source, view.destination, view.protocol, segment.len());
    let pseudo: &[u8] = if view.protocol == ICMP { &[] } else { &pseudo };
    ensure!(
        sum(&[pseudo, segment]) == 0xffff,
        "{name} has the checksum {stored:#06x} instead of {:#06x}",
        internet(&[pseudo, &segment[..at], &[0, 0], &segment[at + 2..]])
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(
            sum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]),
            0xddf2
        );
        assert_eq!(
            sum(&[&[0x00, 0x01, 0xf2], &[0x03, 0xf4, 0xf5, 0xf6, 0xf7]]),
            0xddf2,
            "parts join bytewise"
        );
        assert_eq!(internet(&[&[0x12]]), !0x1200, "an odd byte is the high one");
    }
}
