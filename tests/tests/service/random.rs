//! Random sequences of everything that can happen to a router. After each step that is waited for, the machine is as the
//! file says, and flows of entries that stood all the time have lost nothing.

use std::collections::BTreeMap;
use std::env;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{
    CLIENT1, EIP1, EIP2, EIP3, FORWARDED, INSIDE2, INSIDE2_MAC, Lab, Socket, VM1, VM2, VM3,
};
use vr_tests::ping::ping;
use vr_tests::probe::Probe;
use vr_tests::root;
use vr_tests::service::Service;
use vr_tests::socket::UdpEcho;

use super::{PORT, at, quick, settles};

each_backend!(
    whatever_happens_it_settles_and_who_is_not_concerned_does_not_notice,
    whatever_happens_to_all_of_it_it_settles,
);

/// Repeats the sequences of this seed.
const SEED: &str = "VR_TESTS_SEED";

/// Steps of a sequence.
const STEPS: u32 = 8;

/// Numbers that are as good as random, and the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn new() -> Result<Random> {
        let seed = match env::var(SEED) {
            Ok(seed) => seed.parse().context(SEED)?,
            Err(_) => {
                u64::from(std::process::id()) << 32
                    | u64::from(
                        std::time::SystemTime::now()
                            .duration_since(std::time::UNIX_EPOCH)?
                            .subsec_nanos(),
                    )
            }
        };
        println!("{SEED}={seed} repeats these sequences");
        Ok(Random(seed))
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ word >> 31) % end as u64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// A router, and what a sequence has made of it.
struct Story<'a> {
    lab: &'a Lab,
    backend: &'a str,
    /// The sockets whose NICs come and go.
    loose: &'a [Socket],
    file: File,
    names: BTreeMap<Socket, String>,
    service: Option<Service>,
    count: u32,
    /// What was done, for the message.
    done: Vec<String>,
}

impl Story<'_> {
    fn step(&mut self, random: &mut Random) -> Result<()> {
        let lab = self.lab;
        self.count += 1;
        let what = match random.below(9) {
            0 | 1 => {
                let socket = random.of(self.loose);
                match self.names.remove(&socket) {
                    Some(name) => {
                        lab.unplug(socket)?;
                        format!("unplug {name}")
                    }
                    None => {
                        let name = format!("nic{}", self.count);
                        lab.plug(&name, socket)?;
                        self.names.insert(socket, name.clone());
                        format!("plug {name} into {socket:?}")
                    }
                }
            }
            2 => {
                let socket = random.of(self.loose);
                let new = format!("nic{}", self.count);
                match self.names.get_mut(&socket) {
                    Some(name) => {
                        if lab.router.rename(name, &new).is_err() {
                            lab.router.set_down(name)?;
                            lab.router.rename(name, &new)?;
                        }
                        format!("rename {} to {new}", std::mem::replace(name, new.clone()))
                    }
                    None => "nothing".to_owned(),
                }
            }
            3 | 4 => {
                self.file = some_file(random);
                let text = self.file.to_string();
                if random.below(2) == 0 {
                    lab.write_config(&text)?;
                } else {
                    let new = lab.directory().join("new.yaml");
                    std::fs::write(&new, text)?;
                    std::fs::rename(new, lab.config_path())?;
                }
                format!("file with {} EIPs", self.file.eips().count())
            }
            5 => {
                if let Some(service) = self.service.take() {
                    match random.below(3) {
                        0 => service.kill()?,
                        1 => service.end().map(drop)?,
                        _ => {
                            service.signal(Signal::SIGHUP)?;
                            self.service = Some(service);
                        }
                    }
                }
                "signal".to_owned()
            }
            6 => {
                // What it takes away is of entries that no flow is of.
                let gone = [EIP2, EIP3, FORWARDED].map(|eip| {
                    let uplink = self
                        .names
                        .get(&Socket::Uplink)
                        .map_or("wan0", String::as_str);
                    lab.router
                        .remove_address(uplink, &format!("{eip}/32"))
                        .is_ok()
                });
                format!(
                    "{} addresses taken away",
                    gone.iter().filter(|gone| **gone).count()
                )
            }
            7 => match self.names.get(&Socket::Inside2) {
                Some(name) => {
                    let subnet = lab.router.remove_address(name, &format!("{INSIDE2}/24"));
                    let programs = lab.router.remove_clsact(name);
                    let down = lab.router.set_down(name);
                    format!(
                        "{name} robbed: {} {} {}",
                        subnet.is_ok(),
                        programs.is_ok(),
                        down.is_ok()
                    )
                }
                None => "nothing".to_owned(),
            },
            _ => {
                // Somebody loads beside it.
                let path = lab.config_path();
                let words = ["load", "--backend", self.backend, "--config"];
                let outcome = lab.vr(&[&words[..], &[&path.to_string_lossy()]].concat())?;
                ensure!(outcome.code() == Some(0), "{outcome}");
                "load".to_owned()
            }
        };
        self.done.push(what);
        Ok(())
    }

    fn settled(&mut self) -> Result<()> {
        if self.service.is_none() {
            self.service = Some(self.lab.service(self.backend)?);
        }
        settles(self.lab, &self.file, self.backend)
            .with_context(|| format!("after {:#?}", self.done))
    }

    fn sequence(&mut self, random: &mut Random) -> Result<()> {
        self.done.clear();
        for _ in 0..STEPS {
            self.step(random)
                .with_context(|| format!("after {:#?}", self.done))?;
            // Sometimes it is waited for, and sometimes several things happen at once.
            if random.below(3) == 0 {
                self.settled()?;
            }
        }
        self.settled()
    }
}

