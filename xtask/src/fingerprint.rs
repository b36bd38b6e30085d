//! The fingerprint that ties the BPF object to the sources it was built from.
//!
//! `cargo xtask build` writes it beside the object; `vr-userspace/build.rs` includes this very file
//! and refuses an object that is older than its sources. It uses nothing but `std`, so that the build
//! script needs no dependency.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// What the BPF object is made from, relative to the workspace's root.
pub const SOURCES: [&str; 5] = [
    "vr-ebpf/src",
    "vr-ebpf/Cargo.toml",
    "vr-ebpf/Cargo.lock",
    "vr-common/src",
    "vr-common/Cargo.toml",
];
/// Where the finished object lies, relative to the workspace's root.
pub const OBJECT: &str = "target/bpf/vr-ebpf.o";
/// Where the record about the object lies, relative to the workspace's root.
pub const RECORD: &str = "target/bpf/vr-ebpf.fingerprint";

/// A 64-bit FNV-1a hash: small, and the same on every machine and in every Rust release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    fn with(self, bytes: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        Self(bytes.iter().fold(self.0, step))
    }

    /// Adds one field. Its length goes in first, so that no two lists of fields read alike.
    fn with_field(self, bytes: &[u8]) -> Self {
        self.with(&(bytes.len() as u64).to_le_bytes()).with(bytes)
    }

    /// The fingerprint of one file's bytes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        Ok(Self::EMPTY.with_field(&fs::read(path)?))
    }

    /// The fingerprint of everything in [`SOURCES`]: names and contents, in a fixed order.
    ///
    /// # Errors
    /// When a source that exists cannot be read. One that does not exist counts as absent.
    pub fn of_sources(root: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for source in SOURCES {
            collect(root, Path::new(source), &mut files)?;
        }
        files.sort();
        files.iter().try_fold(Self::EMPTY, |hash, file| {
            let content = fs::read(root.join(file))?;
            Ok(hash
                .with_field(file.as_os_str().as_encoded_bytes())
                .with_field(&content))
        })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn collect(root: &Path, path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let full = root.join(path);
    if full.is_dir() {
        for entry in fs::read_dir(&full)? {
            collect(root, &path.join(entry?.file_name()), files)?;
        }
    } else if full.is_file() {
        files.push(path.to_path_buf());
    }
    Ok(())
}

/// What is written beside the object: which sources, which bytes came out, and which tools made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The fingerprint of the sources.
    pub sources: Fingerprint,
    /// The fingerprint of the object itself, so that a foreign or torn file is noticed.
    pub object: Fingerprint,
    /// The tools and flags in one line. Others would make other code from the same sources.
    pub tools: String,
}

impl Record {
    /// Reads the record, or nothing when there is none or it is not one of ours.
    #[must_use]
    pub fn read(root: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(root.join(RECORD)).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let hash = |name| Some(Fingerprint(u64::from_str_radix(field(name)?, 16).ok()?));
        Some(Self {
            sources: hash("sources ")?,
            object: hash("object ")?,
            tools: field("tools ")?.to_owned(),
        })
    }

    /// Whether the object on disk is the recorded one, built from the sources as they are now.
    ///
    /// # Errors
    /// When the sources cannot be read.
    pub fn is_current(&self, root: &Path) -> io::Result<bool> {
        let object = Fingerprint::of_file(&root.join(OBJECT)).ok();
        Ok(object == Some(self.object) && Fingerprint::of_sources(root)? == self.sources)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sources {}", self.sources)?;
        writeln!(f, "object {}", self.object)?;
        writeln!(f, "tools {}", self.tools)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("vr-ebpf/src/deep")).unwrap();
        fs::create_dir_all(root.path().join("target/bpf")).unwrap();
        fs::write(root.path().join("vr-ebpf/src/main.rs"), "fn main() {}").unwrap();
        fs::write(root.path().join("vr-ebpf/src/deep/a.rs"), "a").unwrap();
        root
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Published test vectors: the record must mean the same in every build.
        assert_eq!(Fingerprint::EMPTY.with(b"a").0, 0xaf63_dc4c_8601_ec8c);
        assert_eq!(Fingerprint::EMPTY.with(b"foobar").0, 0x8594_4171_f739_67e8);
    }

    #[test]
    fn every_change_shows() {
        let root = tree();
        let of = || Fingerprint::of_sources(root.path()).unwrap();
        let first = of();
        assert_eq!(first, of());
        fs::write(root.path().join("vr-ebpf/src/deep/a.rs"), "b").unwrap();
        let edited = of();
        assert_ne!(first, edited);
        fs::rename(
            root.path().join("vr-ebpf/src/deep/a.rs"),
            root.path().join("vr-ebpf/src/deep/b.rs"),
        )
        .unwrap();
        let renamed = of();
        assert_ne!(edited, renamed);
        fs::write(root.path().join("vr-ebpf/Cargo.lock"), "").unwrap();
        assert_ne!(renamed, of());
    }

    #[test]
    fn a_record_survives_the_disk_and_goes_stale() {
        let root = tree();
        fs::write(root.path().join(OBJECT), "object").unwrap();
        let record = Record {
            sources: Fingerprint::of_sources(root.path()).unwrap(),
            object: Fingerprint::of_file(&root.path().join(OBJECT)).unwrap(),
            tools: "rustc 1.95.0, flags -C".to_owned(),
        };
        fs::write(root.path().join(RECORD), record.to_string()).unwrap();
        assert_eq!(Record::read(root.path()), Some(record.clone()));
        assert!(record.is_current(root.path()).unwrap());
        fs::write(root.path().join(OBJECT), "another").unwrap();
        assert!(!record.is_current(root.path()).unwrap());
    }

    #[test]
    fn a_broken_record_is_none() {
        for text in [
            "",
            "sources zz\nobject 1\ntools x\n",
            "sources 1\nobject 1\n",
        ] {
            assert_eq!(Record::parse(text), None, "{text:?}");
        }
    }
}
