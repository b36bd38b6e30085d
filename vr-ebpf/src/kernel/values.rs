//! Values of maps, which other CPUs read and write at the same time.

use core::intrinsics::AtomicOrdering;

use vr_common::{
    layout::Counter,
    session::record::{Direction, Host, Mapping, Session, Ticks},
    wire::{Addr, Be16},
};

/// A map value, copied out, if it is still the one that was looked for (see `AddressEntry::address`).
#[inline(always)]
pub fn copy<T: Copy>(value: *const T, is_it: impl FnOnce(&T) -> bool) -> Option<T> {
    // SAFETY: the pointer comes from a look-up that found something; the kernel keeps the memory until this
    // program run ends. Another CPU may write it meanwhile, which `is_it` finds out: hence volatile.
    let value = unsafe { value.read_volatile() };
    is_it(&value).then_some(value)
}

/// Writes words into this CPU's own copy of a map's value.
#[inline(always)]
pub fn leave<T: Copy, const N: usize>(place: *mut [T; N], words: [T; N]) {
    let first = place.cast::<T>();
    for (index, word) in words.into_iter().enumerate() {
        // SAFETY: the value has so many words, and only the program that runs uses them.
        unsafe { first.add(index).write_volatile(word) }
    }
}

/// The words that [`leave`] has left.
#[inline(always)]
pub fn left<T: Copy, const N: usize>(place: *const [T; N]) -> [T; N] {
    let first = place.cast::<T>();
    // SAFETY: as for `leave`.
    core::array::from_fn(|index| unsafe { first.add(index).read_volatile() })
}

/// [`leave`], and reads them back: neither compiler nor verifier knows them then.
#[inline(always)]
pub fn through<T: Copy, const N: usize>(place: *mut [T; N], words: [T; N]) -> [T; N] {
    leave(place, words);
    left(place)
}

/// Two words mixed into one, whose topmost bits choose among elements. (A product's low bits know only the low bits of what was
/// multiplied, and neighbouring addresses differ in the highest of their words.)
#[inline(always)]
pub const fn mixed(a: u32, b: u32) -> u32 {
    const ODD: u32 = 0x9e37_79b1;
    let mixed = a.wrapping_mul(ODD).rotate_left(15) ^ b;
    (mixed ^ mixed >> 16).wrapping_mul(ODD)
}

/// A map value's words, each read once and whole.
#[inline(always)]
pub fn words<T, const N: usize>(value: *const T) -> [u64; N] {
    const { assert!(size_of::<T>() == 8 * N && align_of::<T>() == 8) };
    let words = value.cast::<u64>();
    // SAFETY: as for `copy`; the type is as long as so many words, and aligned like them.
    core::array::from_fn(|index| unsafe { words.add(index).read_volatile() })
}

/// A word of a slot, of 32 bits.
#[inline(always)]
pub fn word(slot: *const Session, word: usize) -> u32 {
    debug_assert!(word < size_of::<Session>() / 4);
    // SAFETY: as for `copy`; there are so many words.
    unsafe { slot.cast::<u32>().add(word).read_volatile() }
}

/// The session in a slot, if it is the one with this serial. Whoever gives the slot to another session takes the serial away
/// before anything else, and writes the new one after everything else.
#[inline(always)]
pub fn copy_session(slot: *const Session, serial: u32) -> Option<Session> {
    // SAFETY: an element of an array, which stays; others may write it meanwhile, hence volatile and twice.
    unsafe {
        if (&raw const (*slot).serial).read_volatile() != serial {
            return None;
        }
        let session = Session::from_words(words(slot));
        ((&raw const (*slot).serial).read_volatile() == serial).then_some(session)
    }
}

