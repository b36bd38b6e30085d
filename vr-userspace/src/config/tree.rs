//! YAML → a tree in which every node knows where it stands.
//!
//! A deserializer into types stops at the first mistake and forgets how a scalar was written. So
//! this takes the parser's events instead, and keeps of each node only what [`super::validate`]
//! asks for, in one flat vector: a hundred thousand forwards are more than a million nodes.

use std::collections::HashMap;

use serde_yaml::granit_parser::{
    ErrorKind, Event, Parser, ScalarStyle, ScanError, Tag, options as parser_options,
};

use super::diagnostic::{At, Findings, Words};
use super::scalar::{Scalar, Type, implied_type};
use super::source::{Source, Span, quoted};

/// The most nodes that a file may have, counting an alias as all that it stands for: enough
/// for 150,000 forwards, and read within a second whatever they are.
pub(super) const MOST_NODES: usize = 2_000_000;

/// The deepest nesting of a file; a valid one needs three levels.
pub(super) const DEEPEST: usize = 32;

/// A node, preceded in the vector by its parent and followed by its own children.
struct Raw {
    span: Span,
    kind: Kind,
    /// List, mapping, refused: the index after the last descendant. Alias: that of what it stands
    /// for. Scalar: that of its text in [`Tree::rewritten`], or [`AS_WRITTEN`].
    link: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    List,
    Mapping,
    Scalar {
        quoted: bool,
        tag: Option<Type>,
    },
    Alias,
    /// Refused already; whoever meets it says nothing more.
    Refused,
}

const AS_WRITTEN: u32 = u32::MAX;

/// The document.
pub(super) struct Tree<'s> {
    source: &'s Source<'s>,
    nodes: Vec<Raw>,
    /// The texts of scalars whose value is not the very text of the file: with escapes, folded.
    rewritten: Vec<Box<str>>,
}

impl<'s> Tree<'s> {
    /// Reads the source. `None` if it is not YAML; the reason is among the errors then.
    pub(super) fn build(source: &'s Source<'s>, errors: &mut Findings) -> Option<Self> {
        let options = parser_options! {
            emit_comments: false,
            emit_unresolved_aliases: true,
            flow_nesting_limit: DEEPEST,
            block_nesting_limit: DEEPEST,
        };
        let mut builder = Builder::new(source, errors);
        for event in Parser::new_from_str_with_options(source.text(), options) {
            match event {
                Ok((event, span)) => {
                    let span = span
                        .byte_range()
                        .map_or(Span::new(0, 0), |r| Span::new(r.start, r.end));
                    match builder.take(event, span) {
                        Next::Go => {}
                        Next::Stop => break,
                        Next::GiveUp => return None,
                    }
                }
                Err(error) => {
                    builder.not_yaml(&error);
                    return None;
                }
            }
        }
        Some(builder.tree)
    }

    /// The top-level node; `None` for a file that has none.
    pub(super) fn root(&self) -> Option<Node<'_>> {
        (!self.nodes.is_empty()).then(|| self.node(0))
    }

    fn node(&self, at: usize) -> Node<'_> {
        Node { tree: self, at }
    }
}

/// A node of a tree.
#[derive(Clone, Copy)]
pub(super) struct Node<'t> {
    tree: &'t Tree<'t>,
    at: usize,
}

/// What a node is.
pub(super) enum Shape<'t> {
    List(Children<'t>),
    /// Keys and values by turns.
    Mapping(Children<'t>),
    Scalar(Scalar<'t>),
    /// Refused already; nothing more is to be said about it.
    Refused,
}

impl<'t> Node<'t> {
    /// Where the node stands: an alias where it is used, not where it is defined.
    pub(super) fn span(self) -> Span {
        self.tree.nodes[self.at].span
    }

    /// What the node is, seen through an alias.
    pub(super) fn shape(self) -> Shape<'t> {
        let tree = self.tree;
        let mut at = self.at;
        if tree.nodes[at].kind == Kind::Alias {
            at = tree.nodes[at].link as usize;
        }
        let raw = &tree.nodes[at];
        let children = Children {
            tree,
            next: at + 1,
            end: raw.link as usize,
        };
        match raw.kind {
            Kind::List => Shape::List(children),
            Kind::Mapping => Shape::Mapping(children),
            Kind::Scalar { quoted, tag } => {
                let text = tree.text_of(raw, quoted);
                let kind = tag.unwrap_or_else(|| implied_type(text, quoted));
                Shape::Scalar(Scalar { kind, text, quoted })
            }
            Kind::Alias | Kind::Refused => Shape::Refused,
        }
    }

    pub(super) fn is_null(self) -> bool {
        matches!(self.shape(), Shape::Scalar(scalar) if scalar.kind == Type::Null)
    }
}

impl Tree<'_> {
    fn text_of(&self, raw: &Raw, quoted: bool) -> &str {
        match self.rewritten.get(raw.link as usize) {
            Some(text) => text,
            None => as_written(self.source, raw.span, quoted),
        }
    }
}

