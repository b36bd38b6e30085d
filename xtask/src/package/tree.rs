//! The files of a package, as they will lie on a machine: the same for .deb and .rpm.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::shell;

/// The configuration's folder; the package's own, with an example in it.
pub const CONFIGURATION: &str = "etc/kylin-vr";
/// The guest agent gives the files that it makes mode 666: nobody else is to get there.
pub const CONFIGURATION_MODE: u32 = 0o750;
/// What a user may change and an upgrade must not undo.
pub const KEPT: [&str; 1] = ["etc/kylin-vr/kylin-vr.yaml.example"];

/// Files of this repository, and where they go.
const FILES: [(&str, &str); 10] = [
    (
        "packaging/kylin-vr.service",
        "usr/lib/systemd/system/kylin-vr.service",
    ),
    (
        "packaging/90-kylin-vr.rules",
        "usr/lib/udev/rules.d/90-kylin-vr.rules",
    ),
    ("packaging/copyright", "usr/share/doc/kylin-vr/copyright"),
    ("CHANGELOG.md", "usr/share/doc/kylin-vr/CHANGELOG.md"),
    ("README.md", "usr/share/doc/kylin-vr/README.md"),
    ("LICENSE-MIT", "usr/share/doc/kylin-vr/LICENSE-MIT"),
    ("LICENSE-APACHE", "usr/share/doc/kylin-vr/LICENSE-APACHE"),
    ("LICENSE-GPL-2.0", "usr/share/doc/kylin-vr/LICENSE-GPL-2.0"),
    (
        "packaging/kylin-vr.yaml.5",
        "usr/share/man/man5/kylin-vr.yaml.5",
    ),
    (
        "examples/kylin-vr.yaml",
        "etc/kylin-vr/kylin-vr.yaml.example",
    ),
];
/// Completions, as they are made and as each shell looks for them.
const COMPLETIONS: [(&str, &str); 4] = [
    (
        "vr-userspace.bash",
        "usr/share/bash-completion/completions/vr-userspace",
    ),
    (
        "_vr-userspace",
        "usr/share/zsh/site-functions/_vr-userspace",
    ),
    // Debian's place.
    (
        "_vr-userspace",
        "usr/share/zsh/vendor-completions/_vr-userspace",
    ),
    (
        "vr-userspace.fish",
        "usr/share/fish/vendor_completions.d/vr-userspace.fish",
    ),
];

/// A folder that holds what a machine's root is to get.
#[derive(Debug)]
pub struct Tree {
    /// Where it is.
    pub root: PathBuf,
}

impl Tree {
    /// Lays it out afresh.
    ///
    /// # Errors
    /// When a file is missing or cannot be written.
    pub fn stage(program: &Path, documents: &Path, root: &Path, epoch: &str) -> Result<Self> {
        let _ = fs::remove_dir_all(root);
        let tree = Self {
            root: root.to_path_buf(),
        };
        let repository = shell::root();
        tree.add(program, "usr/sbin/vr-userspace", 0o755)?;
        // By this name the first generation was called.
        symlink("vr-userspace", root.join("usr/sbin/kylin-vr"))?;
        for (from, to) in FILES {
            tree.add(&repository.join(from), to, 0o644)?;
        }
        for (from, to) in COMPLETIONS {
            tree.add(&documents.join("completions").join(from), to, 0o644)?;
        }
        for example in sorted(&repository.join("examples"))? {
            let name = name(&example);
            tree.add(
                &example,
                &format!("usr/share/doc/kylin-vr/examples/{name}"),
                0o644,
            )?;
        }
        for page in sorted(&documents.join("man"))? {
            tree.add(&page, &format!("usr/share/man/man8/{}", name(&page)), 0o644)?;
        }
        for section in ["man5", "man8"] {
            for page in sorted(&root.join("usr/share/man").join(section))? {
                shell::run_quietly(Command::new("gzip").args(["-9n"]).arg(page))?;
            }
        }
        let configuration = fs::Permissions::from_mode(CONFIGURATION_MODE);
        fs::set_permissions(root.join(CONFIGURATION), configuration)?;
        tree.date(epoch)?;
        Ok(tree)
    }

    fn add(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let to = self.root.join(to);
        fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(fs::set_permissions(&to, fs::Permissions::from_mode(mode))?)
    }

    /// Gives everything in it the same time.
    ///
    /// # Errors
    /// When that fails.
    pub fn date(&self, epoch: &str) -> Result<()> {
        let script = "find \"$1\" -exec touch --no-dereference --date=\"@$2\" {} +";
        shell::run_quietly(
            Command::new("sh")
                .args(["-ec", script, "sh"])
                .arg(&self.root)
                .arg(epoch),
        )
    }

    /// The paths of files and links, from the root, sorted.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn files(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for path in sorted(&folder)? {
                if path.symlink_metadata()?.is_dir() {
                    folders.push(path);
                } else {
                    let path = path.strip_prefix(&self.root)?;
                    found.push(path.to_string_lossy().into_owned());
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
