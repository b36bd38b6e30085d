//! `doctor`: what on this machine would keep the router from its work, and what to do about it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::{
    doctor::{self, Finding, Severity},
    instance::Instance,
};

/// Shown behind the options.
pub const HELP: &str = "\
Nothing is changed, nothing is shelled out to but `nft` and `iptables-save`, which list rules. As another user than root it
says what it could not see.

Exit codes:
  0  no problem (there may be warnings)
  1  at least one problem
  2  the file is wrong; the machine was looked at all the same";

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    file: super::ConfigArgs,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
    /// Only what asks for something: warnings and problems
    #[arg(long, short)]
    quiet: bool,
}

pub async fn run(instance: &Instance, arguments: &Arguments) -> Result<ExitCode> {
    let examined = doctor::examine(instance, &arguments.file.config).await;
    let findings: Vec<&Finding> = examined
        .findings
        .iter()
        .filter(|finding| !arguments.quiet || finding.severity >= Severity::Warning)
        .collect();
    if arguments.json {
        say!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print(&findings, &examined.findings);
    }
    Ok(ExitCode::from(if examined.file_is_wrong {
        2
    } else {
        u8::from(worst(&examined.findings) == Severity::Problem)
    }))
}

fn worst(findings: &[Finding]) -> Severity {
    findings
        .iter()
        .map(|finding| finding.severity)
        .max()
        .unwrap_or(Severity::Ok)
}

fn print(shown: &[&Finding], all: &[Finding]) {
    let mut group = "";
    for finding in shown {
        if finding.group != group {
            group = finding.group;
            say!("{group}");
        }
        let subject = match &finding.subject {
            Some(subject) => format!("{subject}: "),
            None => String::new(),
        };
        say!("  {:<8} {subject}{}", finding.severity.word(), finding.what);
        if let Some(remedy) = &finding.remedy {
            say!("  {:<8}   {remedy}", "");
        }
    }
    let count = |severity| {
        let count = all
            .iter()
            .filter(|finding| finding.severity == severity)
            .count();
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {}{plural}", severity.word())
    };
    say!("{}, {}", count(Severity::Problem), count(Severity::Warning));
}
