//! The file, as whoever writes it does: in pieces, wrong, renamed over, removed, there only later.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use vr_tests::each_backend;
use vr_tests::file::File;
use vr_tests::lab::{EIP1, Lab};
use vr_tests::ping::ping;
use vr_tests::program::Outcome;
use vr_tests::require_root;
use vr_tests::service::eventually;

use super::{is_as, settles};

each_backend!(
    the_guest_agents_way_with_a_wrong_file_in_between,
    the_same_beside_the_service,
);

/// Longer than the service waits for quiet.
const LONG: Duration = Duration::from_millis(800);

const WRONG: &str = "if_list:\n  - ipaddr: 10.90.3.370\n    prefix: 24\n";

/// `guest-file-open` with mode `w`, three times `guest-file-write`, `guest-file-close`.
fn write_as_the_agent(path: &Path, text: &str, pause: Duration) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let bytes = text.as_bytes();
    let third = bytes.len() / 3;
    for piece in [
        &bytes[..third],
        &bytes[third..2 * third],
        &bytes[2 * third..],
    ] {
        thread::sleep(pause);
        file.write_all(piece)?;
        // As the agent's `guest-file-flush`.
        file.sync_all()?;
    }
    thread::sleep(pause);
    Ok(())
}

/// `guest-exec` of `vr-userspace load` with `capture-output`, and `guest-exec-status`.
fn exec_load(lab: &Lab, backend: &str) -> Result<Outcome> {
    let path = lab.config_path();
    lab.vr(&[
        "load",
        "--config",
        &path.to_string_lossy(),
        "--backend",
        backend,
    ])
}

fn guest_agent(lab: &Lab, backend: &str) -> Result<()> {
    let path = lab.config_path();
    for (n, file) in [File::small(), File::full()].into_iter().enumerate() {
        write_as_the_agent(&path, &file.to_string(), Duration::from_millis(20))?;
        let outcome = exec_load(lab, backend)?;
        ensure!(outcome.code() == Some(0), "{outcome}");
        is_as(lab, &file, backend)?;

        let before = lab.router.inventory()?;
        write_as_the_agent(&path, WRONG, Duration::from_millis(20))?;
        let outcome = exec_load(lab, backend)?;
        ensure!(outcome.code() == Some(2), "{n}: {outcome}");
        ensure!(outcome.stderr.contains("kylin-vr.yaml:2:"), "{outcome}");
        ensure!(outcome.stderr.contains("10.90.3.370"), "{outcome}");
        ensure!(lab.router.inventory()? == before, "something was touched");
        let failure = lab.status()?["last_failure"]["message"].clone();
        let failure = failure.as_str().unwrap_or_default();
        ensure!(failure.contains("10.90.3.370"), "{failure}");
        ping(&lab.client1, EIP1)?;
    }
    write_as_the_agent(&path, &File::small().to_string(), Duration::ZERO)?;
    ensure!(exec_load(lab, backend)?.code() == Some(0));
    is_as(lab, &File::small(), backend)?;
    ping(&lab.client1, EIP1)
}

fn the_guest_agents_way_with_a_wrong_file_in_between(backend: &str) -> Result<()> {
    guest_agent(&Lab::new()?, backend)
}

fn the_same_beside_the_service(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    lab.write_config(&File::small().to_string())?;
    let service = lab.service(backend)?;
    guest_agent(&lab, backend)?;
    // And without the `exec`.
    let path = lab.config_path();
    write_as_the_agent(&path, &File::full().to_string(), Duration::from_millis(20))?;
    settles(&lab, &File::full(), backend)?;
    ensure!(
        !service.log().contains("keeps changing"),
        "{}",
        service.log()
    );
    service.end().map(drop)
}

/// While a lock is waited for a file grows old.
#[test]
fn an_older_content_is_never_loaded_over_a_newer_one() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.write_config(&File::small().to_string())?;
    let service = lab.service("tc")?;
    let files = lab.run_files()?;
    let lock = files
        .iter()
        .find(|(name, _)| name.ends_with(".lock") && !name.contains("service"));
    let (lock, _) = lock.context("a lock")?;
    let held = OpenOptions::new()
        .write(true)
        .open(lab.run_directory().join(lock))?;
    let held = Flock::lock(held, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    lab.write_config(&File::full().to_string())?;
    eventually("it has read the file, and waits", || {
        let log = service.log();
        let read = log
            .rmatch_indices("is good")
            .next()
            .context("a good file")?
            .0;
        ensure!(log.matches("is good").count() == 2, "{log}");
        ensure!(log[read..].contains("is at work on this router: later"));
        Ok(())
    })?;
    let newer = File::one_subnet();
    let path = lab.write_config(&newer.to_string())?;
    let mut load = lab.vr_command()?;
    load.args(["load", "--config"]).arg(&path);
    let mut load = load.spawn()?;
    drop(held);
    let mut ended = None;
    for _ in 0..60 {
        if ended.is_none() {
            ended = load.try_wait()?;
        }
        let addresses = lab.router.addresses("lan1")?;
        ensure!(
            addresses.is_empty(),
            "the older one was loaded: {addresses:?}"
        );
        thread::sleep(Duration::from_millis(25));
    }
    ensure!(load.wait()?.success());
    settles(&lab, &newer, "tc")?;
    service.end().map(drop)
}

