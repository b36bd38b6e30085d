//! The settings under `options:`.

use std::net::Ipv4Addr;

use super::{Found, Owner, Reader, Slot};
use crate::config::diagnostic::At;
use crate::config::scalar::{Addresses, Number, Value};
use crate::config::schema::{Filtering, Options, Timeouts};

pub(in crate::config) const OPTION_KEYS: [&str; 7] = [
    "sessions",
    "sessions_per_host",
    "half_open_per_host",
    "timeouts",
    "filtering",
    "masquerade_pool",
    "mss",
];
pub(in crate::config) const TIMEOUT_KEYS: [&str; 5] =
    ["udp", "icmp", "tcp_established", "tcp_transitory", "other"];

type Sessions = Number<1_024, 4_194_304>;
type PerHost = Number<1, 4_194_304>;
/// Up to a week.
type Seconds = Number<1, 604_800>;
type Mss = Number<536, 65_495>;

impl Reader<'_> {
    /// A setting that is wrong is read as its default: nobody sees it, since the file is refused.
    pub(super) fn options(&mut self, slot: Slot<'_>) {
        let Some(node) = slot.value() else { return };
        let Some(
            [
                sessions,
                per_host,
                half_open,
                timeouts,
                filtering,
                pool,
                mss,
            ],
        ) = self.keys(Owner::Under("options"), node, OPTION_KEYS)
        else {
            return;
        };
        let default = match self.setting::<Sessions>(sessions) {
            Some(sessions) => Options::of_sessions(sessions.value.0),
            None => Options::default(),
        };
        let per_host = self.setting::<PerHost>(per_host);
        let half_open = self.setting::<PerHost>(half_open);
        let timeouts = self.timeouts(timeouts);
        let filtering = self.setting::<Filtering>(filtering);
        let masquerade_pool = self.pool(pool);
        let mss = self.setting::<Mss>(mss);
        self.config.options = Options {
            sessions: default.sessions,
            sessions_per_host: per_host.map_or(default.sessions_per_host, |most| most.value.0),
            half_open_per_host: half_open.map_or(default.half_open_per_host, |most| most.value.0),
            timeouts,
            filtering: filtering.map_or(default.filtering, |filtering| filtering.value),
            masquerade_pool,
            mss: mss.and_then(|mss| mss.value.0.try_into().ok()),
        };
    }

    fn timeouts(&mut self, slot: Slot<'_>) -> Timeouts {
        let default = Timeouts::default();
        let Some(node) = slot.value() else {
            return default;
        };
        let Some([udp, icmp, established, transitory, other]) =
            self.keys(Owner::Under("options.timeouts"), node, TIMEOUT_KEYS)
        else {
            return default;
        };
        // Less than these is a choice that an operator may make, but has to know of.
        let tcp = "RFC 5382 REQ-5";
        Timeouts {
            udp: self.timeout(udp, default.udp, 120, "RFC 4787 REQ-5"),
            icmp: self.timeout(icmp, default.icmp, 60, "RFC 5508 REQ-2"),
            tcp_established: self.timeout(established, default.tcp_established, 7_440, tcp),
            tcp_transitory: self.timeout(transitory, default.tcp_transitory, 240, tcp),
            other: self
                .setting::<Seconds>(other)
                .map_or(default.other, |seconds| seconds.value.0),
        }
    }

    fn timeout(&mut self, slot: Slot<'_>, default: u32, least: u32, standard: &'static str) -> u32 {
        let Some(Found { value, at }) = self.setting::<Seconds>(slot) else {
            return default;
        };
        let Number(value) = value;
        self.rules.timeout(Found { value, at }, least, standard);
        value
    }

    fn pool(&mut self, slot: Slot<'_>) -> Vec<Ipv4Addr> {
        let items = self.items(slot);
        let mut pool = Vec::new();
        for (index, item) in (0..).zip(items.into_iter().flatten()) {
            let (owner, key) = (Owner::Entry("options.masquerade_pool", index), "");
            let span = item.span();
            let at = At { owner, key, span };
            let Ok(range) = self.scalar::<Addresses>(at, item) else {
                continue;
            };
            for value in range.value.each() {
                if self.rules.pool(&mut self.errors, Found { value, at }) {
                    pool.push(value);
                }
            }
        }
        pool
    }

    /// The value if it is there and right.
    fn setting<V: Value>(&mut self, slot: Slot<'_>) -> Option<Found<V>> {
        self.optional(slot).ok().flatten()
    }
}
