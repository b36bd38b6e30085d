//! Reading `kylin-vr.yaml`: what it means, or everything that is wrong with it.
//!
//! A text becomes a tree that knows its positions, the tree becomes a [`Config`]. Nothing is
//! guessed: what a rule does not allow is refused, and every error of a file is reported at once,
//! since whoever writes the file (a control plane, mostly) cannot ask back.
//!
//! The file is written by others and may be anything. Its size, its depth and the number of its
//! values are limited, so that reading it takes neither long nor much memory, whatever it holds.

mod diagnostic;
mod rules;
mod scalar;
mod schema;
mod source;
mod spelling;
mod tree;
mod validate;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

pub use diagnostic::{Diagnostic, Place, Severity};
pub use schema::{
    Config, Eip, Filtering, Forward, Interface, MacAddr, MacAddrError, Options, Protocol, Timeouts,
};

use diagnostic::{At, Findings, Words};
use source::{Source, Span};

use crate::trust;

/// The largest file that is read, in bytes.
pub const MAX_BYTES: usize = 64 << 20;

/// A file that can be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What it asks for.
    pub config: Config,
    /// What in it may not do what was meant, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

/// A file that is wrong: nothing may be changed on account of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Why, in the order of the file.
    pub errors: Vec<Diagnostic>,
    /// How many more errors there are than are listed.
    pub omitted: usize,
}

impl Rejected {
    fn because(message: String) -> Self {
        Self {
            errors: vec![Diagnostic::placeless(Severity::Error, message)],
            omitted: 0,
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}\n")?;
        }
        if self.omitted > 0 {
            writeln!(f, "… and {} more", self.omitted)?;
        }
        let count = self.errors.len() + self.omitted;
        let s = if count == 1 { "" } else { "s" };
        write!(f, "{count} error{s}; nothing was changed")
    }
}

impl std::error::Error for Rejected {}

/// Reads a file.
///
/// # Errors
/// [`Rejected`] when it cannot be read, and when it is wrong.
pub fn read(path: &Path) -> Result<Accepted, Rejected> {
    let name = path.display().to_string();
    let refuse = |why: &dyn fmt::Display| {
        Rejected::because(format!("{name}: {why}; allowed: a readable text file"))
    };
    let (bytes, doubt) = match contents(path) {
        Ok(contents) => contents,
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            return Err(refuse(&"is a directory"));
        }
        Err(error) => return Err(refuse(&format!("cannot be read: {error}"))),
    };
    if bytes.len() > MAX_BYTES {
        // Said here already, because the cut may have gone through a character.
        return Err(too_big(&name));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => {
            let mut accepted = parse(&name, text)?;
            let warn = |doubt| Diagnostic::placeless(Severity::Warning, format!("{name}: {doubt}"));
            accepted.warnings.extend(doubt.map(warn));
            Ok(accepted)
        }
        Err(error) => Err(not_utf8(&name, &bytes, error.valid_up_to())),
    }
}

fn too_big(name: &str) -> Rejected {
    let most = MAX_BYTES >> 20;
    Rejected::because(format!("{name}: is too big; allowed: at most {most} MiB"))
}

/// Points behind the last thing that can be read.
fn not_utf8(name: &str, bytes: &[u8], good: usize) -> Rejected {
    let readable = std::str::from_utf8(&bytes[..good]).unwrap_or_default();
    let source = Source::new(name, readable);
    let mut errors = Findings::new(Severity::Error);
    errors.add(At::text(Span::new(good, good)), || {
        let byte = bytes.get(good).copied().unwrap_or_default();
        Words::error(format!("the byte {byte:#04x} is not UTF-8"), "UTF-8 text")
    });
    let (errors, omitted) = errors.finish(&source);
    Rejected { errors, omitted }
}

/// The bytes of a file, cut off behind [`MAX_BYTES`] of them: its size alone is not to be relied on,
/// it may be a pipe, or just being written. And why another user may have written it, if one may.
fn contents(path: &Path) -> io::Result<(Vec<u8>, Option<String>)> {
    let limit = MAX_BYTES as u64 + 1;
    let (file, doubt) = trust::open_to_read(path)?;
    let expected = file.metadata().map_or(0, |meta| meta.len().min(limit));
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0) + 1);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok((bytes, doubt))
}

/// Reads a text; `name` is what messages call it.
///
/// # Errors
/// [`Rejected`] when it is wrong.
pub fn parse(name: &str, text: &str) -> Result<Accepted, Rejected> {
    if text.len() > MAX_BYTES {
        return Err(too_big(name));
    }
    // A byte order mark is no part of the first line; an editor that adds one does not show it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Source::new(name, text);
    match validate::validate(&source) {
        Ok((config, warnings)) => {
            let (mut warnings, omitted) = warnings.finish(&source);
            if omitted > 0 {
                let more = format!("{name}: … and {omitted} more warnings");
                warnings.push(Diagnostic::placeless(Severity::Warning, more));
            }
            Ok(Accepted { config, warnings })
        }
        Err(errors) => {
            let (errors, omitted) = errors.finish(&source);
            Err(Rejected { errors, omitted })
        }
    }
}
