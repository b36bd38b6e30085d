//! A socket buffer as unpleasant as the kernel's can be.

use vr_common::{
    csum::Delta,
    packet::{Packet, ZeroChecksum},
};

/// A packet of which only the first bytes can be reached before somebody asks for more.
#[derive(Clone, Debug)]
pub struct Buffer {
    pub bytes: Vec<u8>,
    /// What lies beyond is in pages.
    pub linear: usize,
    /// The kernel has no memory to copy a shared packet.
    pub starved: bool,
}

impl Buffer {
    pub fn whole(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            linear: bytes.len(),
            starved: false,
        }
    }
    fn reachable(&self) -> &[u8] {
        &self.bytes[..self.linear]
    }
    fn reachable_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.linear]
    }
}

impl Packet for Buffer {
    fn len(&self) -> usize {
        self.bytes.len()
    }
    fn reach(&mut self, until: usize) -> bool {
        if until > self.bytes.len() {
            return false;
        }
        self.linear = self.linear.max(until);
        true
    }
    fn u8(&self, at: usize) -> Option<u8> {
        self.reachable().u8(at)
    }
    fn u16(&self, at: usize) -> Option<u16> {
        self.reachable().u16(at)
    }
    fn u32(&self, at: usize) -> Option<u32> {
        self.reachable().u32(at)
    }
    fn set_u8(&mut self, at: usize, value: u8) -> Option<()> {
        self.reachable_mut().set_u8(at, value)
    }
    fn set_u16(&mut self, at: usize, value: u16) -> Option<()> {
        self.reachable_mut().set_u16(at, value)
    }
    fn set_u32(&mut self, at: usize, value: u32) -> Option<()> {
        self.reachable_mut().set_u32(at, value)
    }
    /// The kernel's helper reaches everything.
    fn update_transport_checksum(
        &mut self,
        at: usize,
        addresses: Delta,
        words: Delta,
        zero: ZeroChecksum,
    ) -> Option<()> {
        if self.starved {
            return None;
        }
        self.bytes
            .as_mut_slice()
            .update_transport_checksum(at, addresses, words, zero)
    }
}
