//! The rule set as tables of chains, a rule a line as `iptables-restore` reads it. Pure.
//!
//! RuleSet of the nat table see the first packet of a flow only; conntrack does the same with all others, and the reverse with their
//! answers (rule 8 of the contract's table needs no rule here). The numbers of rules below are those of the README's table.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{
    PREFIX, RuleSet,
    rules::{name_of, target},
    tree::{ByAddress, PortRule, grow, of_ports},
};
use crate::config::{Forward, Protocol};

/// The bit of the packet's mark that says it came from inside: where it leaves, its interface is not known any more. It lives from
/// PREROUTING to POSTROUTING, in the first packet of a flow only.
const FROM_INSIDE: &str = "0x20000000/0x20000000";

/// How many classes of hosts a pool of addresses is dealt out to: a power of two, and no less than the largest pool.
const CLASSES: u32 = 16;

/// A chain of the router's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Its rules, each without `-A` and the name.
    pub rules: Vec<String>,
}

/// What is to be in one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Built-in chains, and the chains that they jump to.
    pub jumps: Vec<(&'static str, String)>,
    /// Chains; each comes after those that it jumps to.
    pub chains: Vec<Chain>,
}

impl Table {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            jumps: Vec::new(),
            chains: Vec::new(),
        }
    }

    /// Adds a chain that a built-in one jumps to, unless it would be empty.
    fn hook(&mut self, builtin: &'static str, name: &str, rules: Vec<String>) {
        if rules.is_empty() {
            return;
        }
        let name = format!("{PREFIX}{name}");
        self.jumps.push((builtin, name.clone()));
        self.chains.push(Chain { name, rules });
    }

    /// Everything, a line each, as people read it.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let jumps = self
            .jumps
            .iter()
            .map(|(builtin, to)| format!("{} {builtin} -j {to}", self.name));
        let rules = self.chains.iter().flat_map(|chain| {
            let rules = chain.rules.iter();
            rules.map(|rule| format!("{} {} {rule}", self.name, chain.name))
        });
        jumps.chain(rules)
    }
}

impl RuleSet {
    /// The rules, table by table.
    #[must_use]
    pub fn tables(&self) -> [Table; 2] {
        [self.nat(), self.mangle()]
    }

    fn nat(&self) -> Table {
        let mut table = Table::new("nat");
        let Some(uplink) = self.uplink() else {
            return table;
        };
        // Before routing: rules 1, 5, 6 and 7. A 1:1 mapping comes first: forwards of its address are not in the rule set.
        let mut leads = ByAddress::new();
        for (eip, vm) in &self.eips {
            let rule = format!("-d {eip}/32 -j DNAT --to-destination {vm}");
            leads.insert(*eip, vec![rule]);
        }
        let meeting = self.meeting();
        let mut forwards = BTreeMap::<Ipv4Addr, Vec<PortRule>>::new();
        for (index, forward) in self.forwards.iter().enumerate() {
            let whole = self.shifts && !meeting.contains(&index);
            let rules = forwards.entry(forward.eip).or_default();
            rules.extend(ports(forward, whole));
        }
        for (address, rules) in forwards {
            leads.insert(address, of_ports(&mut table.chains, address, rules));
        }
        let to = format!("{PREFIX}TO");
        let mut rules = Vec::new();
        grow(&mut table.chains, &mut rules, 'D', "-d", &leads);
        table.chains.push(Chain {
            name: to.clone(),
            rules,
        });
        let mut before = Vec::new();
        for inside in self.insides() {
            before.push(format!(
                "-i {} -j MARK --set-xmark {FROM_INSIDE}",
                inside.name
            ));
        }
        before.push(format!("-i {} -j {to}", uplink.name));
        before.push(format!("-m mark --mark {FROM_INSIDE} -j {to}"));
        table.hook("PREROUTING", "PRE", before);

        // After routing. What did not come from inside keeps its source: rules 1, 6 and 10.
        let from = format!("{PREFIX}FROM");
        let chain = self.from(&mut table.chains, &from);
        table.chains.push(chain);
        table.hook(
            "POSTROUTING",
            "POST",
            vec![
                format!("-m mark ! --mark {FROM_INSIDE} -j RETURN"),
                // Hairpin, rules 5 and 7.
                format!(
                    "-m conntrack --ctstate DNAT -j SNAT --to-source {}",
                    uplink.address
                ),
                // What stays inside keeps its source too: rule 4.
                format!("-o {} -j {from}", uplink.name),
            ],
        );
        table
    }

