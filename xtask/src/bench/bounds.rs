//! What the router is held to, as ratios within one run: all bounds of the project in one table.

use serde::Serialize;

/// Which side of the bound is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// No more than it.
    AtMost,
    /// No less than it.
    AtLeast,
}

/// A bound of one ratio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// The ratio's name.
    #[serde(skip)]
    pub ratio: &'static str,
    /// Which side is good.
    pub side: Side,
    /// The bound.
    pub value: f64,
}

use Side::{AtLeast, AtMost};

/// Each ratio that has a bound, by its name.
#[rustfmt::skip]
pub const BOUNDS: &[Bound] = &[
    Bound { ratio: "program/eip-in/floor",             side: AtMost,  value: 1.5 },
    Bound { ratio: "program/eip-out/floor",            side: AtMost,  value: 1.6 },
    Bound { ratio: "program/forward-hit/floor",        side: AtMost,  value: 2.0 },
    Bound { ratio: "program/masquerade-hit/floor",     side: AtMost,  value: 2.0 },
    Bound { ratio: "program/hairpin-hit/floor",        side: AtMost,  value: 2.0 },
    Bound { ratio: "program/new-session/floor",        side: AtMost,  value: 6.0 },
    Bound { ratio: "rate/xdp/redirect",                side: AtLeast, value: 0.85 },
    Bound { ratio: "rate/xdp/iptables-nft",            side: AtLeast, value: 3.0 },
    Bound { ratio: "rate/100000-flows/1-flow",         side: AtLeast, value: 0.8 },
    Bound { ratio: "rate/masquerade/redirect",         side: AtLeast, value: 0.75 },
    Bound { ratio: "rate/tc/plain",                    side: AtLeast, value: 1.0 },
    Bound { ratio: "connections/udp/netfilter",        side: AtLeast, value: 3.0 },
    Bound { ratio: "connections/tcp/iptables",         side: AtLeast, value: 1.1 },
    Bound { ratio: "tcp/1/iptables",                   side: AtLeast, value: 1.0 },
    Bound { ratio: "tcp/8/iptables",                   side: AtLeast, value: 1.0 },
    Bound { ratio: "tcp/1/plain",                      side: AtLeast, value: 0.97 },
    Bound { ratio: "tcp/8/plain",                      side: AtLeast, value: 0.97 },
    Bound { ratio: "latency/idle/p99",                 side: AtMost,  value: 1.0 },
    Bound { ratio: "latency/load/p99",                 side: AtMost,  value: 1.0 },
    Bound { ratio: "scale/program/eip-100000",         side: AtMost,  value: 1.1 },
    Bound { ratio: "scale/program/forward-100000",     side: AtMost,  value: 1.1 },
    Bound { ratio: "memory/session/conntrack",         side: AtMost,  value: 1.0 },
    Bound { ratio: "reload/forwards-100000/seconds",   side: AtMost,  value: 1.0 },
    Bound { ratio: "reload/forwards-100000/iptables",  side: AtLeast, value: 10.0 },
    Bound { ratio: "reload/forwards-100000/change-seconds", side: AtMost, value: 0.05 },
    Bound { ratio: "reload/eips-10000/seconds",        side: AtMost,  value: 1.0 },
    Bound { ratio: "reload/eips-10000/change-seconds", side: AtMost,  value: 0.1 },
    Bound { ratio: "reload/eips-100000/seconds",       side: AtMost,  value: 1.0 },
    Bound { ratio: "reload/eips-100000/own-seconds",   side: AtMost,  value: 1.0 },
    Bound { ratio: "reload/eips-100000/iptables",      side: AtLeast, value: 10.0 },
    Bound { ratio: "reload/eips-100000/change-seconds", side: AtMost, value: 0.05 },
];

impl Bound {
    /// The bound of a ratio, if it has one.
    pub fn of(ratio: &str) -> Option<Self> {
        BOUNDS.iter().find(|bound| bound.ratio == ratio).copied()
    }

    /// Whether a value is on the good side.
    pub fn is_met(&self, value: f64) -> bool {
        match self.side {
            AtMost => value <= self.value,
            AtLeast => value >= self.value,
        }
    }

    /// As people write it: `≤ 1.5`.
    pub fn text(&self) -> String {
        let sign = match self.side {
            AtMost => '≤',
            AtLeast => '≥',
        };
        format!("{sign} {}", self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_has_one_bound() {
        for (at, bound) in BOUNDS.iter().enumerate() {
            let first = BOUNDS.iter().position(|other| other.ratio == bound.ratio);
            assert_eq!(first, Some(at), "{}", bound.ratio);
        }
    }

    #[test]
    fn the_bound_itself_is_met_and_nothing_is_without_a_value() {
        let (most, least) = (
            Bound::of("program/eip-in/floor"),
            Bound::of("rate/xdp/redirect"),
        );
        let (most, least) = (most.unwrap(), least.unwrap());
        assert!(most.is_met(1.5) && !most.is_met(1.51) && !most.is_met(f64::NAN));
        assert!(least.is_met(0.85) && !least.is_met(0.84) && !least.is_met(f64::NAN));
        assert_eq!(
            (most.text(), least.text()),
            ("≤ 1.5".into(), "≥ 0.85".into())
        );
        assert_eq!(Bound::of("program/eip-in"), None);
    }
}
