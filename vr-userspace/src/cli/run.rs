//! `run`: the service.

use anyhow::Result;

use super::{ConfigArgs, WaitArgs};
use crate::{
    desired::Backend,
    instance::Instance,
    service::{self, log},
};

pub const HELP: &str = "\
Signals:
  SIGHUP           read the file again now, and apply it
  SIGTERM, SIGINT  end; what is set up stays, and goes on translating

A file that is wrong or missing ends nothing: what stands stays, and the next good file is applied.
`status` says what the service is at.";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    file: ConfigArgs,
    /// How packets are to be translated
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// What to log: error, warn, info, debug, trace, or `tracing` directives (vr_userspace::service=debug)
    #[arg(
        long,
        value_name = "LEVEL",
        env = "KYLIN_VR_LOG",
        default_value = "info"
    )]
    log_level: String,
    #[command(flatten)]
    wait: WaitArgs,
}

pub fn run(instance: &Instance, args: &Arguments) -> Result<()> {
    super::require_root()?;
    log::start(&args.log_level)?;
    super::runtime()?.block_on(service::run(
        instance,
        &args.file.config,
        args.backend,
        args.wait.patience(),
    ))
}
