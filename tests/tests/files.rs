//! Files that are wrong, missing, huge or strange; and several who apply a file at once.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{EIP1, Lab};
use vr_tests::ping::ping;
use vr_tests::program::{self, Outcome};
use vr_tests::require_root;
use vr_tests::vr;

each_backend!(
    six_mistakes_are_six_errors_and_nothing_is_touched,
    bytes_of_any_kind_are_an_error_and_nothing_is_touched,
    a_file_that_is_missing_or_no_file_is_an_error,
    who_waits_for_the_lock_is_told_for_whom,
    who_has_waited_loads_the_file_as_it_is_then,
    twenty_loads_at_once_all_end_well,
    loads_and_unloads_at_once_end_in_one_or_the_other,
    a_run_directory_that_cannot_be_written_is_an_error_before_anything_is_touched,
);

/// Six lists' worth of mistakes, each alone in its line, and the lines.
const MISTAKES: &str = "\
if_list:
  - ipaddr: 10.90.3.37
    prefix: 33
    mac: 52:54:84:00:08:45
    gateway: 10.90.3.1
  - ipaddr: 192.168.100.254
    prefix: 24
    mac: 01:54:84:11:00:03
  - ipaddr: 224.0.0.1
    prefix: 24
    mac: 52:54:84:11:00:04
eip_list:
  - eip: 10.90.2.250
    vm-ip: 192.168.100.190
  - eip: 10.90.2.250
    vm-ip: 192.168.100.191
port_forward_list:
  - eip: 10.90.2.254
    protocal: icmp
    port: 80
    vm-port: 80
    vm-ip: 192.168.100.190
color: blue
";
const MISTAKEN: [(usize, &str); 6] = [
    (3, "33"),
    (8, "01:54:84:11:00:03"),
    (9, "224.0.0.1"),
    (15, "10.90.2.250"),
    (19, "icmp"),
    (23, "color"),
];

/// The record of what is loaded, but for the last failure, which `status` is to tell.
fn record(lab: &Lab) -> Result<Option<serde_json::Value>> {
    let Some((_, bytes)) = lab
        .run_files()?
        .into_iter()
        .find(|(name, _)| name.ends_with(".json"))
    else {
        return Ok(None);
    };
    let mut record: serde_json::Value = serde_json::from_slice(&bytes)?;
    record["last_failure"].take();
    Ok(Some(record))
}

/// Checks that every verb refuses `bytes` with 2, on a fresh machine and on one that is loaded, and touches nothing.
fn refused(bytes: &[u8], backend: &str, judge: impl Fn(&Outcome) -> Result<()>) -> Result<()> {
    let lab = Lab::new()?;
    let path = lab.config_path();
    let all = |lab: &Lab| -> Result<()> {
        fs::write(&path, bytes)?;
        let (inventory, record) = (lab.router.inventory()?, record(lab)?);
        let file = path.to_string_lossy();
        for words in [
            &["check", "--config", &file][..],
            &["plan", "--config", &file, "--backend", backend],
            &["load", "--config", &file, "--backend", backend],
        ] {
            let outcome = lab.vr(words)?;
            ensure!(outcome.code() == Some(2), "{outcome}");
            ensure!(outcome.stdout.is_empty(), "{outcome}");
            judge(&outcome)?;
        }
        ensure!(
            lab.router.inventory()? == inventory,
            "something was touched"
        );
        ensure!(self::record(lab)? == record, "the record was touched");
        Ok(())
    };
    all(&lab)?;
    failed(&lab)?;
    // That is all that is kept of it, and `unload` takes it away.
    ensure!(lab.status()?["loaded"] == false);
    lab.unloads()?;
    ensure!(lab.run_files()?.is_empty(), "{:?}", lab.run_files()?);
    all(&lab)?;
    lab.loads(&File::small(), backend)?;
    ensure!(lab.status()?["last_failure"].is_null());
    all(&lab)?;
    failed(&lab)?;
    ping(&lab.client1, EIP1)?;
    lab.loads(&File::small(), backend)?;
    ensure!(lab.status()?["last_failure"].is_null());
    Ok(())
}

