//! Frames to measure with: what is the same in all, and what each flow has of its own.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use vr_tests::link::Mac;
use vr_tests::packet::Packet;

/// The program's `frame::Header`, in words of the frame's bytes.
pub type Header = [u32; 11];
/// An element of its `FLOWS`.
pub type FlowWords = [u32; 4];

/// Source and destination of a UDP flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who sends.
    pub source: SocketAddrV4,
    /// To whom.
    pub destination: SocketAddrV4,
}

/// Equal frames of one or more flows.
#[derive(Clone, Debug)]
pub struct Frames {
    /// Who sends them, and to whom, on the link.
    pub macs: (Mac, Mac),
    /// Bytes of a frame, its check sequence not counted.
    pub length: usize,
    /// The flows, in turn.
    pub flows: Vec<Flow>,
}

/// Ethernet, IPv4 and UDP.
const HEADERS: usize = 14 + 20 + 8;

impl Frames {
    /// A frame of the first flow.
    pub fn first(&self) -> Result<Vec<u8>> {
        ensure!(!self.flows.is_empty(), "frames of no flow");
        ensure!(
            self.length >= size_of::<Header>(),
            "frames of {} bytes are too short",
            self.length
        );
        let Flow {
            source,
            destination,
        } = self.flows[0];
        let frame = Packet::udp(source, destination).ethernet(self.macs.0, self.macs.1);
        Ok(frame.payload(vec![0; self.length - HEADERS]).build())
    }

    /// What is the same in all of them.
    pub fn header(&self) -> Result<Header> {
        let frame = self.first()?;
        let mut words = [0; 11];
        for (word, bytes) in words.iter_mut().zip(frame.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Ok(words)
    }

    /// What each flow has of its own.
    pub fn words(&self) -> Result<Vec<FlowWords>> {
        let header = self.first()?;
        // The sums of everything but addresses and ports.
        let own = |at: usize| (12..20).contains(&at);
        let ip = sum(&header[14..34], |at| !own(at) && at != 10);
        let segment = (self.length - 34) as u32;
        let udp = 17 + 2 * segment;
        Ok(self.flows.iter().map(|flow| words(flow, ip, udp)).collect())
    }
}

fn words(flow: &Flow, ip: u32, udp: u32) -> FlowWords {
    let addresses = [flow.source.ip().octets(), flow.destination.ip().octets()].concat();
    let ports = [
        flow.source.port().to_be_bytes(),
        flow.destination.port().to_be_bytes(),
    ]
    .concat();
    let addresses_sum = sum(&addresses, |_| true);
    let ip = folded(ip + addresses_sum);
    // Zero would mean that there is no checksum.
    let udp = match folded(udp + addresses_sum + sum(&ports, |_| true)) {
        0 => 0xffff,
        checksum => checksum,
    };
    let [a, b] = ip.to_be_bytes();
    let [c, d] = udp.to_be_bytes();
    [
        word(&addresses[..4]),
        word(&addresses[4..]),
        word(&ports),
        word(&[a, b, c, d]),
    ]
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn sum(bytes: &[u8], counts: impl Fn(usize) -> bool) -> u32 {
    let words = bytes.chunks_exact(2).enumerate();
    let words = words.filter(|(number, _)| counts(2 * number));
    words
        .map(|(_, pair)| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vr_tests::packet::check_checksums;

    /// The frame of a flow as the program makes it: the template with the flow's own words written over it.
    fn frame_of(frames: &Frames, number: usize) -> Vec<u8> {
        let mut frame = frames.first().unwrap();
        let [source, destination, ports, checksums] = frames.words().unwrap()[number];
        frame[26..30].copy_from_slice(&source.to_ne_bytes());
        frame[30..34].copy_from_slice(&destination.to_ne_bytes());
        frame[34..38].copy_from_slice(&ports.to_ne_bytes());
        frame[24..26].copy_from_slice(&checksums.to_ne_bytes()[..2]);
        frame[40..42].copy_from_slice(&checksums.to_ne_bytes()[2..]);
        frame
    }

    #[test]
    fn frames_of_all_flows_are_right() {
        let flows = [
            ("1.2.3.4:5", "6.7.8.9:10"),
            ("255.255.255.255:65535", "255.254.253.252:65535"),
            ("0.0.0.1:0", "0.0.0.0:0"),
        ];
        let flows = flows.map(|(source, destination)| Flow {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        });
        for length in [60, 61, 1400] {
            let macs = (Mac([2; 6]), Mac([4; 6]));
            let frames = Frames {
                macs,
                length,
                flows: flows.to_vec(),
            };
            for (number, flow) in flows.iter().enumerate() {
                let expected = Packet::udp(flow.source, flow.destination)
                    .ethernet(macs.0, macs.1)
                    .payload(vec![0; length - HEADERS])
                    .build();
                assert_eq!(
                    frame_of(&frames, number),
                    expected,
                    "{flow:?}, {length} bytes"
                );
                check_checksums(&expected).unwrap();
            }
        }
    }

    #[test]
    fn a_frame_has_room_for_its_headers() {
        let macs = (Mac([2; 6]), Mac([4; 6]));
        let flow = Flow {
            source: "1.2.3.4:5".parse().unwrap(),
            destination: "6.7.8.9:10".parse().unwrap(),
        };
        assert!(
            Frames {
                macs,
                length: 42,
                flows: vec![flow]
            }
            .header()
            .is_err()
        );
        assert!(
            Frames {
                macs,
                length: 60,
                flows: vec![]
            }
            .header()
            .is_err()
        );
    }
}
