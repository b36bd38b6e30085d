//! Checks of the files as they lie in the tree, without understanding them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::shell;

/// Longer files are hard to keep in mind.
const MOST_LINES: usize = 700;
/// Words, separated by commas, that must occur nowhere: what only its user knows to be confidential.
const FORBIDDEN: &str = "VR_FORBIDDEN_WORDS";

/// Warns of long source files.
///
/// # Errors
/// When the tree cannot be read.
pub fn sizes(root: &Path) -> Result<()> {
    for file in files(root)? {
        let is_source = file
            .extension()
            .is_some_and(|extension| extension == "rs" || extension == "sh");
        let lines = fs::read(&file)?.split(|byte| *byte == b'\n').count();
        if is_source && lines > MOST_LINES {
            let name = file.strip_prefix(root).unwrap_or(&file).display();
            shell::note(&format!(
                "warning: {name} has {lines} lines, more than {MOST_LINES}"
            ));
        }
    }
    Ok(())
}

/// Looks for the words that `VR_FORBIDDEN_WORDS` names, regardless of case.
///
/// # Errors
/// When one occurs; the message says where.
pub fn words(root: &Path) -> Result<()> {
    let words = env::var(FORBIDDEN).unwrap_or_default().to_lowercase();
    let words: Vec<&str> = words
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect();
    if words.is_empty() {
        shell::note(&format!("none forbidden ({FORBIDDEN} is empty)"));
        return Ok(());
    }
    let mut found = Vec::new();
    for file in files(root)? {
        let name = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .display()
            .to_string();
        let text = String::from_utf8_lossy(&fs::read(&file)?).to_lowercase();
        let lines = std::iter::once((0, name.as_str())).chain((1..).zip(text.lines()));
        for (number, line) in lines {
            let hits = words.iter().filter(|word| line.contains(*word));
            found.extend(hits.map(|word| format!("{name}:{number}: `{word}`")));
        }
    }
    if !found.is_empty() {
        bail!("forbidden words:\n     {}", found.join("\n     "));
    }
    Ok(())
}

/// All files of the project: neither what git keeps nor what is built.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let name = entry.file_name();
            if kind.is_dir() && name != "target" && name != ".git" {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}
