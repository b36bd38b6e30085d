//! What is configured in a namespace, as sorted lines that a test compares before and after.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::packet_route::tc::TcAttribute;
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::netns::Netns;
use crate::program;

/// How long `iptables-save` may take.
const SAVE_LIMIT: Duration = Duration::from_secs(60);

/// Queueing disciplines that the kernel gives an interface by itself.
const DEFAULT_QDISCS: [&str; 4] = ["noqueue", "pfifo_fast", "fq_codel", "mq"];

impl Netns {
    /// The IPv4 addresses of an interface as `address/prefix`, sorted.
    pub fn addresses(&self, interface: &str) -> Result<Vec<String>> {
        let start = format!("address {interface} ");
        Ok(self
            .inventory()?
            .iter()
            .filter_map(|line| Some(line.strip_prefix(&start)?.to_string()))
            .collect())
    }

    /// Links with state, MTU and XDP program, queueing disciplines that are not the default, their filters, addresses,
    /// routes of the main table and what there is of settings that the router touches, rules and chains of both iptables: a
    /// line each, sorted but for the rules, whose order counts. TCX programs are not in it.
    pub fn inventory(&self) -> Result<Vec<String>> {
        let mut lines = self.netlink(async |handle| {
            let mut names = Names::default();
            let mut lines = links(handle, &mut names).await?;
            lines.extend(qdiscs(handle, &names).await?);
            lines.extend(filters(handle, &names).await?);
            lines.extend(addresses(handle, &names).await?);
            lines.extend(routes(handle, &names).await?);
            Ok(lines)
        })?;
        lines.extend(self.run(settings)?);
        for variant in ["nft", "legacy"] {
            lines.extend(self.rules(variant)?);
        }
        lines.sort();
        Ok(lines)
    }
}

impl Netns {
    /// The rules of one of the two iptables, `nft` or `legacy`, and the chains that somebody has made, in their order and numbered by it.
    pub fn rules(&self, variant: &str) -> Result<Vec<String>> {
        let save = self.command(format!("iptables-{variant}-save"))?;
        let saved = program::run(save, SAVE_LIMIT)?.ok();
        let saved = saved.context("`cargo xtask setup` brings iptables")?;
        let mut table = "";
        let mut rules = Vec::new();
        for line in saved.lines() {
            let is_made = |chain: &str| chain.split(' ').nth(1) == Some("-");
            match line.split_at_checked(1) {
                Some(("*", name)) => table = name,
                Some((":", chain)) if !is_made(chain) => {}
                Some((":" | "-", _)) => {
                    let number = rules.len();
                    let line = line.trim_end_matches(" [0:0]");
                    rules.push(format!("{variant} {number:06} {table} {line}"));
                }
                _ => {}
            }
        }
        Ok(rules)
    }
}

/// An inventory whose XDP programs are only there or not: every load makes new ones, with new numbers.
pub fn without_numbers(inventory: Vec<String>) -> Vec<String> {
    let strip = |line: String| match line.split_once(" xdp ") {
        Some((rest, _)) => format!("{rest} xdp"),
        None => line,
    };
    inventory.into_iter().map(strip).collect()
}

fn settings() -> Result<Vec<String>> {
    let base = Path::new("/proc/sys/net/ipv4");
    let forwarding = fs::read_to_string(base.join("ip_forward"))?;
    let reserved = fs::read_to_string(base.join("ip_local_reserved_ports"))?;
    let mut lines = vec![
        format!("forwarding {}", forwarding.trim()),
        format!("reserved_ports {}", reserved.trim()),
    ];
    for entry in fs::read_dir(base.join("conf"))? {
        let entry = entry?;
        let value = fs::read_to_string(entry.path().join("promote_secondaries"))?;
        let name = entry.file_name();
        lines.push(format!(
            "promote_secondaries {} {}",
            name.to_string_lossy(),
            value.trim()
        ));
    }
    lines.extend(conntrack()?);
    Ok(lines)
}

