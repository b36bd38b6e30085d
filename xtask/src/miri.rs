//! `cargo xtask miri`: the pure core under Rust's interpreter, which sees undefined behaviour.

use std::{env, ffi::OsString, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{rustc::Rustc, shell};

/// Runs the tests of vr-common under miri, or says loudly why not.
///
/// # Errors
/// When a test fails.
pub fn run() -> Result<()> {
    shell::heading("miri: vr-common");
    let library = match available() {
        Ok(library) => library,
        Err(reason) => {
            shell::note(&format!("SKIPPED: {reason:#}"));
            shell::note("To have it: rustup component add --toolchain nightly miri rust-src");
            return Ok(());
        }
    };
    shell::run(
        nightly("cargo")
            .args(["miri", "test", "--package", "vr-common"])
            .env("MIRI_LIB_SRC", library),
    )
}

/// The source of the standard library that miri can use.
fn available() -> Result<OsString> {
    ensure!(
        shell::has_program("rustup"),
        "without rustup there is no nightly toolchain"
    );
    shell::run_quietly(nightly("cargo").args(["miri", "--version"]))
        .ok()
        .context("the nightly toolchain has no miri")?;
    if let Some(library) = env::var_os("MIRI_LIB_SRC") {
        return Ok(library);
    }
    let rustc = Rustc::asked(|| nightly("rustc"))?;
    let library = rustc.own_library();
    rustc
        .verify(&library)
        .context("the nightly toolchain has no rust-src")?;
    Ok(library.into_os_string())
}

/// A program of the nightly toolchain, by rustup's proxies.
fn nightly(program: &str) -> Command {
    let mut command = Command::new(program);
    shell::without_build_settings(&mut command)
        .current_dir(shell::root())
        .env_remove("CARGO")
        .env("RUSTUP_TOOLCHAIN", "nightly");
    command
}
