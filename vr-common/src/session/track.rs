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

/// Whether a session has ended: nothing was heard for too long, or its rule is gone.
#[inline(always)]
#[must_use]
pub const fn is_over(session: &Session, settings: &Settings, now: Ticks) -> bool {
    // Signed: another CPU may have seen a packet in a tick that has not come here yet.
    now.wrapping_sub(session.last_seen) as i32 > timeout(session, settings) as i32
        || session.ended == session.serial
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::record::Sort;
    use Direction::{Back, Forth};

    type Story<'a> = (&'a str, &'a [(Direction, u8)], [bool; 4]);

    const SYN_ACK: u8 = TCP_SYN | TCP_ACK;
    const FIN_ACK: u8 = TCP_FIN | TCP_ACK;

    fn session(sort: Sort) -> Session {
        let mut session = Session {
            serial: 7,
            shown: [Session::SPOKE, 0],
            sort: sort as u8,
            ..Session::EMPTY
        };
        session.flow.protocol = TCP;
        session
    }

    /// The session after packets, of which the first has begun it.
    fn after(sort: Sort, packets: &[(Direction, u8)]) -> Session {
        let mut session = session(sort);
        for (direction, flags) in packets {
            session.shown = shown_after(&session, *direction, *flags);
        }
        session
    }

    #[test]
    fn a_connection_is_told_by_its_packets() {
        let handshake = [(Forth, TCP_SYN), (Back, SYN_ACK), (Forth, TCP_ACK)];
        let both_fins = [(Forth, FIN_ACK), (Back, FIN_ACK)];
        // Whether it is established, closing, and assured if it was begun from inside, or from outside.
        let stories: [Story<'_>; 14] = [
            ("a SYN", &handshake[..1], [false, false, false, false]),
            ("its answer", &handshake[..2], [false, false, true, false]),
            ("a handshake", &handshake, [true, false, true, true]),
            (
                "a refusal",
                &[(Forth, TCP_SYN), (Back, TCP_RST)],
                [false, true, false, false],
            ),
            (
                "a SYN twice",
                &[(Forth, TCP_SYN), (Forth, TCP_SYN)],
                [false; 4],
            ),
            (
                "one FIN",
                &[&handshake[..], &both_fins[..1]].concat(),
                [true, false, true, true],
            ),
            (
                "both FINs",
                &[&handshake[..], &both_fins].concat(),
                [false, true, true, true],
            ),
            (
                "the last ACK",
                &[&handshake[..], &both_fins, &[(Forth, TCP_ACK)]].concat(),
                [false, true, true, true],
            ),
            (
                "a reset",
                &[&handshake[..], &[(Back, TCP_RST)]].concat(),
                [false, true, true, true],
            ),
            (
                "a forged reset: the other side goes on",
                &[&handshake[..], &[(Back, TCP_RST), (Forth, TCP_ACK)]].concat(),
                [true, false, true, true],
            ),
            (
                "a forged reset: the same side goes on",
                &[&handshake[..], &[(Back, TCP_RST), (Back, TCP_ACK)]].concat(),
                [true, false, true, true],
            ),
            (
                "a reset of what both have ended",
                &[
                    &handshake[..],
                    &both_fins,
                    &[(Back, TCP_RST), (Forth, TCP_ACK)],
                ]
                .concat(),
                [false, true, true, true],
            ),
            (
                "the same ports again",
                &[&handshake[..], &both_fins, &handshake[..1]].concat(),
                [false, false, true, true],
            ),
            (
                "and a whole handshake by them",
                &[&handshake[..], &both_fins, &handshake].concat(),
                [true, false, true, true],
            ),
        ];
        for (name, packets, [established, closing, by_inside, by_outside]) in stories {
            for (sort, assured) in [(Sort::Masquerade, by_inside), (Sort::Forward, by_outside)] {
                let session = after(sort, packets);
                let shows = (
                    is_established(&session.shown),
                    is_closing(&session.shown),
                    session.is_assured(),
                );
                assert_eq!(shows, (established, closing, assured), "{name}, {sort:?}");
            }
        }
    }

    #[test]
    fn a_syn_in_an_open_connection_changes_nothing() {
        let open = [(Forth, TCP_SYN), (Back, SYN_ACK), (Forth, TCP_ACK)];
        for direction in Direction::ALL {
            let session = after(Sort::Masquerade, &open);
            assert!(is_established(&shown_after(&session, direction, TCP_SYN)));
        }
    }

    #[test]
    fn what_the_loader_ends_is_over_and_what_comes_after_it_is_not() {
        let session = session(Sort::Forward);
        let is_over = |ended| is_over(&Session { ended, ..session }, &Settings::DEFAULT, 0);
        assert!(is_over(session.serial));
        assert!(!is_over(0) && !is_over(session.serial + 1));
    }

    #[test]
    fn silence_is_measured_by_protocol_and_state() {
        let settings = Settings::DEFAULT;
        let open = [(Forth, TCP_SYN), (Back, SYN_ACK), (Forth, TCP_ACK)];
        let of = |protocol| {
            let mut session = after(Sort::Masquerade, &open);
            session.flow.protocol = protocol;
            timeout(&session, &settings)
        };
        assert_eq!(of(TCP), settings.tcp_established);
        assert_eq!(of(UDP), settings.udp);
        assert_eq!(of(ICMP), settings.icmp);
        assert_eq!(of(47), settings.other);
        let mut session = after(Sort::Masquerade, &open[..2]);
        assert_eq!(timeout(&session, &settings), settings.tcp_transitory);
        // Across the moment when the ticks begin again, and as a CPU sees it that is a tick behind.
        session.last_seen = u32::MAX - 1;
        let last = session.last_seen.wrapping_add(settings.tcp_transitory);
        for (now, over) in [
            (last, false),
            (last.wrapping_add(1), true),
            (u32::MAX - 2, false),
        ] {
            assert_eq!(is_over(&session, &settings, now), over, "{now}");
        }
    }

    proptest::proptest! {
        /// XDP may see a packet that it leaves to TC, which sees it again.
        #[test]
        fn the_same_packet_seen_twice_shows_the_same(
            shown: [u8; 2], back: bool, outside: bool, flags: u8,
        ) {
            let known = Session::SPOKE | Session::FIN | Session::RST | Session::ASSURED
                | Session::CONFIRMED;
            let sort = if outside { Sort::Forward } else { Sort::Masquerade };
            let direction = if back { Back } else { Forth };
            // No host sends both, and nothing depends on it.
            let flags = if flags & TCP_SYN != 0 { flags & !TCP_FIN } else { flags };
            let mut session = session(sort);
            session.shown = shown.map(|shown| shown & known);
            let assured = session.is_assured();
            session.shown = shown_after(&session, direction, flags);
            proptest::prop_assert_eq!(shown_after(&session, direction, flags), session.shown);
            proptest::prop_assert!(session.is_assured() || !assured, "assured once and for all");
        }
    }
}
