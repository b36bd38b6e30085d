//! `cargo xtask demo`: real traffic through a lab's router, and a table of what each side saw of it.

mod rows;
mod table;

use std::io::{Write, stderr};
use std::time::Instant;

use anyhow::{Result, anyhow, bail, ensure};
use clap::ValueEnum;
use vr_tests::lab::Lab;
use vr_tests::root::missing_privilege;
use vr_tests::vr::example;

use crate::lab::build;
use crate::shell::heading;
use rows::{Check, Seen};

/// The data planes to show.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Backend {
    /// The XDP program.
    Xdp,
    /// The TC programs.
    Tc,
    /// The iptables rules.
    Iptables,
    /// All three, one after the other.
    All,
}

impl Backend {
    fn names(self) -> &'static [&'static str] {
        match self {
            Backend::Xdp => &["xdp"],
            Backend::Tc => &["tc"],
            Backend::Iptables => &["iptables"],
            Backend::All => &["xdp", "tc", "iptables"],
        }
    }
}

/// Stands for the result of what was not tried after a failed load.
const NOT_TRIED: &str = "not tried, as nothing is loaded";

/// One line of the table.
struct Line {
    backend: &'static str,
    check: Check,
    result: Result<Seen>,
}

/// An example with the lines of its table.
struct Example {
    file: &'static str,
    lines: Vec<Line>,
}

/// Shows the translations with each of the wanted data planes.
pub fn run(backend: Backend) -> Result<()> {
    if let Some(reason) = missing_privilege() {
        bail!("the demo makes network namespaces, and {reason}");
    }
    build()?;
    let mut examples = ["kylin-vr.yaml", "two-subnets.yaml", "forwards.yaml"].map(|file| Example {
        file,
        lines: Vec::new(),
    });
    let mut packets = Vec::new();
    for backend in backend.names() {
        packets.push((backend, show(backend, &mut examples)?));
    }
    eprintln!();
    for Example { file, lines } in &mut examples {
        // The data planes side by side; the order of the rows stays.
        let order = rows::names();
        lines.sort_by_key(|line| {
            order
                .iter()
                .position(|name| *name == (line.check.row, line.check.traffic))
        });
        println!("examples/{file}\n{}\n", table::of(lines));
    }
    for (backend, packets) in packets {
        if packets.is_empty() {
            continue;
        }
        println!("What the programs did with --backend {backend}:");
        packets.iter().for_each(|line| println!("  {line}"));
    }
    judge(&examples)
}

/// Builds a lab, loads each example in turn into its router with this data plane, and tries all there is to try.
/// Returns the router's count of packets.
fn show(backend: &'static str, examples: &mut [Example]) -> Result<Vec<String>> {
    let lab = Lab::new()?;
    // By default the kernel says only so many errors a second to one host.
    lab.router.sysctl("ipv4.icmp_ratelimit", "0")?;
    let before = lab.router.inventory()?;
    for Example { file, lines } in &mut *examples {
        heading(&format!("{backend}: {file}"));
        let check = rows::load();
        let result = watch(&check, || {
            rows::loaded(&lab.load(&example(file)?, backend)?)
        });
        let loaded = result.is_ok();
        lines.push(Line {
            backend,
            check,
            result,
        });
        for check in rows::checks()
            .into_iter()
            .filter(|check| check.file.is_none_or(|only| only == *file))
        {
            let result = if loaded {
                watch(&check, || (check.run)(&lab))
            } else {
                Err(anyhow!(NOT_TRIED))
            };
            lines.push(Line {
                backend,
                check,
                result,
            });
        }
    }
    let packets = table::packets(&lab);
    let check = rows::unload();
    let result = watch(&check, || {
        lab.vr(&["unload"])?.ok()?;
        rows::compare(&before, &lab.router.inventory()?)
    });
    if let Some(example) = examples.last_mut() {
        example.lines.push(Line {
            backend,
            check,
            result,
        });
    }
    Ok(packets)
}

/// Runs one check and says so: first what is tried, then how it went.
fn watch(check: &Check, run: impl FnOnce() -> Result<Seen>) -> Result<Seen> {
    eprint!("  {:>4}  {:<46}", check.row, check.traffic);
    stderr().flush()?;
    let started = Instant::now();
    let result = run();
    let word = if result.is_ok() { "ok" } else { "NOT OK" };
    eprintln!(" {word} ({} ms)", started.elapsed().as_millis());
    result
}

/// Prints what went wrong in full, and fails if anything did.
fn judge(examples: &[Example]) -> Result<()> {
    let mut all = 0;
    let mut failed = 0;
    for Line {
        backend,
        check,
        result,
    } in examples.iter().flat_map(|example| &example.lines)
    {
        all += 1;
        let Err(error) = result else { continue };
        failed += 1;
        if error.to_string() != NOT_TRIED {
            println!(
                "\n{} {} with {backend}: {error:#}",
                check.row, check.traffic
            );
        }
    }
    ensure!(failed == 0, "{failed} of {all} did not go as they should");
    println!("All {all} went as they should.");
    Ok(())
}
