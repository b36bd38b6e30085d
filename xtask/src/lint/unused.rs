//! Each dependency that a crate declares must be named in its sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{list, text};

/// Checks the crates of both workspaces.
///
/// # Errors
/// When a dependency's name occurs nowhere in the crate that declares it.
pub fn check(workspaces: &[Value]) -> Result<()> {
    let mut unused = Vec::new();
    for workspace in workspaces {
        let members = list(workspace, "workspace_members");
        let packages = list(workspace, "packages");
        for package in packages
            .iter()
            .filter(|package| members.contains(&package["id"]))
        {
            crate_check(package, &mut unused)?;
        }
    }
    if !unused.is_empty() {
        bail!("declared and never named:\n     {}", unused.join("\n     "));
    }
    Ok(())
}

fn crate_check(package: &Value, unused: &mut Vec<String>) -> Result<()> {
    let manifest = Path::new(text(package, "manifest_path"));
    let folder = manifest.parent().context("a manifest lies in a folder")?;
    for dependency in list(package, "dependencies") {
        let name = dependency["rename"]
            .as_str()
            .unwrap_or(text(dependency, "name"));
        let identifier = name.replace('-', "_");
        let kind = dependency["kind"].as_str().unwrap_or("normal");
        let places: &[&str] = match kind {
            "build" => &["build.rs"],
            "dev" => &["src", "tests", "benches", "examples"],
            _ => &["src"],
        };
        let mut files = Vec::new();
        for place in places {
            rust_files(&folder.join(place), &mut files)?;
        }
        let mut named = false;
        for file in files {
            named |= names(&fs::read_to_string(file)?, &identifier);
        }
        if !named {
            unused.push(format!("{name} ({kind}) in {}", manifest.display()));
        }
    }
    Ok(())
}

/// Whether a text has this identifier as a whole word.
fn names(text: &str, identifier: &str) -> bool {
    let inside = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(identifier).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + identifier.len()..]);
        !before.ends_with(inside) && !after.starts_with(inside)
    })
}

fn rust_files(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            rust_files(&entry?.path(), files)?;
        }
    } else if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
        files.push(path.to_path_buf());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn only_whole_words_count() {
        assert!(names("use serde_json::Value;", "serde_json"));
        assert!(!names("use serde_json::Value;", "serde"));
        assert!(!names("let my_libc = 1;", "libc"));
        assert!(names("libc", "libc"));
    }
}
