//! What a session's packets say about it, and how long it lasts.

use super::record::{Session, Settings, Ticks};
use crate::wire::transport::{ICMP, TCP, UDP};

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
    forth & Session::SPOKE != 0
        && back & Session::SPOKE != 0
        && forth & Session::CONFIRMED != 0
        && !is_closing(shown)
}

/// Whether both sides have ended it, or one has broken it off.
#[inline(always)]
#[must_use]
pub const fn is_closing(shown: &[u8; 2]) -> bool {
    let [forth, back] = *shown;
    (forth | back) & Session::RST != 0 || forth & back & Session::FIN != 0
}
