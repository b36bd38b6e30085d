//! Debian packages fetched and unpacked under `target/`, without touching what the system has installed
//! or which package sources it uses.
//!
//! Each [`Apt`] is a private configuration: own source list, own state and cache, the system's keyring.
//! Network settings (a proxy, say) are the system's own.

mod mirror;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};

use crate::shell;
use mirror::Mirror;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How long package lists count as fresh.
const FRESH: Duration = Duration::from_secs(12 * 3600);

/// A private configuration of apt for some suites of Debian.
#[derive(Debug)]
pub struct Apt {
    home: PathBuf,
    suites: Vec<String>,
}

impl Apt {
    /// Prepares the configuration for `suites` under `target/apt`; downloads nothing yet.
    ///
    /// # Errors
    /// When apt or Debian's keyring is missing, or `target/` cannot be written.
    pub fn new(suites: &[&str]) -> Result<Self> {
        ensure!(
            ["apt-get", "dpkg-deb"]
                .iter()
                .all(|program| shell::has_program(program)),
            "this needs apt-get and dpkg-deb, which this system does not have"
        );
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing: install the package debian-archive-keyring"
        );
        let apt = Self {
            home: shell::root().join("target/apt").join(suites.join("+")),
            suites: suites.iter().map(|&suite| suite.to_owned()).collect(),
        };
        for folder in ["state/lists/partial", "cache/archives/partial", "empty"] {
            let folder = apt.home.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(apt.home.join("apt.conf"), apt.configuration())?;
        Ok(apt)
    }

    fn configuration(&self) -> String {
        let home = self.home.display();
        format!(
            "Dir::Etc::SourceList \"{home}/sources.list\";\n\
             Dir::Etc::SourceParts \"{home}/empty\";\n\
             Dir::Etc::Preferences \"{home}/empty/none\";\n\
             Dir::Etc::PreferencesParts \"{home}/empty\";\n\
             Dir::State \"{home}/state\";\n\
             Dir::State::status \"/var/lib/dpkg/status\";\n\
             Dir::Cache \"{home}/cache\";\n\
             Acquire::Languages \"none\";\n\
             APT::Sandbox::User \"root\";\n\
             APT::Keep-Downloaded-Packages \"true\";\n\
             Binary::apt-get::APT::Keep-Downloaded-Packages \"true\";\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             #clear DPkg::Post-Invoke;\n"
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.home.join("apt.conf"))
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Brings the package lists up to date, unless they are fresh: from the mirror that the system
    /// uses, else from the public one.
    ///
    /// # Errors
    /// When no mirror can be reached.
    pub fn update(&self) -> Result<()> {
        let stamp = self.home.join("updated");
        let age = fs::metadata(&stamp).and_then(|metadata| metadata.modified());
        if age.is_ok_and(|time| SystemTime::now().duration_since(time).unwrap_or_default() < FRESH)
        {
            return Ok(());
        }
        let mut last = None;
        for mirror in Mirror::all() {
            fs::write(self.home.join("sources.list"), self.sources(&mirror))?;
            let result = shell::run_quietly(self.command("apt-get").args([
                "update",
                "-q",
                "--error-on=any",
                "-o",
                "Acquire::Retries=1",
            ]));
            match result {
                Ok(()) => return Ok(fs::write(&stamp, "")?),
                Err(error) => last = Some(error),
            }
        }
        let suites = self.suites.join(", ");
        Err(last.context("there is no mirror")?)
            .with_context(|| format!("cannot fetch Debian's package lists of {suites}"))
    }

    fn sources(&self, mirror: &Mirror) -> String {
        let line = |suite: &String| {
            let uri = if suite.ends_with("-security") {
                &mirror.security
            } else {
                &mirror.main
            };
            format!("deb [target=Packages signed-by={KEYRING}] {uri} {suite} main\n")
        };
        self.suites.iter().map(line).collect()
    }

    /// The file that says where packages come from.
    ///
    /// # Errors
    /// When no mirror can be reached.
    pub fn sources_list(&self) -> Result<PathBuf> {
        self.update()?;
        Ok(self.home.join("sources.list"))
    }

    /// The versions of a package in these suites, newest first.
    ///
    /// # Errors
    /// When the package lists cannot be fetched.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        self.update()?;
        let table = shell::output(self.command("apt-cache").args(["madison", package]))?;
        let version = |line: &str| Some(line.split('|').nth(1)?.trim().to_owned());
        Ok(table.lines().filter_map(version).collect())
    }