/// Checks that `status` tells of a file that was wrong.
fn failed(lab: &Lab) -> Result<()> {
    let failure = lab.status()?["last_failure"]["message"].clone();
    ensure!(
        failure
            .as_str()
            .is_some_and(|text| text.contains("kylin-vr.yaml")),
        "{failure}"
    );
    Ok(())
}

fn six_mistakes_are_six_errors_and_nothing_is_touched(backend: &str) -> Result<()> {
    refused(MISTAKES.as_bytes(), backend, |outcome| {
        for (line, value) in MISTAKEN {
            let place = format!("kylin-vr.yaml:{line}:");
            let at = outcome.stderr.find(&place);
            let at = at.with_context(|| format!("no error in line {line}: {outcome}"))?;
            let message = outcome.stderr[at..].split("\n\n").next().unwrap_or("");
            ensure!(message.contains(value), "{value} is not in {message}");
            ensure!(message.contains("allowed"), "{message}");
        }
        ensure!(outcome.stderr.contains("6 errors"), "{outcome}");
        Ok(())
    })
}

fn bytes_of_any_kind_are_an_error_and_nothing_is_touched(backend: &str) -> Result<()> {
    let noise: Vec<u8> = (0..100_000u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    let mut bomb = String::from("a: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let before = format!("*a{}", n - 1);
        let list = [before.as_str(); 10].join(", ");
        bomb += &format!("b{n}: &a{n} [{list}]\n");
    }
    let entry = "  - eip: 10.0.0.1\n    vm-ip: 10.0.0.2\n";
    let big = format!("eip_list:\n{}", entry.repeat(10_000_000 / entry.len()));
    let deep = "[".repeat(100_000);
    let cases: [(&str, &[u8]); 8] = [
        ("noise", &noise),
        ("zeros", &[0; 4096]),
        ("an alias bomb", bomb.as_bytes()),
        ("10 MB of one EIP", big.as_bytes()),
        ("a deep nest", deep.as_bytes()),
        ("half a file", b"if_list:\n  - ipaddr: 10.90.3.37\n    pre"),
        ("two documents", b"if_list: []\n---\nif_list: []\n"),
        ("a word", b"hello"),
    ];
    for (what, bytes) in cases {
        refused(bytes, backend, |outcome| {
            let message = outcome.stderr.trim();
            ensure!(
                !message.is_empty() && message.len() < 1_000_000,
                "{outcome}"
            );
            ensure!(!message.contains("panicked"), "{outcome}");
            Ok(())
        })
        .with_context(|| what.to_owned())?;
    }
    Ok(())
}

fn a_file_that_is_missing_or_no_file_is_an_error(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let missing = lab.directory().join("nowhere/kylin-vr.yaml");
    let pipe = lab.directory().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)?;
    for path in [missing.as_path(), lab.directory(), &pipe] {
        let file = path.to_string_lossy();
        for words in [
            &["check", "--config", &file][..],
            &["load", "--config", &file, "--backend", backend],
        ] {
            let outcome = lab.vr(words)?;
            ensure!(outcome.code() == Some(2), "{outcome}");
            ensure!(outcome.stderr.contains(&*file), "{outcome}");
        }
    }
    ensure!(lab.router.inventory()? == before);
    lab.unloads()?;
    ensure!(lab.run_files()?.is_empty());
    Ok(())
}