/// The children of a list or mapping.
pub(super) struct Children<'t> {
    tree: &'t Tree<'t>,
    next: usize,
    end: usize,
}

impl<'t> Iterator for Children<'t> {
    type Item = Node<'t>;

    fn next(&mut self) -> Option<Node<'t>> {
        let at = self.next;
        let raw = self.tree.nodes.get(at).filter(|_| at < self.end)?;
        self.next = match raw.kind {
            Kind::List | Kind::Mapping | Kind::Refused => raw.link as usize,
            Kind::Scalar { .. } | Kind::Alias => at + 1,
        };
        Some(self.tree.node(at))
    }
}

/// What to do after an event.
enum Next {
    Go,
    Stop,
    GiveUp,
}

/// A list or mapping whose end has not come yet.
struct Open {
    at: usize,
    anchor: usize,
    /// [`Builder::weight`] when it began.
    weight: usize,
}

struct Builder<'s, 'e> {
    tree: Tree<'s>,
    errors: &'e mut Findings,
    open: Vec<Open>,
    /// What an anchor's number stands for: the node, and how many nodes that is in all.
    anchors: HashMap<usize, (usize, usize)>,
    /// The nodes so far, an alias counted as all that it stands for.
    weight: usize,
    documents: usize,
}

impl<'s, 'e> Builder<'s, 'e> {
    fn new(source: &'s Source<'s>, errors: &'e mut Findings) -> Self {
        Self {
            tree: Tree {
                source,
                // A little less than a node is seen for every eight bytes of a real file.
                nodes: Vec::with_capacity((source.text().len() / 8).min(MOST_NODES)),
                rewritten: Vec::new(),
            },
            errors,
            open: Vec::new(),
            anchors: HashMap::new(),
            weight: 0,
            documents: 0,
        }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Next {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return self.second_document(span);
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let kind = self.scalar_kind(&text, style, tag.as_deref(), span);
                let quoted = style != ScalarStyle::Plain;
                let link = if kind == Kind::Refused {
                    index(self.tree.nodes.len() + 1)
                } else if as_written(self.tree.source, span, quoted) == text {
                    AS_WRITTEN
                } else {
                    self.tree.rewritten.push(text.into());
                    index(self.tree.rewritten.len() - 1)
                };
                let at = self.push(Raw { span, kind, link });
                self.weight += 1;
                if anchor != 0 {
                    self.anchors.insert(anchor, (at, 1));
                }
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(Kind::List, "seq", anchor, tag.as_deref(), span);
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(Kind::Mapping, "map", anchor, tag.as_deref(), span);
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::UnresolvedAlias(_) => self.refuse_alias(span, "names no anchor before it"),
            _ => {}
        }
        if self.weight > MOST_NODES {
            return self.too_many(span);
        }
        Next::Go
    }

    fn push(&mut self, raw: Raw) -> usize {
        self.tree.nodes.push(raw);
        self.tree.nodes.len() - 1
    }

    fn open(&mut self, kind: Kind, name: &str, anchor: usize, tag: Option<&Tag>, span: Span) {
        let kind = match tag {
            Some(tag) if !tag.is_yaml_core_schema_tag(name) && tag.original() != "!" => {
                self.refuse_tag(tag, span, &format!("no tag, or !!{name}"));
                Kind::Refused
            }
            _ => kind,
        };
        let weight = self.weight;
        let link = AS_WRITTEN;
        let at = self.push(Raw { span, kind, link });
        self.weight += 1;
        self.open.push(Open { at, anchor, weight });
    }

