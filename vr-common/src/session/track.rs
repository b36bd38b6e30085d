//! What a session's packets say about it, and how long it lasts.
//!
//! RFC 5382 §5 asks for a long silence on an established connection and a shorter one on one that is opening or closing;
//! RFC 7857 §2 tells how a RST or two FINs close it. A RST is not believed at once: whoever guesses the ports could
//! send one. It shortens the time that is left, and the next packet of either side takes that back.

use super::{
    record::{Direction, Place, Session, Settings, Ticks},
    store::Store,
};
use crate::wire::transport::{ICMP, TCP, UDP};

/// FIN, in the flags byte of a TCP header.
pub const TCP_FIN: u8 = 0x01;
/// SYN.
pub const TCP_SYN: u8 = 0x02;
/// RST.
pub const TCP_RST: u8 = 0x04;
/// ACK.
pub const TCP_ACK: u8 = 0x10;

/// How long a session lasts without a packet.
#[inline(always)]
#[must_use]
pub const fn timeout(session: &Session, settings: &Settings) -> Ticks {
    match session.flow.protocol {
        TCP if is_established(&session.shown) => settings.tcp_established,
        TCP => settings.tcp_transitory,
        UDP => settings.udp,
        ICMP => settings.icmp,
        _ => settings.other,
    }
}

/// Whether a TCP session has been opened by both sides and not been closed.
#[inline(always)]
#[must_use]
pub const fn is_established(shown: &[u8; 2]) -> bool {
    let [forth, back] = *shown;
    forth & Session::CONFIRMED != 0 && !is_closing(shown) && back & Session::SPOKE != 0
}

/// Whether both sides have ended it, or one has broken it off.
#[inline(always)]
#[must_use]
pub const fn is_closing(shown: &[u8; 2]) -> bool {
    let [forth, back] = *shown;
    (forth | back) & Session::RST != 0 || is_finished(shown)
}

/// Whether both sides have ended it.
#[inline(always)]
#[must_use]
pub const fn is_finished(shown: &[u8; 2]) -> bool {
    let [forth, back] = *shown;
    forth & back & Session::FIN != 0
}

/// Whether a session has ended: nothing was heard for too long.
#[inline(always)]
#[must_use]
pub const fn is_over(session: &Session, settings: &Settings, now: Ticks) -> bool {
    // Signed: another CPU may have seen a packet in a tick that has not come here yet.
    now.wrapping_sub(session.last_seen) as i32 > timeout(session, settings) as i32
}

/// What the two directions have shown after one more packet of `direction`.
#[inline(always)]
#[must_use]
pub const fn shown_after(session: &Session, direction: Direction, tcp_flags: u8) -> [u8; 2] {
    let outside = session.outside() as usize == direction as usize;
    let (mut mine, mut other) = match direction {
        Direction::Forth => (session.shown[0], session.shown[1]),
        Direction::Back => (session.shown[1], session.shown[0]),
    };
    if tcp_flags & TCP_RST != 0 {
        mine |= Session::RST;
    } else {
        if tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN && is_closing(&session.shown) {
            // The ports are used again (RFC 1122 §4.2.2.13): the session begins anew.
            mine &= Session::ASSURED;
            other &= Session::ASSURED;
        }
        mine = (mine | Session::SPOKE) & !Session::RST;
        other &= !Session::RST;
        if tcp_flags & TCP_FIN != 0 {
            mine |= Session::FIN;
        }
        if other & Session::SPOKE != 0 {
            if outside {
                mine |= Session::ASSURED;
            }
            if matches!(direction, Direction::Forth) {
                mine |= Session::CONFIRMED;
            }
        }
    }
    match direction {
        Direction::Forth => [mine, other],
        Direction::Back => [other, mine],
    }
}

/// Notes one more packet of the direction of `place`. Writes only what changes: a store for each packet would have the CPUs
/// fight for the cache line.
#[inline(always)]
pub fn track<S: Store + ?Sized>(
    store: &S,
    settings: &Settings,
    place: Place,
    session: &Session,
    tcp_flags: u8,
) {
    let (slot, now) = (place.slot(), store.now());
    let shown = shown_after(session, place.direction(), tcp_flags);
    if shown == session.shown && session.last_seen == now {
        return;
    }
    if shown[0] != session.shown[0] {
        store.show(slot, Direction::Forth, shown[0]);
    }
    if shown[1] != session.shown[1] {
        store.show(slot, Direction::Back, shown[1]);
    }
    if (shown[0] | shown[1]) & !(session.shown[0] | session.shown[1]) & Session::ASSURED != 0 {
        store.count_host(session.inside_host(), session.assured());
    }
    store.see(slot, now);
    if session.flags & Session::MAPPED != 0 {
        let session = Session { shown, ..*session };
        store.extend_mapping(
            &session.mapped_endpoint(),
            now.wrapping_add(timeout(&session, settings)),
        );
    }
}
