//! `generate`: man pages and shell completions, made from the definition of the command line itself. For the packages.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Args, Command, CommandFactory as _, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// What can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// vr-userspace(8), and a page for each verb.
    Man,
    /// Completions for bash, zsh and fish.
    Completions,
}

#[derive(Debug, Args)]
pub struct Arguments {
    /// What is to be made
    what: What,
    /// Where
    directory: PathBuf,
}

/// Where the handwritten page of the file is.
const SEE_ALSO: &str = "kylin-vr.yaml(5)";

pub fn run(arguments: &Arguments) -> Result<()> {
    let into = &arguments.directory;
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    match arguments.what {
        What::Man => man(into),
        What::Completions => completions(into),
    }
    .with_context(|| format!("cannot write into {}", into.display()))
}

fn man(into: &Path) -> Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    for page in std::iter::once(&command).chain(verbs) {
        // Of a verb: `vr-userspace-load`.
        let name = page.get_display_name().unwrap_or(page.get_name());
        fs::write(
            into.join(format!("{name}.8")),
            rendered(page.clone(), name)?,
        )?;
    }
    Ok(())
}

fn rendered(page: Command, name: &str) -> Result<Vec<u8>> {
    let title = name.to_uppercase();
    // A date would make each build another.
    let man = Man::new(page)
        .title(title)
        .section("8")
        .date("")
        .manual("kylin-vr");
    let mut text = Vec::new();
    man.render(&mut text)?;
    text.extend(format!(".SH \"SEE ALSO\"\n{SEE_ALSO}\n").bytes());
    Ok(text)
}

fn completions(into: &Path) -> Result<()> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, &name, into)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_its_page_and_its_completion() {
        let dir = tempfile::tempdir().unwrap();
        for what in [What::Man, What::Completions] {
            let directory = dir.path().to_owned();
            run(&Arguments { what, directory }).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let (page, bash) = (read("vr-userspace.8"), read("vr-userspace.bash"));
        for verb in Cli::command().get_subcommands() {
            let (name, hidden) = (verb.get_name(), verb.is_hide_set());
            let own = dir.path().join(format!("vr-userspace-{name}.8"));
            assert_eq!(own.exists(), !hidden, "{name}");
            assert_eq!(
                page.contains(&format!("vr\\-userspace\\-{name}(8)")),
                !hidden,
                "{name}"
            );
            assert!(hidden || bash.contains(name), "{name}");
        }
        assert!(page.contains("Exit codes") && page.contains(SEE_ALSO));
        assert!(read("vr-userspace-load.8").contains("\\-\\-backend"));
    }
}