/// The settings of conntrack, but for those that count.
fn conntrack() -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let Ok(entries) = fs::read_dir("/proc/sys/net/netfilter") else {
        return Ok(lines);
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("nf_conntrack_") && name != "nf_conntrack_count" {
            let value = fs::read_to_string(entry.path())?;
            lines.push(format!("{name} {}", value.trim()));
        }
    }
    Ok(lines)
}

/// The interfaces' names by index.
#[derive(Default)]
struct Names(BTreeMap<u32, String>);

impl Names {
    fn of(&self, index: u32) -> &str {
        self.0.get(&index).map_or("?", String::as_str)
    }
}

async fn links(handle: &Handle, names: &mut Names) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut links = handle.link().get().execute();
    while let Some(message) = links.try_next().await? {
        let (name, line) = link(&message);
        lines.push(line);
        names.0.insert(message.header.index, name);
    }
    Ok(lines)
}

fn link(message: &LinkMessage) -> (String, String) {
    let mut name = String::new();
    let mut details = String::new();
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name.clone_from(value),
            LinkAttribute::Mtu(value) => details += &format!(" mtu {value}"),
            LinkAttribute::Xdp(xdp) => {
                for part in xdp {
                    if let LinkXdp::ProgId(id) = part {
                        details += &format!(" xdp {id}");
                    }
                }
            }
            _ => {}
        }
    }
    let up = if message.header.flags.contains(LinkFlags::Up) {
        "up"
    } else {
        "down"
    };
    let line = format!("link {name} {up}{details}");
    (name, line)
}

async fn qdiscs(handle: &Handle, names: &Names) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut qdiscs = handle.qdisc().get().execute();
    while let Some(message) = qdiscs.try_next().await? {
        for attribute in &message.attributes {
            if let TcAttribute::Kind(kind) = attribute
                && !DEFAULT_QDISCS.contains(&kind.as_str())
            {
                lines.push(format!(
                    "qdisc {} {kind}",
                    names.of(message.header.index as u32)
                ));
            }
        }
    }
    Ok(lines)
}

async fn filters(handle: &Handle, names: &Names) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (index, name) in &names.0 {
        let get = || handle.traffic_filter(*index as i32).get();
        for (hook, request) in [("ingress", get().ingress()), ("egress", get().egress())] {
            let mut filters = request.execute();
            // Without a qdisc to put them on there are none, which is said as an error.
            while let Ok(Some(message)) = filters.try_next().await {
                let kind = message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        TcAttribute::Kind(kind) => Some(kind.as_str()),
                        _ => None,
                    });
                let (kind, priority) = (kind.unwrap_or("?"), message.header.info >> 16);
                lines.push(format!(
                    "filter {name} {hook} {kind} {priority} {:?}",
                    message.header.handle
                ));
            }
        }
    }
    Ok(lines)
}

async fn addresses(handle: &Handle, names: &Names) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        for attribute in &message.attributes {
            if let AddressAttribute::Local(IpAddr::V4(address)) = attribute {
                let interface = names.of(message.header.index);
                lines.push(format!(
                    "address {interface} {address}/{}",
                    message.header.prefix_len
                ));
            }
        }
    }
    Ok(lines)
}

async fn routes(handle: &Handle, names: &Names) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut routes = handle
        .route()
        .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
        .execute();
    while let Some(message) = routes.try_next().await? {
        if message.header.table == RouteHeader::RT_TABLE_MAIN {
            lines.push(route(&message, names));
        }
    }
    Ok(lines)
}

fn route(message: &RouteMessage, names: &Names) -> String {
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut details = String::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => destination = *to,
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => {
                details += &format!(" via {gateway}");
            }
            RouteAttribute::Priority(metric) => details += &format!(" metric {metric}"),
            RouteAttribute::Oif(index) => details += &format!(" dev {}", names.of(*index)),
            _ => {}
        }
    }
    format!(
        "route {destination}/{}{details}",
        message.header.destination_prefix_length
    )
}
