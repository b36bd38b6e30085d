//! What is wrong with the file, said so that a person can mend it and a log can be searched for it.

use std::fmt;

use super::source::{Excerpt, Source, Span};

/// How much a diagnostic matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted, but something in it may not do what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// Where in the file a diagnostic points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The name of the file.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The column, counted from 1, in characters.
    pub column: usize,
    /// The value by its keys, such as `eip_list[1].vm-ip`; empty for the file as a whole.
    pub path: String,
}

/// One finding. Its first line is complete in itself, the lines after it show the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it refuses the file.
    pub severity: Severity,
    /// What is wrong, with the offending value, and what is allowed.
    pub message: String,
    /// A remedy, where one can be guessed.
    pub help: Option<String>,
    /// Where it is; absent when there is no text to point at.
    pub place: Option<Place>,
    excerpt: Option<Excerpt>,
}

impl Diagnostic {
    /// A diagnostic about something that has no place in the text.
    pub(super) fn placeless(severity: Severity, message: String) -> Self {
        Self {
            severity,
            message,
            help: None,
            place: None,
            excerpt: None,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut margin = 0;
        if let Some(place) = &self.place {
            write!(f, "{}:{}:{}: ", place.file, place.line, place.column)?;
            margin = place.line.to_string().len();
        }
        write!(f, "{}: ", self.severity)?;
        if let Some(place) = self.place.as_ref().filter(|place| !place.path.is_empty()) {
            write!(f, "{}: ", place.path)?;
        }
        f.write_str(&self.message)?;
        if let (Some(place), Some(excerpt)) = (&self.place, &self.excerpt) {
            let line = place.line;
            let (indent, width) = (excerpt.indent, excerpt.width);
            write!(f, "\n{:margin$} |", "")?;
            write!(f, "\n{line} | {}", excerpt.text)?;
            write!(f, "\n{:margin$} | {:indent$}{:^<width$}", "", "", "")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n{:margin$} = help: {help}", "")?;
        }
        Ok(())
    }
}

/// The mapping that a value belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The document itself.
    Top,
    /// The mapping that is the value of a top-level key.
    Under(&'static str),
    /// The entry of a list with this index.
    Entry(&'static str, u32),
}

/// Where something stands, before it is put into words: its mapping, its key (empty for the mapping
/// itself) and its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) owner: Owner,
    pub(super) key: &'static str,
    pub(super) span: Span,
}

impl At {
    /// Somewhere in the text, regardless of what the text means.
    pub(super) fn text(span: Span) -> Self {
        let (owner, key) = (Owner::Top, "");
        Self { owner, key, span }
    }

    fn path(&self) -> String {
        let key = self.key;
        let dot = if key.is_empty() { "" } else { "." };
        match self.owner {
            Owner::Top => key.to_owned(),
            Owner::Under(top) => format!("{top}{dot}{key}"),
            Owner::Entry(list, index) => format!("{list}[{index}]{dot}{key}"),
        }
    }
}

/// The words of a finding, made only when it is going to be shown.
pub(super) struct Words {
    message: String,
    help: Option<String>,
}

impl Words {
    /// An error says what is wrong and what is allowed instead.
    pub(super) fn error(wrong: impl fmt::Display, allowed: impl fmt::Display) -> Self {
        Self::warning(format!("{wrong}; allowed: {allowed}"))
    }

    /// A warning only says what there is to know.
    pub(super) fn warning(message: String) -> Self {
        let help = None;
        Self { message, help }
    }

    pub(super) fn help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }
}

/// Collects findings of one severity, and only counts them when there are too many to be read.
pub(super) struct Findings {
    severity: Severity,
    kept: Vec<(At, Words)>,
    omitted: usize,
}

/// How many findings are kept.
pub(super) const MOST_SHOWN: usize = 1_000;

impl Findings {
    pub(super) fn new(severity: Severity) -> Self {
        Self {
            severity,
            kept: Vec::new(),
            omitted: 0,
        }
    }

    pub(super) fn add(&mut self, at: At, words: impl FnOnce() -> Words) {
        if self.is_full() {
            self.omitted += 1;
        } else {
            self.kept.push((at, words()));
        }
    }

    /// Whether what is added from now on is only counted.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= MOST_SHOWN
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The findings in the order of the file, and how many more there are.
    pub(super) fn finish(mut self, source: &Source<'_>) -> (Vec<Diagnostic>, usize) {
        self.kept.sort_by_key(|(at, _)| at.span.start);
        let severity = self.severity;
        let located = |(at, words): (At, Words)| {
            let (line, column) = source.position(at.span.start);
            Diagnostic {
                severity,
                message: words.message,
                help: words.help,
                place: Some(Place {
                    file: source.name().to_owned(),
                    line,
                    column,
                    path: at.path(),
                }),
                excerpt: Some(source.excerpt(at.span)),
            }
        };
        (self.kept.into_iter().map(located).collect(), self.omitted)
    }
}
