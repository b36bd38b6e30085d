//! The plain style that control planes write, read line by line.
//!
//! Of the time that a large file takes, most is the YAML parser's, which is made for everything that YAML allows. This reads the
//! three lists as programs write them, in block style or with an entry a line, has the parser read only the options, and gives up
//! at the first byte that it is not sure of, and whenever anything is wrong: the parser then begins again. So there is one source of errors, and what is
//! accepted here means what it means there (`tests/plain.rs`).

use std::net::Ipv4Addr;
use std::ops::Range;

use super::{Found, Mapped, Owner, Ports, Prefix, Reader, TOP_KEYS};
use crate::config::diagnostic::{At, Findings, Severity};
use crate::config::rules::Rules;
use crate::config::scalar::{Type, Value as _, implied_type};
use crate::config::schema::{Config, Eip, Forward, MacAddr, Protocol};
use crate::config::source::{Source, Span};
use crate::config::tree::{MOST_NODES, Tree};

/// What the file asks for, and the warnings. `None` if the parser has to read it.
pub(in crate::config) fn read(source: &Source<'_>) -> Option<(Config, Findings)> {
    let mut reader = Reader {
        source,
        errors: Findings::new(Severity::Error),
        rules: Rules::new(source),
        config: Config::default(),
    };
    let mut text = Text::new(source.text());
    text.eat(b"---\n");
    let mut seen = [false; 3];
    let mut lists = Lists::default();
    let mut next = text.next_line()?;
    loop {
        let (list, name) = match text.word()? {
            b"options" if next == 0 && lists.options.is_none() => {
                lists.options = Some(text.rest_of_block());
                let Some(line) = text.next_line() else { break };
                next = line;
                continue;
            }
            b"if_list" => (0, "if_list"),
            b"eip_list" => (1, "eip_list"),
            b"port_forward_list" => (2, "port_forward_list"),
            _ => return None,
        };
        if next != 0 || std::mem::replace(&mut seen[list], true) {
            return None;
        }
        text.values += 2;
        if text.eat(b" []") {
            text.end_of_line()?;
        } else {
            text.end_of_line()?;
            let mut index = 0;
            let Some(dashes) = text.next_line() else {
                break;
            };
            next = dashes;
            while next == dashes && text.eat(b"- ") {
                let after = match list {
                    0 => interface(&mut text, &mut reader, Owner::Entry(name, index), dashes),
                    1 => eip(&mut text, &mut lists, index, dashes),
                    _ => forward(&mut text, &mut lists, index, dashes),
                };
                let Some(line) = after? else {
                    return finish(reader, text, lists);
                };
                (next, index) = (line, index + 1);
            }
            continue;
        }
        let Some(line) = text.next_line() else { break };
        next = line;
    }
    finish(reader, text, lists)
}

/// What is checked once all is read.
fn finish<'s>(mut reader: Reader<'s>, text: Text<'s>, lists: Lists) -> Option<(Config, Findings)> {
    (reader.config.eips, reader.config.forwards) = (lists.eips, lists.forwards);
    reader.rules.gateways_are_others(&mut reader.errors);
    let apart = reader.rules.at_once(lists.mapped, lists.ports);
    // Last, because the pool depends on what addresses the lists have.
    if let Some(options) = lists.options {
        reader.options_in(options)?;
    }
    let whole = text.is_at_end() && text.values < MOST_NODES;
    (apart && whole && reader.errors.is_empty()).then(|| {
        let warnings = reader.rules.warnings(&reader.config);
        (reader.config, warnings)
    })
}

/// The long lists, as far as they have been read.
#[derive(Default)]
struct Lists {
    eips: Vec<Eip>,
    mapped: Vec<Mapped>,
    forwards: Vec<Forward>,
    ports: Vec<Ports>,
    /// Where `options:` and what belongs to it are.
    options: Option<Range<usize>>,
}

impl Reader<'_> {
    /// Reads the options that are in this part of the text. `None` if there is anything wrong, or anything else.
    fn options_in(&mut self, part: Range<usize>) -> Option<()> {
        let text = self.source.text().get(part.clone())?;
        let source = Source::new(self.source.name(), text);
        let tree = Tree::build(&source, &mut self.errors)?;
        let [interfaces, eips, forwards, options] =
            self.keys(Owner::Top, tree.root()?, TOP_KEYS)?;
        let others = [interfaces, eips, forwards];
        if others.iter().any(|slot| slot.entry.is_some()) {
            return None;
        }
        self.options(options);
        self.rules.move_options(part.start);
        Some(())
    }
}

/// The indentation of the line after an entry, `None` at the end of the text; `None` outside if the parser has to read it.
type After = Option<Option<usize>>;

