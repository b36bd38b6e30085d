//! Random settings, and how they may be written.

use std::fmt::Write;

use super::*;

/// Most numbers are drawn from near the ends, where mistakes are.
fn number(least: u32, most: u32) -> impl Strategy<Value = u32> {
    prop_oneof![least..=most, least..=least + 3, most - 3..=most]
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    proptest::array::uniform5(number(1, 604_800)).prop_map(
        |[udp, icmp, tcp_established, tcp_transitory, other]| Timeouts {
            udp,
            icmp,
            tcp_established,
            tcp_transitory,
            other,
        },
    )
}

/// Runs of addresses, one after another, at random places.
fn pool() -> impl Strategy<Value = Vec<Ipv4Addr>> {
    proptest::collection::vec((unicast(), 1..=17u32), 0..5).prop_map(|runs| {
        let mut pool: Vec<Ipv4Addr> = Vec::new();
        for (first, length) in runs {
            for address in (first.to_bits()..).take(length as usize) {
                let address = Ipv4Addr::from_bits(address);
                let host = matches!(address.octets()[0], 1..=126 | 128..=223);
                if host && pool.len() < 16 && !pool.contains(&address) {
                    pool.push(address);
                }
            }
        }
        pool
    })
}

pub(super) fn any_options() -> impl Strategy<Value = Options> {
    let filtering = prop_oneof![
        Just(Filtering::AddressAndPortDependent),
        Just(Filtering::EndpointIndependent)
    ];
    let host = || proptest::option::of(number(1, 4_194_304));
    let mss = proptest::option::of((536..=65_495u16).boxed());
    let own = (
        number(1_024, 4_194_304),
        host(),
        host(),
        timeouts(),
        filtering,
        pool(),
        mss,
    );
    let own = own.prop_map(
        |(sessions, per_host, half_open, timeouts, filtering, masquerade_pool, mss)| {
            let default = Options::of_sessions(sessions);
            Options {
                sessions,
                sessions_per_host: per_host.unwrap_or(default.sessions_per_host),
                half_open_per_host: half_open.unwrap_or(default.half_open_per_host),
                timeouts,
                filtering,
                masquerade_pool,
                mss,
            }
        },
    );
    prop_oneof![1 => Just(Options::default()), 4 => own]
}

impl Style {
    /// A setting, which may be left out or null where it is the default.
    fn setting(&mut self, name: &str, value: String, default: bool) -> Option<String> {
        let choices = if default {
            &["", "~", "given"][..]
        } else {
            &["given"]
        };
        match self.pick(choices).as_str() {
            "" => None,
            "~" => Some(format!("{name}: ~")),
            _ => Some(format!("{name}: {value}")),
        }
    }

    fn pool(&mut self, pool: &[Ipv4Addr]) -> String {
        let mut entries = Vec::new();
        let mut rest = pool;
        while let [first, ..] = rest {
            let consecutive = (first.to_bits()..).zip(rest);
            let run = consecutive
                .take_while(|(bits, address)| address.to_bits() == *bits)
                .count();
            let length = match self.pick(&["", "range", "range"]).as_str() {
                "range" => run,
                _ => 1,
            };
            entries.push(match length {
                1 => self.text(first),
                _ => self.text(format!("{first}-{}", rest[length - 1])),
            });
            rest = &rest[length..];
        }
        format!("[{}]", entries.join(", "))
    }

    /// The settings, and those of `timeouts` within them, in block or in flow style.
    pub(super) fn options(&mut self, out: &mut String, options: &Options) {
        let default = Timeouts::default();
        let given = &options.timeouts;
        let mut timeouts = Vec::new();
        for (name, value, default) in [
            ("udp", given.udp, default.udp),
            ("icmp", given.icmp, default.icmp),
            (
                "tcp_established",
                given.tcp_established,
                default.tcp_established,
            ),
            (
                "tcp_transitory",
                given.tcp_transitory,
                default.tcp_transitory,
            ),
            ("other", given.other, default.other),
        ] {
            timeouts.extend(self.setting(name, value.to_string(), value == default));
        }
        let block = self.pick(&["", "block"]) == "block";
        let timeouts = match timeouts.as_slice() {
            some @ [_, ..] if block => format!("\n    {}", some.join("\n    ")),
            any => format!("{{{}}}", any.join(", ")),
        };

        let default = Options::of_sessions(options.sessions);
        let (host, half_open) = (options.sessions_per_host, options.half_open_per_host);
        let pool = self.pool(&options.masquerade_pool);
        let filtering = self.text(options.filtering);
        let mss = options.mss.map_or("~".to_owned(), |mss| mss.to_string());
        let mut settings = Vec::new();
        for (name, value, default) in [
            ("mss", mss, options.mss.is_none()),
            ("masquerade_pool", pool, options.masquerade_pool.is_empty()),
            (
                "filtering",
                filtering,
                options.filtering == default.filtering,
            ),
            ("timeouts", timeouts, options.timeouts == default.timeouts),
            (
                "half_open_per_host",
                half_open.to_string(),
                half_open == default.half_open_per_host,
            ),
            (
                "sessions_per_host",
                host.to_string(),
                host == default.sessions_per_host,
            ),
            (
                "sessions",
                options.sessions.to_string(),
                options.sessions == 65_536,
            ),
        ] {
            settings.extend(self.setting(name, value, default));
        }
        match settings.as_slice() {
            [] => out.push_str(&self.pick(&["", "options:\n", "options: {}\n"])),
            some if block => writeln!(out, "options:\n  {}", some.join("\n  ")).unwrap(),
            some => writeln!(out, "options: {{{}}}", some.join(",\n  ")).unwrap(),
        }
    }
}