/// Writes a slot that nobody else writes, but for `ended`, which is the loader's.
#[inline(always)]
pub fn fill_session(slot: *mut Session, session: &Session) {
    // SAFETY: as for `copy_session`.
    unsafe {
        (&raw mut (*slot).serial).write_volatile(0);
        (&raw mut (*slot).last_seen).write_volatile(session.last_seen);
        (&raw mut (*slot).flow).write_volatile(session.flow);
        (&raw mut (*slot).translated).write_volatile(session.translated);
        (&raw mut (*slot).shown).write_volatile(session.shown);
        (&raw mut (*slot).sort).write_volatile(session.sort);
        (&raw mut (*slot).flags).write_volatile(session.flags);
        (&raw mut (*slot).rule).write_volatile(session.rule);
        (&raw mut (*slot).mapping).write_volatile(session.mapping);
        (&raw mut (*slot).created).write_volatile(session.created);
        (&raw mut (*slot).serial).write_volatile(session.serial);
    }
}

/// Writes the source that the session of a slot that nobody else writes is to leave with.
#[inline(always)]
pub fn set_source(slot: *mut Session, source: Addr, port: Be16, mapping: u32) {
    // SAFETY: as for `copy_session`.
    unsafe {
        (&raw mut (*slot).translated.source).write_volatile(source);
        (&raw mut (*slot).translated.source_port).write_volatile(port);
        (&raw mut (*slot).mapping).write_volatile(mapping);
        let flags = if mapping != 0 { Session::MAPPED } else { 0 };
        (&raw mut (*slot).flags).write_volatile(flags);
    }
}

/// Takes a slot's serial away.
#[inline(always)]
pub fn clear_session(slot: *mut Session) {
    // SAFETY: as for `copy_session`.
    unsafe { (&raw mut (*slot).serial).write_volatile(0) }
}

/// Writes when a session was seen. Should the slot have gone to another one, that was seen just now too.
#[inline(always)]
pub fn see_session(slot: *mut Session, now: Ticks) {
    // SAFETY: as for `copy_session`.
    unsafe { (&raw mut (*slot).last_seen).write_volatile(now) }
}

/// Writes what a direction has shown.
#[inline(always)]
pub fn show_session(slot: *mut Session, direction: Direction, shown: u8) {
    // SAFETY: as for `copy_session`.
    unsafe {
        match direction {
            Direction::Forth => (&raw mut (*slot).shown[0]).write_volatile(shown),
            Direction::Back => (&raw mut (*slot).shown[1]).write_volatile(shown),
        }
    }
}

/// Adds, whatever other CPUs do. (The result would take an instruction that 5.10 does not have.)
#[inline(always)]
pub fn add(number: *mut i32, by: i32) {
    // The compiler makes an atomic `or` of an addition of nothing, which 5.10 does not have either.
    if by == 0 {
        return;
    }
    // SAFETY: the pointer is into a map's value, aligned to four bytes.
    unsafe {
        core::intrinsics::atomic_xadd::<i32, i32, { AtomicOrdering::Relaxed }>(number, by);
    }
}

/// Adds to the sessions that hold a mapping.
#[inline(always)]
pub fn hold_mapping(mapping: *mut Mapping, by: i32) {
    // SAFETY: the address of a field of a map's value.
    add(unsafe { &raw mut (*mapping).sessions }, by);
}

/// Lets a mapping last longer.
#[inline(always)]
pub fn extend_mapping(mapping: *mut Mapping, expires: Ticks) {
    // SAFETY: as for `copy_session`. Two CPUs may both find it too short; their moments are within a tick of each other.
    unsafe {
        let place = &raw mut (*mapping).expires;
        if expires.wrapping_sub(place.read_volatile()) as i32 > 0 {
            place.write_volatile(expires);
        }
    }
}

/// Adds to what a host holds.
#[inline(always)]
pub fn count_host(host: *mut Host, by: Host) {
    // SAFETY: addresses of fields of a map's value.
    unsafe {
        add(&raw mut (*host).all, by.all);
        add(&raw mut (*host).counted, by.counted);
        add(&raw mut (*host).half_open, by.half_open);
    }
}

/// One more packet of `bytes` bytes.
#[inline(always)]
pub fn count(counter: *mut Counter, bytes: u64) {
    // SAFETY: the pointer is into this CPU's own copy, and a program is not preempted by another run of
    // itself on the same CPU and hook.
    unsafe {
        (*counter).packets += 1;
        (*counter).bytes += bytes;
    }
}