fn interface(text: &mut Text<'_>, reader: &mut Reader<'_>, owner: Owner, dashes: usize) -> After {
    let (mut address, mut prefix, mut mac, mut gateway) = (None, None, None, None);
    let found = |key, span| At { owner, key, span };
    let after = text.entry(dashes, |text, key| match key {
        b"ipaddr" => once(&mut address, text.address()?),
        b"prefix" => once(&mut prefix, text.number()?),
        b"mac" => once(&mut mac, text.mac()?),
        b"gateway" => once(&mut gateway, text.address()?),
        _ => None,
    })?;
    let (address, prefix, mac) = (address?, prefix?, mac?);
    let length = u8::try_from(prefix.0).ok().filter(|length| *length <= 32)?;
    if let Some((_, span)) = gateway {
        let at = found("gateway", span);
        reader.rules.gateway(&mut reader.errors, at);
    }
    let (value, at) = (address.0, found("ipaddr", address.1));
    let address = Found { value, at };
    let (value, at) = (Prefix(length), found("prefix", prefix.1));
    let prefix = Found { value, at };
    let (value, at) = (mac.0, found("mac", mac.1));
    let mac = Found { value, at };
    let gateway = gateway.map(|(value, span)| {
        let at = found("gateway", span);
        Found { value, at }
    });
    reader.interface_of(Some(address), Some(prefix), Some(mac), Ok(gateway));
    Some(after)
}

fn eip(text: &mut Text<'_>, lists: &mut Lists, index: u32, dashes: usize) -> After {
    let (mut eip, mut vm) = (None, None);
    let after = text.entry(dashes, |text, key| match key {
        b"eip" => once(&mut eip, text.address()?),
        b"vm-ip" => once(&mut vm, text.address()?),
        _ => None,
    })?;
    let (eip, vm) = (eip?, vm?);
    lists.eips.push(Eip {
        eip: eip.0,
        vm: vm.0,
    });
    let vm = Some(vm);
    lists.mapped.push(Mapped { index, eip, vm });
    Some(after)
}

fn forward(text: &mut Text<'_>, lists: &mut Lists, index: u32, dashes: usize) -> After {
    let (mut eip, mut protocol, mut port) = (None, None, None);
    let (mut end_port, mut vm_port, mut vm) = (None, None, None);
    let after = text.entry(dashes, |text, key| match key {
        b"eip" => once(&mut eip, text.address()?),
        // Not both: they mean the same.
        b"protocal" | b"protocol" => once(&mut protocol, text.protocol()?),
        b"port" => once(&mut port, text.number()?),
        b"end_port" => once(&mut end_port, text.number()?),
        b"vm-port" => once(&mut vm_port, text.number()?),
        b"vm-ip" => once(&mut vm, text.address()?),
        _ => None,
    })?;
    let (eip, protocol, port, vm_port, vm) = (eip?, protocol?, port?, vm_port?, vm?);
    let (first, last) = (port.0, end_port.unwrap_or(port).0);
    vm_port.0.checked_add(last.checked_sub(first)?)?;
    lists.ports.push(Ports {
        eip: eip.0,
        protocol,
        first,
        last,
        index,
        port: port.1,
        at_eip: eip.1,
        at_vm: Some(vm.1),
    });
    lists.forwards.push(Forward {
        eip: eip.0,
        protocol,
        port: first,
        end_port: last,
        vm_port: vm_port.0,
        vm: vm.0,
    });
    Some(after)
}

/// Fills a place that must be empty.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// The text, and how far it has been read. `None` from any of its methods: the parser has to read it.
struct Text<'s> {
    text: &'s str,
    at: usize,
    /// How many values it has so far.
    values: usize,
}

impl<'s> Text<'s> {
    const fn new(text: &'s str) -> Self {
        let (at, values) = (0, 1);
        Self { text, at, values }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    const fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    fn eat(&mut self, what: &[u8]) -> bool {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let there = rest.starts_with(what);
        if there {
            self.at += what.len();
        }
        there
    }

    /// Passes bytes of one kind, and counts them.
    fn pass(&mut self, kind: impl Fn(u8) -> bool) -> usize {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let count = rest.iter().take_while(|byte| kind(**byte)).count();
        self.at += count;
        count
    }

    fn blanks(&mut self) -> usize {
        self.pass(|byte| byte == b' ')
    }

    /// A comment, if one begins here, and the end of the line.
    fn line_end(&mut self, comment: bool) -> Option<()> {
        if comment && self.peek() == Some(b'#') {
            self.pass(|byte| matches!(byte, b' '..=b'~'));
        }
        (self.eat(b"\n") || self.is_at_end()).then_some(())
    }

    /// What may follow a value on its line: nothing but a comment, and that after a blank.
    fn end_of_line(&mut self) -> Option<()> {
        let blanks = self.blanks();
        self.line_end(blanks > 0)
    }

    /// Goes on to the next line that is neither empty nor a comment, and past its indentation, which is returned.
    fn next_line(&mut self) -> Option<usize> {
        loop {
            let indentation = self.blanks();
            if !matches!(self.peek()?, b'\n' | b'#') {
                return Some(indentation);
            }
            self.line_end(true)?;
        }
    }

    /// Passes what belongs to a key of the top level that has just been read, and returns where both are: up to the next line that is
    /// neither indented nor empty nor a comment.
    fn rest_of_block(&mut self) -> Range<usize> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let start = self.at - "options:".len();
        let end = rest
            .match_indices('\n')
            .map(|(at, _)| self.at + at + 1)
            .find(|next| !matches!(self.text.as_bytes().get(*next), Some(b' ' | b'\n' | b'#')))
            .unwrap_or(self.text.len());
        self.at = end;
        // An alias may stand for more values than it has bytes; whatever else it is has fewer.
        let part = self.text.get(start..end).unwrap_or_default();
        self.values += if part.contains('*') {
            MOST_NODES
        } else {
            part.len()
        };
        start..end
    }

