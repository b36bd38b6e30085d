//! The text of the file, and where in it something stands.

use std::cell::{Cell, OnceCell};

/// A stretch of the text, in bytes. 32 bits are enough, see [`super::MAX_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// A span of byte offsets; one past 4 GiB, which no text read here has, becomes the last.
    pub(super) fn new(start: usize, end: usize) -> Self {
        let narrow = |offset| u32::try_from(offset).unwrap_or(u32::MAX);
        Self {
            start: narrow(start),
            end: narrow(end.max(start)),
        }
    }
}

/// The part of a line that a message shows, and what of it is underlined, in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Excerpt {
    pub(super) text: String,
    pub(super) indent: usize,
    pub(super) width: usize,
}

/// A file's name and text.
///
/// Positions are kept as byte offsets and become lines and columns only for a message, so that a
/// file without mistakes pays nothing for them.
pub(super) struct Source<'a> {
    name: &'a str,
    text: &'a str,
    line_starts: OnceCell<Vec<u32>>,
    /// The last column that was asked for, as (line start, offset, characters between them).
    /// Messages come in the order of the file, so a line of megabytes is counted through once.
    counted: Cell<(usize, usize, usize)>,
}

/// How many characters of a line are shown before and after the place in question.
const SHOWN_BEFORE: usize = 60;
const SHOWN_AFTER: usize = 80;

impl<'a> Source<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        Self {
            name,
            text,
            line_starts: OnceCell::new(),
            counted: Cell::new((0, 0, 0)),
        }
    }

    pub(super) fn name(&self) -> &'a str {
        self.name
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The text of a span, empty for a span that does not lie in the text.
    pub(super) fn slice(&self, span: Span) -> &'a str {
        self.text
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default()
    }

    /// The line that an offset is on, counted from 1.
    pub(super) fn line(&self, offset: u32) -> usize {
        self.line_starts().partition_point(|&start| start <= offset)
    }

    /// The line and the column of an offset, both counted from 1, the column in characters.
    pub(super) fn position(&self, offset: u32) -> (usize, usize) {
        let line = self.line(offset);
        let start = self.line_range(line).0;
        let offset = self.floor(offset as usize).max(start);
        let (of_line, from, characters) = match self.counted.get() {
            counted if counted.0 == start && counted.1 <= offset => counted,
            _ => (start, start, 0),
        };
        let between = self.text.get(from..offset).unwrap_or_default();
        let characters = characters + between.chars().count();
        self.counted.set((of_line, offset, characters));
        (line, characters + 1)
    }

    /// The line that a span begins on, cut down to what fits on a screen.
    pub(super) fn excerpt(&self, span: Span) -> Excerpt {
        let (start, end) = self.line_range(self.line(span.start));
        let from = self.floor(span.start as usize).clamp(start, end);
        let to = self.floor(span.end as usize).clamp(from, end);
        let piece = |from, to| self.text.get(from..to).unwrap_or_default();

        let (before, marked, after) = (piece(start, from), piece(from, to), piece(to, end));
        let first = before
            .char_indices()
            .rev()
            .nth(SHOWN_BEFORE - 1)
            .map_or(0, |(at, _)| at);
        let mut text = String::new();
        if first > 0 {
            text.push('…');
        }
        text.extend(before[first..].chars().map(visible));
        let indent = text.chars().count();
        let mut rest = marked.chars().chain(after.chars());
        text.extend(rest.by_ref().take(SHOWN_AFTER).map(visible));
        if rest.next().is_some() {
            text.push('…');
        }
        // An empty span, such as the end of the file, is shown by one caret all the same.
        let width = marked.chars().take(SHOWN_AFTER).count().max(1);
        Excerpt {
            text,
            indent,
            width,
        }
    }

    /// The offsets that lines start at. As in YAML, a line ends with LF, CR LF or CR.
    fn line_starts(&self) -> &[u32] {
        self.line_starts.get_or_init(|| {
            let bytes = self.text.as_bytes();
            let mut starts = vec![0];
            for (at, byte) in bytes.iter().enumerate() {
                if *byte == b'\n' || (*byte == b'\r' && bytes.get(at + 1) != Some(&b'\n')) {
                    starts.push(Span::new(at + 1, 0).start);
                }
            }
            starts
        })
    }

    /// The byte range of a line, without its end.
    fn line_range(&self, line: usize) -> (usize, usize) {
        let starts = self.line_starts();
        let start = starts
            .get(line.saturating_sub(1))
            .map_or(0, |&at| at as usize);
        let end = starts.get(line).map_or(self.text.len(), |&at| at as usize);
        let whole = self.text.get(start..end).unwrap_or_default();
        (start, start + whole.trim_end_matches(['\n', '\r']).len())
    }

    /// The last character boundary at or before an offset.
    fn floor(&self, offset: usize) -> usize {
        self.text.floor_char_boundary(offset)
    }
}

/// A character as a terminal may show it: one column, and no power over what stands around it.
fn visible(character: char) -> char {
    match character {
        '\t' => ' ',
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => char::REPLACEMENT_CHARACTER,
        control if control.is_control() => char::REPLACEMENT_CHARACTER,
        other => other,
    }
}

/// A value as a message quotes it: escaped, and cut when it is long.
pub(super) fn quoted(value: &str) -> String {
    let (shown, more) = cut(value);
    format!("{shown:?}{more}")
}

/// A number as a message shows it: cut when it is long.
pub(super) fn bare(number: &str) -> String {
    let (shown, more) = cut(number);
    format!("{shown}{more}")
}

/// As much of a value as a message can hold, and a sign that there is more.
fn cut(value: &str) -> (&str, &'static str) {
    const LONGEST: usize = 60;
    match value.char_indices().nth(LONGEST) {
        None => (value, ""),
        Some((end, _)) => (&value[..end], "…"),
    }
}
