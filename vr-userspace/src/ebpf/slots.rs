//! The array of sessions, in the memory of this process too.
//!
//! The programs write it meanwhile. All but one field is theirs, and what is read of a slot counts only if its serial was the
//! same before and after: whoever gives a slot to another session takes the serial away first and writes the new one last.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapData;
use vr_common::session::record::Session;

/// Bytes of a session.
const SIZE: usize = size_of::<Session>();
/// Where [`Session::ended`] is in it.
const ENDED: usize = std::mem::offset_of!(Session, ended);

/// The slots of a table of sessions.
#[derive(Debug)]
pub struct Slots {
    start: NonNull<u8>,
    count: u32,
    bytes: usize,
}

impl Slots {
    /// Those in a map.
    ///
    /// # Errors
    /// If it has another shape, or the kernel refuses.
    pub fn of(data: &MapData) -> Result<Self> {
        let info = data.info()?;
        if info.value_size() as usize != SIZE {
            bail!("the map has not the shape that this version expects");
        }
        let count = info.max_entries();
        // The kernel's array ends with a page.
        let bytes = (count as usize * SIZE).next_multiple_of(4096);
        let fd = data.fd().as_fd().as_raw_fd();
        // SAFETY: a new mapping, of as many bytes as the map has.
        let start = unsafe {
            libc::mmap(
                null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self {
                start: start.cast(),
                count,
                bytes,
            }),
            _ => Err(io::Error::last_os_error()).context("cannot have a BPF map in memory"),
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// What a slot holds; `None` if nothing, or if that changes right now.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<Session> {
        let at = |word: usize, order| {
            let place = self.place(slot, word * 8)?.cast::<AtomicU64>();
            // SAFETY: within the mapping, which lasts as long as `self`, and aligned, as the map is to a page; others write it, but
            // only whole words.
            Some(unsafe { place.as_ref() }.load(order))
        };
        let mut words = [0; SIZE / 8];
        for (number, word) in words.iter_mut().enumerate() {
            *word = at(number, Ordering::Acquire)?;
        }
        let session = Session::from_words(words);
        fence(Ordering::Acquire);
        let again = Session::from_words([at(0, Ordering::Relaxed)?, 0, 0, 0, 0, 0, 0, 0]).serial;
        (session.serial != 0 && session.serial == again).then_some(session)
    }

    /// Ends the session of this serial, if the slot has it still.
    pub fn end(&self, slot: u32, serial: u32) {
        if let Some(place) = self.place(slot, ENDED) {
            // SAFETY: as in `get`. Nobody else writes this field.
            unsafe { place.cast::<AtomicU32>().as_ref() }.store(serial, Ordering::Release);
        }
    }

    fn place(&self, slot: u32, offset: usize) -> Option<NonNull<u8>> {
        // SAFETY: a slot that there is, and an offset in it.
        (slot < self.count && offset < SIZE)
            .then(|| unsafe { self.start.add(slot as usize * SIZE + offset) })
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` has made, to which nothing leads any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