    /// A key, up to behind its colon.
    fn word(&mut self) -> Option<&'s [u8]> {
        let start = self.at;
        self.pass(|byte| matches!(byte, b'a'..=b'z' | b'_' | b'-'));
        let word = self.text.as_bytes().get(start..self.at)?;
        self.eat(b":").then_some(word)
    }

    /// A key, its value as `value` reads it.
    fn pair(&mut self, value: &mut impl FnMut(&mut Self, &[u8]) -> Option<()>) -> Option<()> {
        self.values += 2;
        let key = self.word()?;
        if self.blanks() == 0 {
            return None;
        }
        value(self, key)
    }

    /// An entry of a list whose dashes are indented so far, from behind its dash.
    fn entry(
        &mut self,
        dashes: usize,
        mut value: impl FnMut(&mut Self, &[u8]) -> Option<()>,
    ) -> After {
        self.values += 1;
        if self.eat(b"{") {
            loop {
                self.blanks();
                self.pair(&mut value)?;
                self.blanks();
                if !self.eat(b",") {
                    break;
                }
            }
            if !self.eat(b"}") {
                return None;
            }
            self.end_of_line()?;
            return Some(self.next_line());
        }
        loop {
            self.pair(&mut value)?;
            self.end_of_line()?;
            let line = self.next_line();
            if line != Some(dashes + 2) {
                return Some(line);
            }
        }
    }

    /// A value and where it stands, perhaps in quotes if it is text.
    fn scalar<T>(
        &mut self,
        may_be_quoted: bool,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<(T, Span)> {
        let start = self.at;
        let quote = self.peek().filter(|it| matches!(it, b'"' | b'\''));
        let value = match quote {
            None => read(self)?,
            Some(_) if !may_be_quoted => return None,
            Some(quote) => {
                self.at += 1;
                let value = read(self)?;
                if !self.eat(&[quote]) {
                    return None;
                }
                value
            }
        };
        Some((value, Span::new(start, self.at)))
    }

    /// Decimal digits without a zero before them, at most five.
    fn decimal(&mut self) -> Option<u32> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let mut number = 0;
        let mut digits = 0;
        for digit in rest.iter().map(|byte| byte.wrapping_sub(b'0')) {
            if digit > 9 {
                break;
            }
            number = number * 10 + u32::from(digit);
            digits += 1;
            if digits > 5 {
                return None;
            }
        }
        self.at += digits;
        let plain = digits == 1 || (digits > 1 && rest[0] != b'0');
        plain.then_some(number)
    }

    /// A number from 1 to 65535.
    fn number(&mut self) -> Option<(u16, Span)> {
        self.scalar(false, |text| {
            let number = u16::try_from(text.decimal()?).ok()?;
            (number != 0).then_some(number)
        })
    }

    fn address(&mut self) -> Option<(Ipv4Addr, Span)> {
        self.scalar(true, |text| {
            let mut octets = [0; 4];
            for (index, octet) in octets.iter_mut().enumerate() {
                if index > 0 && !text.eat(b".") {
                    return None;
                }
                *octet = u8::try_from(text.decimal()?).ok()?;
            }
            matches!(octets[0], 1..=126 | 128..=223).then(|| Ipv4Addr::from(octets))
        })
    }

    fn mac(&mut self) -> Option<(MacAddr, Span)> {
        let quoted = matches!(self.peek(), Some(b'"' | b'\''));
        let (word, span) = self.scalar(true, |text| {
            let start = text.at;
            text.pass(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'-'));
            text.text.get(start..text.at)
        })?;
        let text = implied_type(word, quoted) == Type::Text;
        Some((MacAddr::read(word).filter(|_| text)?, span))
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let (word, _) = self.scalar(true, |text| {
            let start = text.at;
            text.pass(|byte| byte.is_ascii_alphabetic());
            text.text.get(start..text.at)
        })?;
        let is = |name| word.eq_ignore_ascii_case(name);
        match () {
            () if is("tcp") => Some(Protocol::Tcp),
            () if is("udp") => Some(Protocol::Udp),
            () => None,
        }
    }
}