    /// The packages that `package` (in its newest version) depends on, alternatives and versions left out.
    ///
    /// # Errors
    /// When the package is not in these suites.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        self.update()?;
        let mut show = self.command("apt-cache");
        let text = shell::output(show.args(["show", "--no-all-versions", package]))?;
        Ok(parse_depends(&text))
    }

    /// Downloads one package, unless it is there already, and returns its file.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        let folder = self.home.join("debs").join(package);
        // A colon is written %3a in the file's name; comparing what follows it is enough.
        let wanted = version.rsplit(':').next().unwrap_or(version).to_owned();
        let find = || {
            let files = fs::read_dir(&folder)
                .ok()?
                .flatten()
                .map(|entry| entry.path());
            files.into_iter().find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.ends_with(".deb") && name.contains(&wanted)
            })
        };
        if let Some(file) = find() {
            return Ok(file);
        }
        fs::create_dir_all(&folder)?;
        shell::note(&format!(
            "downloading {package} {version} ({})",
            self.suites.join(", ")
        ));
        let mut fetch = self.command("apt-get");
        fetch
            .current_dir(&folder)
            .args(["download", "-q", &format!("{package}={version}")]);
        if shell::run_quietly(&mut fetch).is_err() {
            // The lists may be older than the mirror: what they name may be gone.
            let _ = fs::remove_file(self.home.join("updated"));
            self.update()?;
            shell::run_quietly(&mut fetch)?;
        }
        find().with_context(|| format!("apt-get downloaded no {package} {version}"))
    }

    /// Installs packages on the system itself, preferring one of these suites.
    ///
    /// # Errors
    /// When they cannot be fetched or installed.
    pub fn install(&self, packages: &[&str], suite: &str) -> Result<()> {
        self.update()?;
        let mut command = self.command("apt-get");
        command.args(["install", "-qy", "--no-install-recommends", "-t", suite]);
        shell::run_quietly(command.args(packages))
    }

    /// Downloads packages with everything that they need and the system lacks, and unpacks all of it.
    ///
    /// # Errors
    /// When they cannot be fetched, or are not in these suites.
    pub fn unpack_with_dependencies(&self, packages: &[&str], into: &Path) -> Result<()> {
        self.update()?;
        shell::run_quietly(
            self.command("apt-get")
                .args([
                    "install",
                    "-qy",
                    "--download-only",
                    "--no-install-recommends",
                ])
                .args(packages),
        )?;
        let archives = self.home.join("cache/archives");
        for entry in fs::read_dir(&archives)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                unpack(&path, into)?;
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// Unpacks a package's files into a folder. Nothing of it is run.
///
/// # Errors
/// When the package cannot be read or the folder not be written.
pub fn unpack(deb: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    shell::run_quietly(Command::new("dpkg-deb").arg("-x").arg(deb).arg(into))
}

fn parse_depends(text: &str) -> Vec<String> {
    let fields = text.lines().filter_map(|line| {
        line.strip_prefix("Depends: ")
            .or(line.strip_prefix("Pre-Depends: "))
    });
    fields
        .flat_map(|field| field.split(','))
        .filter_map(|one| one.split_whitespace().next())
        .map(|name| name.split(':').next().unwrap_or(name).to_owned())
        .collect()
}

/// The codename of this Debian, such as `bookworm`; an error on any other system.
///
/// # Errors
/// When this is not Debian.
pub fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(value.trim_matches('"').to_owned())
    };
    match (field("ID=").as_deref(), field("VERSION_CODENAME=")) {
        (Some("debian"), Some(codename)) => Ok(codename),
        (Some("debian"), None) => Ok("sid".to_owned()),
        (other, _) => bail!("this system is {}, not Debian", other.unwrap_or("unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_lose_their_versions_and_alternatives() {
        let text =
            "Package: x\nDepends: linux-base (>= 4.3~), kmod | module-init-tools, libc6:any\n";
        assert_eq!(parse_depends(text), ["linux-base", "kmod", "libc6"]);
    }
}
