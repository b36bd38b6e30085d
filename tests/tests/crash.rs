//! Killed in the middle, at any moment: what stood goes on, and the next load repairs the rest.

use std::net::SocketAddrV4;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use vr_tests::file::File;
use vr_tests::inventory::without_numbers;
use vr_tests::lab::{
    CLIENT1, CLIENT2, EIP1, EIP2, EIP3, FORWARDED, INSIDE2_MAC, Lab, VM1, VM2, VM3,
};
use vr_tests::ping::ping;
use vr_tests::probe::Probe;
use vr_tests::program::{self, End};
use vr_tests::socket::UdpEcho;
use vr_tests::{each_backend, each_ebpf_backend};

each_backend!(
    killed_in_its_first_load_at_fifty_moments,
    killed_in_a_reload_that_changes_entries_at_fifty_moments,
    killed_in_a_reload_that_swaps_the_backend_at_fifty_moments,
    killed_in_an_unload_at_fifty_moments,
);

// The programs' tables.
each_ebpf_backend!(
    killed_while_some_of_many_forwards_change_at_fifty_moments,
    killed_while_the_table_is_replaced_at_fifty_moments,
    killed_while_sessions_move_at_fifty_moments,
);

/// How many moments of each.
const MOMENTS: u64 = 50;

const PORT: u16 = 7100;

/// With forwards, and the fewest sessions: filling the queue of free slots takes a system call each, and most moments would
/// be of that.
fn small_tables(file: File) -> File {
    file.forward_both(FORWARDED, 80..=82, SocketAddrV4::new(VM1, 80))
        .option("sessions", 1024)
}

/// A file in the lab's directory, and the words that load it.
fn load_of(lab: &Lab, name: &str, file: &File, backend: &str) -> Result<Vec<String>> {
    let path = lab.directory().join(name);
    std::fs::write(&path, file.to_string())?;
    let path = path.to_string_lossy();
    let words = ["load", "--config", &path, "--backend", backend];
    Ok(words.map(str::to_owned).to_vec())
}

fn run(lab: &Lab, words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    lab.vr(&words)?.ok().map(drop)
}

/// Runs a command and kills it just before this system call.
fn kill(lab: &Lab, words: &[String], call: u64) -> Result<()> {
    let mut command = lab.vr_command()?;
    command.args(words);
    // A call more or less is made than last time, so that the last moments may be after its end.
    program::kill_at_call(command, call).map(drop)
}

/// How many system calls a command makes, the fewer of two.
fn calls(lab: &Lab, prepare: &[String], words: &[String]) -> Result<u64> {
    let mut fewest = u64::MAX;
    for _ in 0..2 {
        run(lab, prepare)?;
        let mut command = lab.vr_command()?;
        command.args(words);
        match program::kill_at_call(command, u64::MAX)? {
            End::Ended { code: 0, calls } => fewest = fewest.min(calls),
            other => bail!("{words:?}: {other:?}"),
        }
    }
    Ok(fewest)
}

/// The moments to kill at: half of them spread over a command's system calls, but for the first hundred, in which it only starts; half
/// over the last fifth, in which it changes most.
fn moments(calls: u64) -> impl Iterator<Item = u64> {
    const HALF: u64 = MOMENTS / 2;
    let first = calls.min(100);
    let late = first + (calls - first) * 4 / 5;
    let spread =
        move |from: u64| (0..HALF).map(move |moment| from + (calls - from) * moment / HALF);
    spread(first).chain(spread(late))
}

fn inventory(lab: &Lab) -> Result<Vec<String>> {
    Ok(without_numbers(lab.router.inventory()?))
}

fn expect(what: &str, expected: &[String], lab: &Lab) -> Result<()> {
    let found = inventory(lab)?;
    let only = |left: &[String], right: &[String]| {
        let lines: Vec<_> = left.iter().filter(|line| !right.contains(line)).collect();
        format!("{lines:?}")
    };
    ensure!(
        expected == found,
        "{what}: lost are {}, new are {}",
        only(expected, &found),
        only(&found, expected)
    );
    Ok(())
}