    /// The chain that gives a packet its source outside: rules 2 and 3.
    fn from(&self, chains: &mut Vec<Chain>, name: &str) -> Chain {
        let mut leaves = ByAddress::new();
        for (eip, vm) in &self.eips {
            // Of several EIPs the first listed.
            leaves
                .entry(*vm)
                .or_insert_with(|| vec![format!("-s {vm}/32 -j SNAT --to-source {eip}")]);
        }
        let mut rules = Vec::new();
        grow(chains, &mut rules, 'S', "-s", &leaves);
        match self.masquerade().as_slice() {
            [] => {}
            [address] => rules.push(format!("-j SNAT --to-source {address}")),
            // Each host always by the same address (RFC 4787 REQ-2): by the last bits of its own.
            pool => {
                let classes = Ipv4Addr::from(CLASSES - 1);
                for (class, address) in (0..CLASSES).zip(pool.iter().cycle()) {
                    rules.push(format!(
                        "-s {}/{classes} -j SNAT --to-source {address}",
                        Ipv4Addr::from(class)
                    ));
                }
            }
        }
        Chain {
            name: name.to_owned(),
            rules,
        }
    }

    /// What keeps packets that conntrack cannot place from being taken for others.
    fn mangle(&self) -> Table {
        let mut table = Table::new("mangle");
        if let Some(uplink) = self.uplink() {
            // An EIP is a local address: what has not been translated must not meet the router's own stack, which would answer.
            // The router's own packets to it may (rule 10).
            let mut here = ByAddress::new();
            for (eip, _) in &self.eips {
                here.insert(*eip, vec![format!("-d {eip}/32 -j DROP")]);
            }
            let forwarded = self.forwards.iter().map(|forward| forward.eip);
            for address in forwarded.chain(self.pool.iter().copied()) {
                let rule = format!("-d {address}/32 -m conntrack --ctstate INVALID -j DROP");
                if address != uplink.address {
                    here.entry(address).or_insert_with(|| vec![rule]);
                }
            }
            let mut rules = vec!["-i lo -j RETURN".to_owned()];
            grow(&mut table.chains, &mut rules, 'L', "-d", &here);
            if rules.len() > 1 {
                table.hook("INPUT", "IN", rules);
            }
        }
        let mut through = Vec::new();
        for interface in &self.interfaces {
            let name = &interface.name;
            // Nobody's addresses (RFC 1122 §3.2.1.3, RFC 1812 §5.3.7), which the kernel forwards all the same.
            for nobody in ["-s 0.0.0.0/8", "-s 240.0.0.0/4", "-d 240.0.0.0/4"] {
                through.push(format!("-i {name} {nobody} -j DROP"));
            }
            if let Some(mss) = self.mss {
                through.push(format!(
                    "-i {name} -p tcp -m tcp --tcp-flags SYN,RST SYN -m tcpmss --mss {}:65535 -j TCPMSS --set-mss {mss}",
                    mss.saturating_add(1)
                ));
            }
        }
        if let Some(uplink) = self.uplink() {
            for inside in self.insides() {
                // It would leave with a private address.
                through.push(format!(
                    "-i {} -o {} -m conntrack --ctstate INVALID -j DROP",
                    inside.name, uplink.name
                ));
            }
        }
        table.hook("FORWARD", "THROUGH", through);
        table
    }
}

/// The rules of one forward; `whole`: a range that is shifted may be one rule.
fn ports(forward: &Forward, whole: bool) -> Vec<PortRule> {
    // The middle of a connection that conntrack does not know was another VM's, or is nobody's: the router's own stack resets it.
    let begins = match forward.protocol {
        Protocol::Tcp => "--tcp-flags SYN,RST,ACK SYN ",
        Protocol::Udp => "",
    };
    let rule = |first, last, target| PortRule {
        protocol: name_of(forward.protocol),
        first,
        last,
        target: format!("{begins}-j DNAT --to-destination {target}"),
    };
    let Forward {
        port,
        end_port,
        vm_port,
        vm,
        ..
    } = *forward;
    if port == vm_port {
        // Without ports the kernel leaves them as they are.
        return vec![rule(port, end_port, vm.to_string())];
    }
    if port != end_port && whole {
        let last = vm_port + (end_port - port);
        return vec![rule(
            port,
            end_port,
            format!("{vm}:{vm_port}-{last}/{port}"),
        )];
    }
    (port..=end_port)
        .map(|port| rule(port, port, target(forward, port).to_string()))
        .collect()
}
