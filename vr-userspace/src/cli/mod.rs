//! The command line: one file a verb.

mod check;
mod doctor;
mod first_generation;
mod generate;
pub(crate) mod load;
mod plan;
mod run;
mod sessions;
pub(crate) mod situation;
mod status;
mod trace;
mod unload;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::{
    config::Rejected,
    desired::Backend,
    instance::Instance,
    lock::Busy,
    say::{self, tell},
    service::AlreadyRuns,
};

/// The configuration's place. `KYLIN_VR_CONFIG` overrides it.
const CONFIG: &str = "/etc/kylin-vr/kylin-vr.yaml";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  could not apply; everything is as it was before
  2  the file is wrong; nothing was touched
  3  another call (with run: another service) holds the lock, and --wait ran out";

/// Makes this machine the virtual router that kylin-vr.yaml describes: NAT in XDP and TC programs.
#[derive(Debug, Parser)]
#[command(name = "vr-userspace", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the machine be what the file says, and exit; what is set up stays. Again, it changes only what differs
    #[command(visible_alias = "reload")]
    Load(LoadArgs),
    /// Load, stay in the foreground, and follow the file and NICs that come and go: the service
    #[command(after_help = run::HELP)]
    Run(run::Arguments),
    /// Take everything away again that load put there, and nothing else
    Unload(WaitArgs),
    /// Validate the file only; needs no privilege
    Check(ConfigArgs),
    /// Print what load would change, and touch nothing
    Plan(PlanArgs),
    /// Show what is loaded: interfaces, pending entries, counters, the last failure
    Status(StatusArgs),
    /// List the flows that the router remembers, live: masquerade, port forwards, hairpin
    #[command(after_help = sessions::HELP)]
    Sessions(sessions::Arguments),
    /// Print every packet that the programs see, and what becomes of it. The router goes on, more slowly
    Trace(TraceArgs),
    /// Look for what on this machine would keep the router from its work, and say what to do; changes nothing
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::Arguments),
    /// Make man pages or shell completions
    #[command(hide = true)]
    Generate(generate::Arguments),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "KYLIN_VR_CONFIG", default_value = CONFIG)]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct WaitArgs {
    /// How long to wait for another call that is at work
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

#[derive(Debug, Args)]
struct PlanArgs {
    #[command(flatten)]
    file: ConfigArgs,
    /// How packets are to be translated; without it `auto`, or while the service runs what it has
    #[arg(long, value_enum)]
    backend: Option<Backend>,
}

#[derive(Debug, Args)]
struct LoadArgs {
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
struct TraceArgs {
    /// How long; interrupt it to end earlier. Other calls wait meanwhile
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u64,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

impl WaitArgs {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.wait)
    }
}

/// Runs the command of this process's arguments; the exit code is that of the table in `--help`.
#[must_use]
pub fn main() -> ExitCode {
    let words = first_generation::translated(std::env::args_os().collect());
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Not clap's own 2, which means that the file is wrong.
            let code = if error.use_stderr() { 1 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let changes = matches!(cli.verb, Verb::Load(_) | Verb::Run(_) | Verb::Unload(_));
    match run(cli.verb) {
        Ok(code) => match say::lost() {
            None => code,
            Some(why) => {
                tell!("error: cannot write to standard output: {why}");
                // What has been done is done, whoever could not be told of it.
                if changes { code } else { ExitCode::from(1) }
            }
        },
        Err(error) => {
            if let Some(rejected) = error.downcast_ref::<Rejected>() {
                tell!("{rejected}");
                return ExitCode::from(2);
            }
            tell!("error: {error:#}");
            let held = error.is::<Busy>() || error.is::<AlreadyRuns>();
            ExitCode::from(if held { 3 } else { 1 })
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Doctor(args) => {
            return runtime()?.block_on(doctor::run(&Instance::current()?, &args));
        }
        Verb::Generate(args) => generate::run(&args),
        Verb::Check(args) => check::run(&args.config),
        Verb::Load(args) => runtime()?.block_on(load::run(
            &Instance::current()?,
            &args.plan.file.config,
            args.plan.backend,
            args.wait.patience(),
        )),
        Verb::Run(args) => run::run(&Instance::current()?, &args),
        Verb::Unload(args) => {
            runtime()?.block_on(unload::run(&Instance::current()?, args.patience()))
        }
        Verb::Plan(args) => runtime()?.block_on(plan::run(
            &Instance::current()?,
            &args.file.config,
            args.backend,
        )),
        Verb::Sessions(args) => sessions::run(&Instance::current()?, &args),
        Verb::Trace(args) => runtime()?.block_on(trace::run(
            &Instance::current()?,
            Duration::from_secs(args.seconds),
            args.wait.patience(),
        )),
        Verb::Status(args) => runtime()?.block_on(status::run(&Instance::current()?, args.json)),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// One thread: the work is a few system calls in order, and all of them belong to this thread's network namespace.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Reads a file, and prints its warnings.
fn read(config: &std::path::Path) -> Result<crate::config::Config> {
    let accepted = crate::config::read(config)?;
    // There may be a thousand: in one go, not a system call for each.
    let warnings: Vec<_> = accepted.warnings.iter().map(ToString::to_string).collect();
    if !warnings.is_empty() {
        tell!("{}", warnings.join("\n"));
    }
    Ok(accepted.config)
}

fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    anyhow::bail!(
        "root is needed to change addresses and to load BPF programs; `check` works without"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn reload_is_load() {
        for word in ["load", "reload"] {
            let cli = Cli::try_parse_from(["vr-userspace", word, "--backend", "tc", "--wait", "5"])
                .unwrap();
            assert!(matches!(
                cli.verb,
                Verb::Load(LoadArgs {
                    plan: PlanArgs {
                        backend: Some(Backend::Tc),
                        ..
                    },
                    wait: WaitArgs { wait: 5 }
                })
            ));
        }
    }
}