/// All of these have the uplink, the first inside subnet and the EIP of the first VM.
fn some_file(random: &mut Random) -> File {
    let mut file = quick(File::one_subnet()).eip(EIP1, VM1);
    if random.below(3) != 0 {
        file = file.nic(INSIDE2_MAC, INSIDE2, None);
    }
    for eip in [EIP2, EIP3] {
        if random.below(2) == 0 {
            file = file.eip(eip, random.of(&[VM2, VM3]));
        }
    }
    if random.below(2) == 0 {
        file = file.forward("tcp", FORWARDED, 80..=82, at(random.of(&[VM2, VM3]), 80));
    }
    if random.below(4) == 0 {
        let absent = "52:54:84:99:00:01".parse().expect("a MAC");
        file = file.nic(absent, Ipv4Addr::new(192, 168, 9, 1), None);
    }
    file
}

/// 200 sequences in full, of both kinds and backends together.
fn sequences() -> u32 {
    if root::full() { 50 } else { 5 }
}

fn story<'a>(lab: &'a Lab, backend: &'a str, loose: &'a [Socket]) -> Result<Story<'a>> {
    let file = quick(File::full());
    lab.write_config(&file.to_string())?;
    let names = loose
        .iter()
        .map(|socket| (*socket, socket.nic().to_owned()));
    let mut story = Story {
        lab,
        backend,
        loose,
        file,
        names: names.collect(),
        service: None,
        count: 0,
        done: Vec::new(),
    };
    story.settled()?;
    Ok(story)
}

fn whatever_happens_it_settles_and_who_is_not_concerned_does_not_notice(
    backend: &str,
) -> Result<()> {
    let mut random = Random::new()?;
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let mut story = story(&lab, backend, &[Socket::Inside2])?;
    let (_vm, _client) = (
        UdpEcho::start(&lab.vm1, at(VM1, PORT))?,
        UdpEcho::start(&lab.client1, at(CLIENT1, PORT))?,
    );
    let wrong = [
        UdpEcho::start(&lab.vm2, at(VM2, PORT))?,
        UdpEcho::start(&lab.vm3, at(VM3, PORT))?,
    ];
    for number in 0..sequences() {
        let incoming = Probe::start(&lab.client2, at(EIP1, PORT))?;
        let outgoing = Probe::start(&lab.vm1, at(CLIENT1, PORT))?;
        story
            .sequence(&mut random)
            .with_context(|| format!("sequence {number}"))?;
        for probe in [incoming, outgoing] {
            let tally = probe.finish()?;
            tally.expect_no_loss().with_context(|| {
                format!(
                    "sequence {number}: {:#?} {:#?} {:#?}",
                    story.done,
                    lab.status(),
                    lab.router.inventory()
                )
            })?;
        }
        for server in &wrong {
            ensure!(
                server.peers().is_empty(),
                "a wrong VM saw {:?}",
                server.peers()
            );
        }
    }
    finish(story, &before)
}

/// Here all NICs come and go, so that nothing stands all the time.
fn whatever_happens_to_all_of_it_it_settles(backend: &str) -> Result<()> {
    let mut random = Random::new()?;
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let mut story = story(&lab, backend, &Socket::ALL)?;
    for number in 0..sequences() {
        story
            .sequence(&mut random)
            .with_context(|| format!("sequence {number}"))?;
        let there = |socket| story.names.contains_key(&socket);
        if there(Socket::Uplink) && there(Socket::Inside) {
            ping(&lab.client1, EIP1)?;
        }
    }
    finish(story, &before)
}

/// Puts the NICs back under their first names, and takes all away.
fn finish(mut story: Story<'_>, before: &[String]) -> Result<()> {
    let lab = story.lab;
    if let Some(service) = story.service.take() {
        service.end()?;
    }
    lab.unloads()?;
    for socket in story.loose {
        if story.names.contains_key(socket) {
            lab.unplug(*socket)?;
        }
        lab.plug(socket.nic(), *socket)?;
    }
    let after = lab.router.inventory()?;
    ensure!(after == before, "{after:#?} is left instead of {before:#?}");
    Ok(())
}