/// Checks that nothing half written lies about.
fn expect_clean_run_files(lab: &Lab) -> Result<()> {
    for (name, _) in lab.run_files()? {
        let known = [Some("lock"), Some("json"), Some("forwards")]
            .contains(&Path::new(&name).extension().and_then(|end| end.to_str()));
        ensure!(known, "{name} is left");
    }
    Ok(())
}

/// Checks that the tables hold, element by element, what these words have loaded.
fn expect_nothing_to_change(lab: &Lab, words: &[String]) -> Result<()> {
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words[0] = "plan";
    let plan = lab.vr(&words)?.ok()?;
    ensure!(plan.lines().last() == Some("nothing to change"), "{plan}");
    Ok(())
}

fn unload() -> Vec<String> {
    vec!["unload".to_owned()]
}

fn killed_in_its_first_load_at_fifty_moments(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = inventory(&lab)?;
    let load = load_of(&lab, "full.yaml", &small_tables(File::full()), backend)?;
    let calls = calls(&lab, &unload(), &load)?;
    let clean = inventory(&lab)?;
    for (number, moment) in moments(calls).enumerate() {
        run(&lab, &unload())?;
        expect(&format!("before moment {moment}"), &before, &lab)?;
        kill(&lab, &load, moment)?;
        // Of the one half a load comes next, of the other an unload.
        if number % 2 == 0 {
            run(&lab, &load).with_context(|| format!("after call {moment}"))?;
            expect(&format!("loaded after call {moment}"), &clean, &lab)?;
            ping(&lab.client1, EIP1)?;
            expect_clean_run_files(&lab)?;
        }
        run(&lab, &unload()).with_context(|| format!("after call {moment}"))?;
        expect(&format!("unloaded after call {moment}"), &before, &lab)?;
    }
    Ok(())
}

/// Kills reloads from `one` to `two` and back, while flows of [`EIP1`], which stands in both, go on.
fn kill_reloads(lab: &Lab, one: &[String], two: &[String]) -> Result<()> {
    kill_reloads_of(lab, one, two, true)
}

/// The same; `without_loss` of the flows that go on, unless clsact qdiscs come and go, for which the kernel stops the interface.
fn kill_reloads_of(lab: &Lab, one: &[String], two: &[String], without_loss: bool) -> Result<()> {
    let before = inventory(lab)?;
    run(lab, one)?;
    let (to_two, to_one) = (calls(lab, one, two)?, calls(lab, two, one)?);
    let clean_two = {
        run(lab, two)?;
        inventory(lab)?
    };
    run(lab, one)?;
    let clean_one = inventory(lab)?;

    let at = |address| SocketAddrV4::new(address, PORT);
    let right = UdpEcho::start(&lab.vm1, at(VM1))?;
    let wrong = [
        UdpEcho::start(&lab.vm2, at(VM2))?,
        UdpEcho::start(&lab.vm3, at(VM3))?,
    ];
    let _client = UdpEcho::start(&lab.client1, at(CLIENT1))?;
    let incoming = Probe::start(&lab.client2, at(EIP1))?;
    let outgoing = Probe::start(&lab.vm1, at(CLIENT1))?;
    for (number, (two_moment, one_moment)) in moments(to_two).zip(moments(to_one)).enumerate() {
        let (words, clean, moment) = if number % 2 == 0 {
            (two, &clean_two, two_moment)
        } else {
            (one, &clean_one, one_moment)
        };
        kill(lab, words, moment)?;
        let after = format!("killed at call {moment} of {words:?}");
        for (host, to) in [(&lab.client1, EIP1), (&lab.vm1, CLIENT1)] {
            ping(host, to).with_context(|| after.clone())?;
        }
        // Some go on to where they were about to go, some turn back.
        let (words, clean) = match number % 4 {
            0 | 1 => (words, clean),
            2 => (one, &clean_one),
            _ => (two, &clean_two),
        };
        run(lab, words).with_context(|| after.clone())?;
        expect(&after, clean, lab)?;
        expect_clean_run_files(lab)?;
        expect_nothing_to_change(lab, words).with_context(|| after.clone())?;
    }
    let (incoming, outgoing) = (incoming.finish()?, outgoing.finish()?);
    println!("{to_two} and {to_one} system calls\n{incoming}\n{outgoing}");
    run(lab, &unload())?;
    expect("unloaded", &before, lab)?;
    for server in &wrong {
        let peers = server.peers();
        ensure!(peers.is_empty(), "a wrong VM saw {peers:?}");
    }
    drop(right);
    for (tally, address) in [(&incoming, CLIENT2), (&outgoing, EIP1)] {
        let right = tally
            .seen_as
            .iter()
            .all(|seen| seen.starts_with(&format!("{address}:")));
        ensure!(right, "{tally}");
    }
    if without_loss {
        incoming.expect_no_loss()?;
        outgoing.expect_no_loss()?;
    }
    Ok(())
}