#[test]
fn check_needs_no_privilege_and_load_says_that_it_does() -> Result<()> {
    require_root!();
    /// `nobody`, on every distribution.
    const NOBODY: u32 = 65534;
    let lab = Lab::new()?;
    let path = lab.write_config(&File::full().to_string())?;
    // A place where anybody may read, and a copy of the program that anybody may run.
    fs::set_permissions(lab.directory(), fs::Permissions::from_mode(0o755))?;
    let binary = lab.directory().join("vr-userspace");
    fs::copy(vr::binary()?, &binary)?;
    let file = path.to_string_lossy();
    // In this process's own namespace: nobody may not enter another.
    let as_nobody = |words: &[&str]| -> Result<Outcome> {
        let mut command = Command::new(&binary);
        command
            .args(words)
            .env(vr::RUN_VARIABLE, lab.run_directory())
            .uid(NOBODY)
            .gid(NOBODY);
        program::run(command, vr::LIMIT)
    };
    let said = as_nobody(&["check", "--config", &file])?.ok()?;
    ensure!(said.contains("valid"), "{said}");
    fs::write(&path, MISTAKES)?;
    let outcome = as_nobody(&["check", "--config", &file])?;
    ensure!(outcome.code() == Some(2), "{outcome}");
    lab.write_config(&File::full().to_string())?;
    for words in [&["load", "--config", &file][..], &["unload"]] {
        let outcome = as_nobody(words)?;
        ensure!(
            outcome.code() == Some(1) && outcome.stderr.contains("root"),
            "{outcome}"
        );
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let outcome = as_nobody(&["check", "--config", &file])?;
    ensure!(outcome.code() == Some(2), "{outcome}");
    ensure!(!lab.run_directory().exists());
    Ok(())
}

/// A pipeline's end that has gone, such as `head`, or a disk that is full: the words are lost, and nothing else.
#[test]
fn who_does_not_listen_ends_no_work() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let file = lab.write_config(&File::small().to_string())?;
    let closed = || -> Result<Stdio> { Ok(std::io::pipe()?.1.into()) };
    let full = || -> Result<Stdio> { Ok(OpenOptions::new().write(true).open("/dev/full")?.into()) };
    for deaf in [&closed as &dyn Fn() -> Result<Stdio>, &full] {
        for words in [&["load", "--backend", "tc", "--config"][..], &["unload"]] {
            let mut command = lab.vr_command()?;
            command.args(words).stdout(deaf()?).stderr(deaf()?);
            if words.len() > 1 {
                command.arg(&file);
            }
            let status = command.status()?;
            ensure!(status.success(), "{words:?}: {status}");
            ensure!(lab.status()?["loaded"] == (words[0] == "load"), "{words:?}");
        }
    }
    lab.loads(&File::small(), "tc")?;
    // A result that is lost is an error; one that nobody wanted to read to the end is none.
    for (deaf, code) in [(closed()?, 0), (full()?, 1)] {
        let mut command = lab.vr_command()?;
        let outcome = command.arg("status").stdout(deaf).stderr(Stdio::piped());
        let outcome = outcome.output()?;
        let told = String::from_utf8_lossy(&outcome.stderr);
        ensure!(
            outcome.status.code() == Some(code),
            "{} {told}",
            outcome.status
        );
        ensure!(!told.contains("panicked"), "{told}");
        ensure!(told.contains("standard output") == (code == 1), "{told}");
    }
    Ok(())
}

/// The lock of the lab's router, taken as another call would.
fn hold_lock(lab: &Lab) -> Result<Flock<fs::File>> {
    let lock = lab.run_files()?.into_iter().map(|(name, _)| name);
    let lock: Vec<_> = lock.filter(|name| name.ends_with(".lock")).collect();
    ensure!(lock.len() == 1, "{lock:?}");
    let path = lab.run_directory().join(&lock[0]);
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    Ok(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?)
}

/// Else the older of two files would be loaded over the newer one.
fn who_has_waited_loads_the_file_as_it_is_then(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.loads(&File::small(), backend)?;
    let held = hold_lock(&lab)?;
    let path = lab.write_config(&File::small().to_string())?;
    let mut load = lab.vr_command()?;
    load.args(["load", "--backend", backend, "--config"])
        .arg(&path);
    let mut load = load.stderr(Stdio::piped()).spawn()?;
    let mut told = String::new();
    // It says that it waits once it has read the file.
    BufReader::new(load.stderr.take().context("no stderr")?).read_line(&mut told)?;
    ensure!(told.contains("waiting"), "{told}");
    lab.write_config(&File::full().to_string())?;
    drop(held);
    let status = load.wait()?;
    ensure!(status.success(), "{status}");
    ensure!(lab.plan(backend)?.trim() == "nothing to change");
    Ok(())
}

