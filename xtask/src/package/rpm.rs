//! The .rpm, by rpmbuild.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::{
    FOLDER, Package,
    tree::{CONFIGURATION, CONFIGURATION_MODE, KEPT},
};
use crate::shell;

/// Folders that are the package's own, besides the configuration's.
const OWN: [&str; 1] = ["usr/share/doc/kylin-vr"];

/// Makes it, and returns where it is.
///
/// # Errors
/// When rpmbuild fails.
pub fn build(package: &Package) -> Result<PathBuf> {
    let (arch, version) = (package.arch.rpm(), &package.version);
    let folder = shell::root().join(FOLDER);
    let top = folder.join(format!("rpm-{arch}"));
    let _ = fs::remove_dir_all(&top);
    fs::create_dir_all(&top)?;
    let spec = top.join("kylin-vr.spec");
    let stage = package.tree.root.display();
    let install = format!("%install\ncp -a {stage}/. %{{buildroot}}/\n\n%files");
    let text = package.template("rpm/kylin-vr.spec", &[("FILES", &files(package)?)])?;
    fs::write(&spec, text.replace("%files", &install))?;
    let mut build = Command::new("rpmbuild");
    build
        .args(["-bb", "--target", arch])
        .env("SOURCE_DATE_EPOCH", &package.epoch);
    for define in [
        &format!("_topdir {}", top.display()),
        "_buildhost localhost",
        "use_source_date_epoch_as_buildtime 1",
        "clamp_mtime_to_source_date_epoch 1",
        // What every rpm of today can unpack.
        "_binary_payload w6.xzdio",
    ] {
        build.args(["--define", define]);
    }
    shell::run_quietly(build.arg(&spec))?;
    let name = format!("kylin-vr-{version}-1.{arch}.rpm");
    let made = folder.join(&name);
    fs::rename(top.join("RPMS").join(arch).join(&name), &made)
        .with_context(|| format!("rpmbuild made no {name}"))?;
    fs::remove_dir_all(&top)?;
    Ok(made)
}

fn files(package: &Package) -> Result<String> {
    let mut lines = vec!["%defattr(-,root,root,-)".to_owned()];
    let own = OWN.map(|folder| (folder, 0o755));
    let folders = own.into_iter().chain([(CONFIGURATION, CONFIGURATION_MODE)]);
    lines.extend(
        folders.map(|(folder, mode)| format!("%dir %attr({mode:04o},root,root) /{folder}")),
    );
    lines.extend(package.tree.files()?.into_iter().map(|file| {
        if KEPT.contains(&file.as_str()) {
            format!("%config(noreplace) /{file}")
        } else {
            format!("/{file}")
        }
    }));
    Ok(lines.join("\n"))
}
