//! Finds the BPF object that the program embeds, and refuses one that is older than its sources.
//!
//! Cargo cannot build the object in passing: it has a target, a linker and a `core` of its own. So there
//! is one command for it, and all that is done here is to name that command in time.

#[path = "../xtask/src/fingerprint.rs"]
#[allow(dead_code, reason = "the other half of the file is for writing")]
mod fingerprint;

use std::path::Path;

use fingerprint::{OBJECT, RECORD, Record, SOURCES};

fn main() {
    let Some(root) = Path::new(env!("CARGO_MANIFEST_DIR")).parent() else {
        return println!("cargo::error=this crate is built in its workspace only");
    };
    for path in SOURCES.iter().chain([&OBJECT, &RECORD]) {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    match current(root) {
        Ok(record) => {
            println!(
                "cargo::rustc-env=VR_EBPF_OBJECT={}",
                root.join(OBJECT).display()
            );
            println!("cargo::rustc-env=VR_EBPF_BUILD_ID={}", record.sources);
        }
        Err(reason) => println!("cargo::error={reason}: run `cargo xtask build`"),
    }
}

fn current(root: &Path) -> Result<Record, String> {
    let Some(record) = Record::read(root) else {
        return Err("the BPF object is not built yet".to_owned());
    };
    match record.is_current(root) {
        Ok(true) => Ok(record),
        Ok(false) => Err("the BPF object is older than its sources".to_owned()),
        Err(error) => Err(format!(
            "the sources of the BPF object cannot be read: {error}"
        )),
    }
}