fn who_waits_for_the_lock_is_told_for_whom(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.loads(&File::small(), backend)?;
    // By no call: what stands in the file is of one that has ended.
    let held = hold_lock(&lab)?;
    let holder = format!("process {}", std::process::id());

    let before = lab.router.inventory()?;
    let file = lab.write_config(&File::full().to_string())?;
    let file = file.to_string_lossy();
    for words in [
        &[
            "load",
            "--config",
            &file,
            "--backend",
            backend,
            "--wait",
            "1",
        ][..],
        &[
            "load",
            "--config",
            &file,
            "--backend",
            backend,
            "--wait",
            "0",
        ],
        &["unload", "--wait", "1"],
    ] {
        let outcome = lab.vr(words)?;
        ensure!(outcome.code() == Some(3), "{outcome}");
        ensure!(outcome.stderr.contains(&holder), "{outcome}");
        ensure!(outcome.stderr.contains("since"), "{outcome}");
    }
    ensure!(lab.router.inventory()? == before);
    // Those that change nothing wait for nobody.
    lab.plan(backend)?;
    lab.status()?;
    // And one who is patient goes on as soon as the holder has gone.
    let mut command = lab.vr_command()?;
    command.args(["load", "--config", &file, "--backend", backend]);
    let patient = thread::spawn(move || program::run(command, vr::LIMIT));
    thread::sleep(std::time::Duration::from_millis(200));
    ensure!(!patient.is_finished(), "it did not wait");
    drop(held);
    let outcome = patient.join().expect("the waiting thread")?;
    ensure!(outcome.stderr.contains(&holder), "{outcome}");
    outcome.ok()?;
    ensure!(lab.status()?["eips"] == 3);
    Ok(())
}

/// Runs these commands at once and returns what came of them.
fn at_once(lab: &Lab, commands: &[Vec<String>]) -> Result<Vec<Outcome>> {
    thread::scope(|scope| {
        let run = |words: &Vec<String>| -> Result<Outcome> {
            let mut command = lab.vr_command()?;
            command.args(words);
            program::run(command, vr::LIMIT)
        };
        let threads: Vec<_> = commands
            .iter()
            .map(|words| scope.spawn(move || run(words)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread that runs a command"))
            .collect()
    })
}

fn load_of(lab: &Lab, name: &str, file: &File, backend: &str) -> Result<Vec<String>> {
    let path = lab.directory().join(name);
    fs::write(&path, file.to_string())?;
    let path = path.to_string_lossy();
    let words = ["load", "--config", &path, "--backend", backend];
    Ok(words.map(str::to_owned).to_vec())
}

fn twenty_loads_at_once_all_end_well(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let full = load_of(&lab, "full.yaml", &File::full(), backend)?;
    for outcome in at_once(&lab, &vec![full.clone(); 20])? {
        outcome.ok()?;
    }
    ping(&lab.client1, EIP1)?;
    let loaded = lab.router.inventory()?;
    // And of two files: whichever was last, it is there whole.
    let small = load_of(&lab, "small.yaml", &File::small(), backend)?;
    let mixed: Vec<_> = (0..20)
        .map(|n| if n % 2 == 0 { &full } else { &small }.clone())
        .collect();
    for outcome in at_once(&lab, &mixed)? {
        outcome.ok()?;
    }
    ping(&lab.client1, EIP1)?;
    lab.loads(&File::full(), backend)?;
    ensure!(lab.router.inventory()? == loaded);
    lab.unloads()?;
    ensure!(lab.router.inventory()? == before);
    Ok(())
}

fn loads_and_unloads_at_once_end_in_one_or_the_other(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let load = load_of(&lab, "full.yaml", &File::full(), backend)?;
    let unload = vec!["unload".to_owned()];
    for _ in 0..3 {
        let mixed: Vec<_> = (0..10)
            .map(|n| if n % 2 == 0 { &load } else { &unload }.clone())
            .collect();
        for outcome in at_once(&lab, &mixed)? {
            outcome.ok()?;
        }
        if lab.status()?["loaded"] == true {
            ping(&lab.client1, EIP1)?;
        } else {
            ensure!(lab.router.inventory()? == before);
        }
    }
    lab.unloads()?;
    ensure!(lab.router.inventory()? == before);
    Ok(())
}

fn a_run_directory_that_cannot_be_written_is_an_error_before_anything_is_touched(
    backend: &str,
) -> Result<()> {
    let mut lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let file = lab.directory().join("a-file");
    fs::write(&file, "not a directory")?;
    lab.set_env(vr::RUN_VARIABLE, &file.join("run").to_string_lossy());
    let outcome = lab.load(&File::full().to_string(), backend)?;
    ensure!(outcome.code() == Some(1), "{outcome}");
    ensure!(outcome.stderr.contains("a-file"), "{outcome}");
    ensure!(lab.router.inventory()? == before);
    Ok(())
}