fn killed_in_a_reload_that_changes_entries_at_fifty_moments(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let one = small_tables(File::full());
    let two = File::two_subnets()
        .without_nic(INSIDE2_MAC)
        .eip(EIP3, VM2)
        .eip(EIP1, VM1)
        .forward_both(FORWARDED, 81..=90, SocketAddrV4::new(VM2, 80))
        .option("sessions", 1024);
    kill_reloads(
        &lab,
        &load_of(&lab, "one.yaml", &one, backend)?,
        &load_of(&lab, "two.yaml", &two, backend)?,
    )
}

fn killed_in_a_reload_that_swaps_the_backend_at_fifty_moments(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let other = match backend {
        "xdp" => "tc",
        "tc" => "xdp",
        _ => "tc",
    };
    let one = small_tables(File::full());
    let two = one.clone().without_eip(EIP2);
    kill_reloads_of(
        &lab,
        &load_of(&lab, "one.yaml", &one, backend)?,
        &load_of(&lab, "two.yaml", &two, other)?,
        backend != "iptables",
    )
}

fn killed_while_some_of_many_forwards_change_at_fifty_moments(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    // So many that what the trie holds is remembered.
    let many = |moved: u16| {
        (20_000..25_000u16).fold(small_tables(File::full()), |file, port| {
            let vm = if port % 1000 == moved { VM2 } else { VM1 };
            file.forward("udp", FORWARDED, port..=port, SocketAddrV4::new(vm, 80))
        })
    };
    kill_reloads(
        &lab,
        &load_of(&lab, "one.yaml", &many(1), backend)?,
        &load_of(&lab, "two.yaml", &many(2), backend)?,
    )
}

fn killed_while_the_table_is_replaced_at_fifty_moments(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    // One has few addresses, and each of two more than any table that was made for the one before.
    let few = small_tables(File::full());
    let mut many = few.clone();
    for n in 0..3000u32 {
        let [_, _, high, low] = n.to_be_bytes();
        many = many.eip([10, 91, high, low].into(), [172, 16, high, low].into());
    }
    kill_reloads(
        &lab,
        &load_of(&lab, "one.yaml", &few, backend)?,
        &load_of(&lab, "two.yaml", &many, backend)?,
    )
}

fn killed_while_sessions_move_at_fifty_moments(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let one = small_tables(File::full());
    let two = one.clone().option("sessions", 1100);
    kill_reloads(
        &lab,
        &load_of(&lab, "one.yaml", &one, backend)?,
        &load_of(&lab, "two.yaml", &two, backend)?,
    )
}

fn killed_in_an_unload_at_fifty_moments(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = inventory(&lab)?;
    let load = load_of(&lab, "full.yaml", &small_tables(File::full()), backend)?;
    run(&lab, &load)?;
    let clean = inventory(&lab)?;
    let calls = calls(&lab, &load, &unload())?;
    for (number, moment) in moments(calls).enumerate() {
        run(&lab, &load)?;
        kill(&lab, &unload(), moment)?;
        if number % 2 == 0 {
            run(&lab, &load).with_context(|| format!("after call {moment}"))?;
            expect(&format!("loaded after call {moment}"), &clean, &lab)?;
            ping(&lab.client1, EIP1)?;
        }
        run(&lab, &unload()).with_context(|| format!("after call {moment}"))?;
        expect(&format!("unloaded after call {moment}"), &before, &lab)?;
    }
    Ok(())
}