    fn close(&mut self, end: Span) {
        let Some(open) = self.open.pop() else { return };
        // A block ends only where the next thing begins; its last child is nearer the truth.
        let last = self.tree.nodes.last().map_or(0, |last| last.span.end);
        let flow = self.tree.source.slice(end);
        let end = if matches!(flow, "]" | "}") {
            end.end
        } else {
            last
        };
        let next = self.tree.nodes.len();
        let raw = &mut self.tree.nodes[open.at];
        raw.span.end = end.max(raw.span.start);
        raw.link = index(next);
        if open.anchor != 0 {
            let weight = self.weight - open.weight;
            self.anchors.insert(open.anchor, (open.at, weight));
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) {
        // What is still open is not known yet: an alias in it would be a document without end.
        match self.anchors.get(&anchor) {
            Some(&(at, weight)) => {
                let link = index(at);
                let kind = Kind::Alias;
                self.push(Raw { span, kind, link });
                self.weight = self.weight.saturating_add(weight);
            }
            None => self.refuse_alias(span, "stands inside the very value that it names"),
        }
    }

    fn refuse_alias(&mut self, span: Span, why: &str) {
        let source = self.tree.source;
        self.errors.add(At::text(span), || {
            let alias = quoted(source.slice(span));
            let wrong = format!("the alias {alias} {why}");
            Words::error(wrong, "the name of an `&anchor` before it")
        });
        let link = index(self.tree.nodes.len() + 1);
        let kind = Kind::Refused;
        self.push(Raw { span, kind, link });
        self.weight += 1;
    }

    fn scalar_kind(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: Span,
    ) -> Kind {
        let quoted = style != ScalarStyle::Plain;
        let Some(tag) = tag else {
            return Kind::Scalar { quoted, tag: None };
        };
        let plain = implied_type(text, false);
        let meant = match tag.core_suffix() {
            Some("str") => Some(Type::Text),
            None if tag.original() == "!" => Some(Type::Text),
            Some("null") => Some(Type::Null).filter(|_| plain == Type::Null),
            Some("bool") => Some(Type::Bool).filter(|_| plain == Type::Bool),
            Some("int") => Some(Type::Integer).filter(|_| plain == Type::Integer),
            Some("float") => {
                Some(Type::Float).filter(|_| matches!(plain, Type::Float | Type::Integer))
            }
            _ => None,
        };
        if meant.is_none() {
            self.refuse_tag(
                tag,
                span,
                "no tag, or one of YAML itself that fits the value",
            );
            return Kind::Refused;
        }
        Kind::Scalar { quoted, tag: meant }
    }

    fn refuse_tag(&mut self, tag: &Tag, span: Span, allowed: &str) {
        self.errors.add(At::text(span), || {
            let wrong = format!("the tag {} is not understood here", quoted(&tag.original()));
            Words::error(wrong, allowed)
        });
    }

    fn second_document(&mut self, span: Span) -> Next {
        let source = self.tree.source;
        self.errors.add(At::text(span), || {
            let marker = quoted(source.slice(span));
            let wrong = format!("a second document begins here with {marker}");
            Words::error(wrong, "one document a file")
        });
        Next::Stop
    }

    fn too_many(&mut self, span: Span) -> Next {
        self.errors.add(At::text(span), || {
            let wrong = format!("value number {} of the file", MOST_NODES + 1);
            let allowed = format!("{MOST_NODES} values, an alias counted as all it stands for");
            Words::error(wrong, allowed)
        });
        Next::GiveUp
    }

    fn not_yaml(&mut self, error: &ScanError) {
        let source = self.tree.source;
        let text = source.text();
        let mut at = error.marker().byte_offset().unwrap_or(text.len());
        if matches!(error.kind(), ErrorKind::TabInPlainScalar) {
            // The parser points at the value that it was reading; the tab begins a line behind it.
            let after = text.get(at..).unwrap_or_default();
            at += after.find("\n\t").map_or(0, |end| end + 1);
        }
        let rest = text.get(at..).unwrap_or_default();
        let shown = rest.split(['\n', '\r']).next().unwrap_or_default();
        let span = Span::new(at, at + shown.chars().next().map_or(0, char::len_utf8));
        self.errors.add(At::text(span), || {
            let found = if rest.is_empty() {
                "the end of the file".to_owned()
            } else {
                quoted(shown)
            };
            let wrong = format!("not YAML at {found}: {}", error.kind());
            let (allowed, help) = match error.kind() {
                ErrorKind::RecursionLimitExceeded => (format!("{DEEPEST} levels"), None),
                kind => ("one YAML 1.2 document".to_owned(), remedy(kind)),
            };
            Words::error(wrong, allowed).help(help.map(str::to_owned))
        });
    }
}

/// What to do about the mistakes in YAML that are made most.
fn remedy(kind: &ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar => "indent with blanks",
        ErrorKind::MappingValueNotAllowed => {
            "a key stands on a line of its own, indented like the keys beside it"
        }
        ErrorKind::UnclosedQuotedScalar => "the quote that opens here is never closed",
        ErrorKind::SimpleKeyExpected => "a key is followed by a colon and a blank",
        _ => return None,
    })
}

/// The text of a scalar as it stands in the file, without its quotes.
fn as_written<'s>(source: &Source<'s>, span: Span, quoted: bool) -> &'s str {
    let text = source.slice(span);
    match quoted {
        false => text,
        true => text
            .get(1..text.len().saturating_sub(1))
            .unwrap_or_default(),
    }
}

/// A position in a vector of nodes or texts, of which there are at most [`MOST_NODES`].
fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(AS_WRITTEN)
}
