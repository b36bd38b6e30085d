//! The tasks of this repository: `cargo xtask --help`. Nothing of the product is in here.

mod apt;
mod bench;
mod bpf;
mod demo;
mod fingerprint;
mod lab;
mod libtest;
mod lint;
mod miri;
mod package;
mod packages;
mod rustc;
mod setup;
mod shell;
mod source;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

/// Builds, checks and tests kylin-vr.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring the tools for the BPF crate into target/ (done by the other tasks when needed).
    Setup {
        /// Take the source of `core` from this origin only.
        #[arg(long)]
        from: Option<source::Origin>,
    },
    /// Build the BPF object and the program around it.
    Build {
        /// Build the program (not the object) without optimisation.
        #[arg(long)]
        debug: bool,
        /// Build the BPF object only.
        #[arg(long)]
        ebpf_only: bool,
    },
    /// Check format, clippy, documentation, licences, dependencies and file sizes.
    Lint,
    /// Build, and run every test; the last line is `N passed, N failed`.
    Test {
        /// Run only the tests whose names contain this.
        filter: Option<String>,
    },
    /// Run the pure core's tests under Rust's interpreter, which sees undefined behaviour.
    Miri,
    /// Boot other kernels in virtual machines, and try the program there.
    Vm {
        /// Run the smoke test (the only thing that can be run there so far).
        #[arg(long, required = true)]
        smoke: bool,
        /// A kernel: 5.10, 6.1, 6.12 or newest. Without any: 5.10 and newest.
        #[arg(long)]
        kernel: Vec<String>,
    },
    /// All of it: lint, test, the virtual machines and the demo.
    Ci,
    /// Build a lab of network namespaces that stands, and use it.
    #[command(subcommand)]
    Lab(lab::Task),
    /// Make a .deb and an .rpm under target/packages.
    Package {
        /// For this processor. Without any: this machine's.
        #[arg(long)]
        arch: Vec<package::Arch>,
        /// As this version instead of the workspace's.
        #[arg(long)]
        as_version: Option<String>,
    },
    /// Make a root with nothing but Debian in it, to try packages in; prints the archive's path.
    CleanRoot,
    /// Measure this router against what its users have today.
    Bench(bench::Options),
    /// Send real traffic through a lab's router, and show what each side saw.
    Demo {
        /// The data planes to show.
        #[arg(long, default_value = "all")]
        backend: demo::Backend,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { from } => setup::report(&setup::run(from)?),
        Task::Build { debug, ebpf_only } => build(debug, ebpf_only)?,
        Task::Lint => lint::run()?,
        Task::Test { filter } => {
            // Its last line is the sum, so it has said itself by then what went wrong.
            let well = test::run(filter.as_deref());
            return Ok(if well {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Task::Miri => miri::run()?,
        Task::Vm { kernel, .. } => vm::smoke(&kernel)?,
        Task::Ci => ci()?,
        Task::Lab(task) => lab::run(&task)?,
        Task::Bench(options) => bench::run(&options)?,
        Task::Demo { backend } => demo::run(backend)?,
        Task::CleanRoot => println!("{}", package::root::archive()?.display()),
        Task::Package {
            mut arch,
            as_version,
        } => {
            if arch.is_empty() {
                arch.push(package::Arch::own()?);
            }
            package::run(&arch, as_version.as_deref())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn build(debug: bool, ebpf_only: bool) -> Result<()> {
    bpf::build(&setup::run(None)?)?;
    if ebpf_only {
        return Ok(());
    }
    shell::heading("vr-userspace");
    let mut cargo = shell::cargo();
    cargo.args(["build", "--package", "vr-userspace"]);
    if !debug {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)
}

fn ci() -> Result<()> {
    lint::run()?;
    ensure!(test::run(None), "not all tests passed");
    vm::smoke(&[])?;
    demo::run(demo::Backend::All)
}
