//! One virtual machine: started, watched, and read out.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::shell;

/// How long a machine may run.
const LIMIT: Duration = Duration::from_secs(300);

/// The machine's NICs: on which of the two wires, and with which MAC. The first two are the router's, those
/// of examples/kylin-vr.yaml; vm/smoke.sh knows the others.
const NICS: [(u8, &str); 4] = [
    (0, "52:54:84:00:08:45"),
    (1, "52:54:84:11:00:03"),
    (0, "52:54:84:00:00:0c"),
    (1, "52:54:84:11:00:0e"),
];

/// How a machine's run ended.
#[derive(Debug, PartialEq)]
pub struct Report {
    /// The kernel's own name.
    pub release: String,
    /// Seconds from the kernel's start to the script's.
    pub boot: f32,
    /// Seconds from the kernel's start to the script's end.
    pub all: f32,
    /// The script's exit code.
    pub code: i32,
}

/// Boots a kernel, waits for the machine's end, and reads its log.
///
/// # Errors
/// When the machine cannot be started, hangs, or ends without the script's exit code.
pub fn run(kernel: &Kernel, initrd: &Path, log: &Path) -> Result<Report> {
    let start = Instant::now();
    // What an earlier run left must not be taken for this one's.
    let _ = fs::remove_file(log);
    let mut child = command(kernel, initrd, log)?
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let ended = shell::wait_within(&mut child, LIMIT)?;
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let told = |line: &&str| {
        ["smoke: ", "error: "]
            .iter()
            .any(|mark| line.starts_with(mark))
    };
    for line in text.lines().filter(told) {
        shell::note(line);
    }
    if let Some(report) = parse(&text) {
        shell::note(&format!(
            "{:.0} s; the whole log: {}",
            start.elapsed().as_secs_f32(),
            log.display()
        ));
        return Ok(report);
    }
    let tail: Vec<&str> = text.lines().rev().take(15).collect();
    let tail: String = tail
        .iter()
        .rev()
        .map(|line| format!("\n   | {line}"))
        .collect();
    let how = match ended {
        Some(status) => format!("ended ({status}) before its script did"),
        None => format!("was stopped after {} s", LIMIT.as_secs()),
    };
    bail!(
        "the machine {how}; its log, {}, ends with:{tail}",
        log.display()
    )
}

fn command(kernel: &Kernel, initrd: &Path, log: &Path) -> Result<Command> {
    let mut command = Command::new("qemu-system-x86_64");
    command
        // Emulation works everywhere, also where a hypervisor pretends to offer KVM.
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "512",
        ])
        .args(["-display", "none", "-nodefaults", "-no-reboot", "-serial"])
        .arg(format!("file:{}", log.display()))
        .arg("-kernel")
        .arg(kernel.image()?)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyS0 quiet panic=-1 net.ifnames=0"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    for (number, (wire, mac)) in NICS.iter().enumerate() {
        command
            .args(["-netdev", &format!("hubport,id=n{number},hubid={wire}")])
            .args([
                "-device",
                &format!("virtio-net-pci,netdev=n{number},mac={mac},romfile="),
            ]);
    }
    Ok(command)
}

/// Reads the two marks that vm/init.sh prints.
fn parse(log: &str) -> Option<Report> {
    let words = |mark: &str| {
        let line = log
            .lines()
            .find_map(|line| Some(line.split_once(mark)?.1))?;
        Some(line.split_whitespace().collect::<Vec<_>>())
    };
    let (start, end) = (words("KYLIN-VR-START ")?, words("KYLIN-VR-EXIT ")?);
    Some(Report {
        boot: start.first()?.parse().ok()?,
        release: (*start.get(1)?).to_owned(),
        code: end.first()?.parse().ok()?,
        all: end.get(1)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_are_read() {
        let log = "[    0.1] noise\r\nKYLIN-VR-START 2.51 5.10.0-36-cloud-amd64\r\nsmoke: x\r\n\
            [   4.0] noise KYLIN-VR-EXIT 7 4.02\r\n";
        let report = Report {
            release: "5.10.0-36-cloud-amd64".to_owned(),
            boot: 2.51,
            all: 4.02,
            code: 7,
        };
        assert_eq!(parse(log), Some(report));
        assert_eq!(parse("KYLIN-VR-START 2.51 5.10"), None);
    }
}
