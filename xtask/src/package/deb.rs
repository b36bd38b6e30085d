//! The .deb, by dpkg-deb.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use anyhow::Result;

use super::{
    FOLDER, Package,
    tree::{KEPT, Tree},
};
use crate::shell;

/// The scripts that dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Makes it, and returns where it is.
///
/// # Errors
/// When dpkg-deb fails.
pub fn build(package: &Package) -> Result<PathBuf> {
    let (arch, version) = (package.arch.deb(), &package.version);
    let folder = shell::root().join(FOLDER);
    let root = folder.join(format!("deb-{arch}"));
    let _ = fs::remove_dir_all(&root);
    shell::run_quietly(
        Command::new("cp")
            .arg("-a")
            .arg(&package.tree.root)
            .arg(&root),
    )?;
    let control = root.join("DEBIAN");
    fs::create_dir(&control)?;
    let (mut bytes, mut sums) = (0, String::new());
    for file in package.tree.files()? {
        let metadata = root.join(&file).symlink_metadata()?;
        // As dpkg counts: in blocks of 1 KiB, rounded up for each file.
        bytes += metadata.len().div_ceil(1024);
        if metadata.is_file() && !KEPT.contains(&file.as_str()) {
            sums += &shell::output(Command::new("md5sum").current_dir(&root).arg(&file))?;
        }
    }
    let words = [("DEB_ARCH", arch), ("SIZE", &bytes.to_string())];
    fs::write(
        control.join("control"),
        package.template("deb/control", &words)?,
    )?;
    fs::write(control.join("md5sums"), sums)?;
    let kept: String = KEPT.iter().map(|file| format!("/{file}\n")).collect();
    fs::write(control.join("conffiles"), kept)?;
    for script in SCRIPTS {
        let path = control.join(script);
        fs::write(&path, package.template(&format!("deb/{script}"), &[])?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let tree = Tree { root };
    tree.date(&package.epoch)?;
    let made = folder.join(format!("kylin-vr_{version}_{arch}.deb"));
    // Whole or not at all, for whoever copies it at the same time.
    let partial = made.with_extension("deb.partial");
    let mut build = Command::new("dpkg-deb");
    build
        // xz: what every Debian of today can unpack, and the same bytes whatever the number of CPUs.
        .args(["--root-owner-group", "-Zxz", "--threads-max=1", "--build"])
        .arg(&tree.root)
        .arg(&partial)
        .env("SOURCE_DATE_EPOCH", &package.epoch);
    shell::run_quietly(&mut build)?;
    fs::rename(&partial, &made)?;
    fs::remove_dir_all(&tree.root)?;
    Ok(made)
}
