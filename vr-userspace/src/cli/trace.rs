//! `trace`: what becomes of each packet, live.
//!
//! The programs are replaced by ones that report and work on the same maps, and put back at the end. If this call is
//! killed meanwhile, they stay, slower but right, until the next `load`.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, anyhow};
use tokio::{signal, time};
use vr_common::outcome::{Hook, Outcome};

use super::load::Situation;
use crate::{
    ebpf::{self, Generation},
    instance::Instance,
    lock::Lock,
    netlink::{Machine, Netlink},
    state::State,
};

/// How often reports are fetched.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub async fn run(instance: &Instance, duration: Duration, patience: Duration) -> Result<()> {
    super::require_root()?;
    let _lock = Lock::take(&instance.lock_file(), patience)?;
    let netlink = Netlink::open()?;
    let situation = Situation::read(&netlink, State::read(&instance.state_file())?).await?;
    let quiet = situation
        .state
        .generation()
        .ok_or_else(|| match situation.state.netfilter.is_empty() {
            true => anyhow!("nothing is loaded, so there is nothing to trace"),
            false => anyhow!(
                "this router runs on iptables, which trace does not see: `conntrack -E` shows connections as they come and go, and \
                 `iptables -t nat -vL` what each rule has matched"
            ),
        })?;
    let names = situation
        .machine
        .links
        .values()
        .map(|link| (link.ifindex, link.name.clone()))
        .collect();
    // Kept open: programs that no interface runs would be gone.
    let _keep = Hook::ALL.map(|hook| quiet.program(hook).and_then(|program| Ok(program.fd()?)));
    let (reporting, mut programs) = quiet.tracing()?;
    let mut reports = programs.reports(Printer { names })?;

    switch(&netlink, &situation.machine, &situation, &reporting).await?;
    tokio::select! {
        () = print(&mut reports) => {}
        () = time::sleep(duration) => {}
        _ = signal::ctrl_c() => {}
    }
    let machine = netlink.read().await?;
    switch(&netlink, &machine, &situation, quiet).await?;
    reports.flush();
    Ok(())
}

/// Makes every interface of the router run this generation's programs, those that it runs now.
async fn switch(
    netlink: &Netlink,
    machine: &Machine,
    situation: &Situation,
    generation: &Generation,
) -> Result<()> {
    for ifindex in situation.observed.interfaces.keys() {
        let Some(link) = machine.links.get(ifindex) else {
            continue;
        };
        for hook in [Hook::TcIngress, Hook::TcEgress] {
            ebpf::attach_tc(generation.program(hook)?, link, hook)?;
        }
        if situation.observed.xdp.contains(ifindex) {
            ebpf::attach_xdp(netlink, &generation.program(Hook::Xdp)?, link).await?;
        }
    }
    Ok(())
}

/// Prints for ever.
async fn print(reports: &mut aya_log::EbpfLogger<impl log::Log>) {
    loop {
        reports.flush();
        time::sleep(LOOK_EVERY).await;
    }
}

/// Turns a report's numbers into a line for people.
struct Printer {
    names: BTreeMap<u32, String>,
}

impl log::Log for Printer {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let report = record.args().to_string();
        say!("{}", self.line(&report).unwrap_or(report));
    }
    fn flush(&self) {}
}

impl Printer {
    /// `program ifindex outcome length source destination`, as `vr-ebpf` reports it.
    fn line(&self, report: &str) -> Option<String> {
        let mut words = report.split(' ');
        let mut number = || words.next()?.parse::<u32>().ok();
        let (hook, ifindex, outcome, length) = (number()?, number()?, number()?, number()?);
        let (source, destination) = (words.next()?, words.next()?);
        let hook = Hook::ALL
            .into_iter()
            .find(|candidate| *candidate as u32 == hook)?;
        let interface = self.names.get(&ifindex).map_or("?", String::as_str);
        let outcome = Outcome::from_number(outcome)?;
        let head = format!("{interface:<15} {:<10} {:<20}", hook.name(), outcome.name());
        Some(match outcome {
            Outcome::NotIpv4 => format!("{head} {length} bytes"),
            _ => format!("{head} {source} > {destination}, {length} bytes"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_told_in_names() {
        let printer = Printer {
            names: BTreeMap::from([(3, "eth1".to_owned())]),
        };
        let line = printer.line("1 3 0 98 10.90.3.1 192.168.100.190").unwrap();
        assert_eq!(
            line,
            "eth1            tc_ingress eip_in               10.90.3.1 > 192.168.100.190, 98 bytes"
        );
        assert_eq!(printer.line("what else"), None);
    }
}