/// Its first two pieces would be valid files, of fewer entries.
#[test]
fn a_file_is_not_read_before_its_writer_has_closed_it() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.write_config(&File::full().to_string())?;
    let service = lab.service("tc")?;
    let loaded = lab.router.inventory()?;
    thread::scope(|scope| -> Result<()> {
        let path = lab.config_path();
        let text = File::full().to_string();
        let writer = scope.spawn(move || write_as_the_agent(&path, &text, LONG));
        while !writer.is_finished() {
            ensure!(lab.router.inventory()? == loaded, "half a file was applied");
            thread::sleep(Duration::from_millis(50));
        }
        writer.join().expect("the writer")
    })?;
    // One who never closes it is waited for, and who knows better says so.
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(lab.config_path())?;
    file.write_all(File::small().to_string().as_bytes())?;
    file_is(&lab, "being_written")?;
    thread::sleep(LONG);
    is_as(&lab, &File::full(), "tc")?;
    service.signal(Signal::SIGHUP)?;
    settles(&lab, &File::small(), "tc")?;
    drop(file);
    service.end().map(drop)
}

fn file_is(lab: &Lab, state: &str) -> Result<()> {
    eventually(&format!("the file is {state}"), || {
        let status = lab.status()?;
        ensure!(status["service"]["file"] == state, "{status:#}");
        Ok(())
    })
}

#[test]
fn a_wrong_file_changes_nothing_and_is_told_of_in_full() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    lab.write_config(&File::full().to_string())?;
    let mut service = lab.service("tc")?;
    let loaded = lab.router.inventory()?;
    lab.write_config("eip_list:\n  - eip: 10.90.2.999\n  - vm-ip: x\ncolor: blue\n")?;
    file_is(&lab, "wrong")?;
    let status = lab.status()?;
    let failure = status["last_failure"]["message"]
        .as_str()
        .context("the failure")?;
    let check = lab.vr(&["check", "--config", &lab.config_path().to_string_lossy()])?;
    ensure!(
        check.stderr.trim() == failure,
        "{failure}\ninstead of\n{}",
        check.stderr
    );
    let log = service.log();
    for word in ["10.90.2.999", "color", "errors; nothing was changed"] {
        ensure!(log.contains(word), "{word} is not in {log}");
    }
    ensure!(lab.router.inventory()? == loaded);
    service.wait_told(&format!("STATUS={} is wrong", lab.config_path().display()))?;
    let text = lab.vr(&["status"])?.ok()?;
    ensure!(text.contains("is wrong"), "{text}");
    // What somebody takes away meanwhile is put back all the same, by the last good file.
    lab.router.remove_address("wan0", &format!("{EIP1}/32"))?;
    eventually("it is put back", || {
        ensure!(lab.router.inventory()? == loaded);
        Ok(())
    })?;
    lab.write_config(&File::small().to_string())?;
    settles(&lab, &File::small(), "tc")?;
    file_is(&lab, "in_force")?;
    service.end().map(drop)
}

#[test]
fn a_file_comes_later_goes_and_is_replaced_in_every_way() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    let path = lab.directory().join("etc/kylin/kylin-vr.yaml");
    let mut command = lab.vr_command()?;
    command
        .args(["run", "--backend", "tc", "--config"])
        .arg(&path);
    let mut service = lab.start_service(command)?;
    // Not even its directory is there, and a manager is not kept waiting for that.
    service.wait_told("READY=1")?;
    ensure!(lab.router.inventory()? == before);
    file_is(&lab, "missing")?;
    fs::create_dir_all(path.parent().context("a directory")?)?;
    fs::write(&path, File::small().to_string())?;
    settles(&lab, &File::small(), "tc")?;
    // Renamed over.
    let new = path.with_extension("new");
    fs::write(&new, File::full().to_string())?;
    fs::rename(&new, &path)?;
    settles(&lab, &File::full(), "tc")?;
    // Gone: what stands stays.
    fs::remove_file(&path)?;
    file_is(&lab, "missing")?;
    is_as(&lab, &File::full(), "tc")?;
    // A link, that is swapped.
    for (name, file) in [("one", File::small()), ("two", File::full())] {
        let dir = lab.directory().join(name);
        fs::create_dir(&dir)?;
        fs::write(dir.join("f.yaml"), file.to_string())?;
    }
    let now = lab.directory().join("now");
    symlink("one", &now)?;
    symlink("../../now/f.yaml", &path)?;
    settles(&lab, &File::small(), "tc")?;
    let next = lab.directory().join("next");
    symlink("two", &next)?;
    fs::rename(&next, &now)?;
    settles(&lab, &File::full(), "tc")?;
    // And what the link leads to is written.
    fs::write(
        lab.directory().join("two/f.yaml"),
        File::small().to_string(),
    )?;
    settles(&lab, &File::small(), "tc")?;
    // A whole tree that goes and comes back.
    fs::remove_dir_all(lab.directory().join("etc"))?;
    file_is(&lab, "missing")?;
    fs::create_dir_all(path.parent().context("a directory")?)?;
    fs::write(&path, File::full().to_string())?;
    settles(&lab, &File::full(), "tc")?;
    service.end().map(drop)
}

#[test]
fn it_starts_with_a_wrong_file_and_leaves_what_stands() -> Result<()> {
    require_root!();
    let lab = Lab::new()?;
    let before = lab.router.inventory()?;
    lab.write_config(WRONG)?;
    let service = lab.service("tc")?;
    file_is(&lab, "wrong")?;
    ensure!(lab.router.inventory()? == before);
    let failure = lab.status()?["last_failure"]["message"].clone();
    ensure!(
        failure
            .as_str()
            .is_some_and(|text| text.contains("10.90.3.370")),
        "{failure}"
    );
    lab.write_config(&File::full().to_string())?;
    settles(&lab, &File::full(), "tc")?;
    service.end()?;
    lab.write_config(WRONG)?;
    let service = lab.service("tc")?;
    let loaded = lab.router.inventory()?;
    thread::sleep(LONG);
    ensure!(lab.router.inventory()? == loaded);
    ping(&lab.client1, EIP1)?;
    service.end().map(drop)
}
