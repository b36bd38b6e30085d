//! Tree → [`Config`]: which keys there are, and what each of them may hold. What entries may not
//! have in common is the business of [`super::rules`].

pub(super) mod options;
pub(super) mod plain;

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::diagnostic::{At, Findings, Owner, Severity, Words};
use super::rules::{Found, Mapped, Ports, Rules};
use super::scalar::{Port, Prefix, Type, Value};
use super::schema::{Config, Eip, Forward, Interface, MacAddr, Protocol};
use super::source::{Source, Span, quoted};
use super::spelling::nearest;
use super::tree::{Children, Node, Shape, Tree};

const TOP_KEYS: [&str; 4] = ["if_list", "eip_list", "port_forward_list", "options"];
const INTERFACE_KEYS: [&str; 4] = ["ipaddr", "prefix", "mac", "gateway"];
const EIP_KEYS: [&str; 2] = ["eip", "vm-ip"];
const FORWARD_KEYS: [&str; 7] = [
    "eip", "protocal", "protocol", "port", "end_port", "vm-port", "vm-ip",
];

/// Reads a whole text: the config and the warnings, or else the errors.
pub(super) fn validate(source: &Source<'_>) -> Result<(Config, Findings), Findings> {
    plain::read(source).map_or_else(|| by_parser(source), Ok)
}

/// The same by the YAML parser, which reads every style and finds all errors.
pub(super) fn by_parser(source: &Source<'_>) -> Result<(Config, Findings), Findings> {
    let mut errors = Findings::new(Severity::Error);
    let Some(tree) = Tree::build(source, &mut errors) else {
        return Err(errors);
    };
    let mut reader = Reader {
        source,
        errors,
        rules: Rules::new(source),
        config: Config::default(),
    };
    if let Some(root) = tree.root() {
        reader.top(root);
    }
    if reader.errors.is_empty() {
        let warnings = reader.rules.warnings(&reader.config);
        Ok((reader.config, warnings))
    } else {
        Err(reader.errors)
    }
}

/// A key that a mapping can have, there or not.
#[derive(Clone, Copy)]
struct Slot<'t> {
    owner: Owner,
    name: &'static str,
    /// The mapping, to point at when the key is not there.
    within: Span,
    /// The key and its value.
    entry: Option<(Node<'t>, Node<'t>)>,
    /// A key much like this one was refused as unknown: it is not missing, it is misspelt.
    misspelt: bool,
}

impl<'t> Slot<'t> {
    /// The value; null is the same as nothing.
    fn value(&self) -> Option<Node<'t>> {
        let (_, value) = self.entry?;
        (!value.is_null()).then_some(value)
    }

    fn at(&self, span: Span) -> At {
        let (owner, key) = (self.owner, self.name);
        At { owner, key, span }
    }

    /// The key itself, or the mapping where there is none.
    fn at_key(&self) -> At {
        self.at(self.entry.map_or(self.within, |(key, _)| key.span()))
    }
}

/// Something is there and is not right; an error says so already.
struct Reported;

struct Reader<'s> {
    source: &'s Source<'s>,
    errors: Findings,
    rules: Rules<'s>,
    config: Config,
}

impl Reader<'_> {
    fn top(&mut self, root: Node<'_>) {
        if root.is_null() {
            return;
        }
        let Some([interfaces, eips, forwards, options]) = self.keys(Owner::Top, root, TOP_KEYS)
        else {
            return;
        };
        self.entries(interfaces, Self::interface);
        self.rules.gateways_are_others(&mut self.errors);
        self.entries(eips, Self::eip);
        self.entries(forwards, Self::forward);
        // Last, because the pool depends on what addresses the lists have.
        self.options(options);
    }

    fn entries(&mut self, list: Slot<'_>, read: fn(&mut Self, u32, Node<'_>)) {
        let items = self.items(list);
        for (index, item) in (0..).zip(items.into_iter().flatten()) {
            read(self, index, item);
        }
    }

    fn items<'t>(&mut self, list: Slot<'t>) -> Option<Children<'t>> {
        let value = list.value()?;
        let Shape::List(items) = value.shape() else {
            self.wrong_type(list.at(value.span()), value, "a list");
            return None;
        };
        Some(items)
    }

    fn interface(&mut self, index: u32, node: Node<'_>) {
        let owner = Owner::Entry("if_list", index);
        let Some([ipaddr, prefix, mac, gateway]) = self.keys(owner, node, INTERFACE_KEYS) else {
            return;
        };
        if let Some(value) = gateway.value() {
            self.rules
                .gateway(&mut self.errors, gateway.at(value.span()));
        }
        let address = self.required::<Ipv4Addr>(ipaddr);
        let prefix = self.required::<Prefix>(prefix);
        let mac = self.required::<MacAddr>(mac);
        let gateway = self.optional::<Ipv4Addr>(gateway);
        self.interface_of(address, prefix, mac, gateway);
    }

    fn interface_of(
        &mut self,
        address: Option<Found<Ipv4Addr>>,
        prefix: Option<Found<Prefix>>,
        mac: Option<Found<MacAddr>>,
        gateway: Result<Option<Found<Ipv4Addr>>, Reported>,
    ) {
        if let Some(mac) = mac {
            self.rules.mac(&mut self.errors, mac);
        }
        let Some(address) = address else { return };
        self.rules.address(&mut self.errors, address);
        if let Ok(Some(gateway)) = gateway {
            self.rules.next_router(gateway);
        }
        let Some(prefix) = prefix else { return };
        self.host_address(address, address.value, prefix.value.0);
        if let Ok(Some(gateway)) = gateway {
            self.host_address(gateway, address.value, prefix.value.0);
        }
        let (Some(mac), Ok(gateway)) = (mac, gateway) else {
            return;
        };
        self.config.interfaces.push(Interface {
            address: address.value,
            prefix: prefix.value.0,
            mac: mac.value,
            gateway: gateway.map(|gateway| gateway.value),
        });
    }

    /// Refuses the two addresses of the subnet around `own` that no host can have. A subnet of two
    /// addresses, or of one, has no such (RFC 3021).
    fn host_address(&mut self, address: Found<Ipv4Addr>, own: Ipv4Addr, prefix: u8) {
        let Ok(subnet) = Ipv4Net::new(own, prefix) else {
            return;
        };
        let (first, last) = (subnet.network(), subnet.broadcast());
        let name = match address.value {
            _ if prefix >= 31 => return,
            value if value == first => "network",
            value if value == last => "broadcast",
            _ => return,
        };
        self.errors.add(address.at, || {
            let wrong = format!(
                "{} is the {name} address of {first}/{prefix}",
                address.value
            );
            Words::error(wrong, format!("an address between {first} and {last}"))
        });
    }

    fn eip(&mut self, index: u32, node: Node<'_>) {
        let owner = Owner::Entry("eip_list", index);
        let Some([eip, vm]) = self.keys(owner, node, EIP_KEYS) else {
            return;
        };
        let eip = self.required::<Ipv4Addr>(eip);
        let vm = self.required::<Ipv4Addr>(vm);
        let Some(eip) = eip else { return };
        let new = Mapped {
            index,
            eip: (eip.value, eip.at.span),
            vm: vm.map(|vm| (vm.value, vm.at.span)),
        };
        self.rules.eip(&mut self.errors, new);
        if let Some(vm) = vm {
            self.config.eips.push(Eip {
                eip: eip.value,
                vm: vm.value,
            });
        }
    }

    fn forward(&mut self, index: u32, node: Node<'_>) {
        let owner = Owner::Entry("port_forward_list", index);
        let Some([eip, protocal, protocol, port, end_port, vm_port, vm]) =
            self.keys(owner, node, FORWARD_KEYS)
        else {
            return;
        };
        let eip = self.required::<Ipv4Addr>(eip);
        let protocol = self.protocol(protocal, protocol);
        let port = self.required::<Port>(port);
        let end_port = self.optional::<Port>(end_port);
        let vm_port = self.required::<Port>(vm_port);
        let vm = self.required::<Ipv4Addr>(vm);

        let (Some(port), Ok(end_port)) = (port, end_port) else {
            return;
        };
        let Ok(last) = self.last_port(port, end_port) else {
            return;
        };
        if let Some(vm_port) = vm_port {
            self.target_range(vm_port, last - port.value.0);
        }
        let (Some(eip), Some(protocol)) = (eip, protocol) else {
            return;
        };
        self.rules.forward(
            &mut self.errors,
            Ports {
                eip: eip.value,
                protocol,
                first: port.value.0,
                last,
                index,
                port: port.at.span,
                at_eip: eip.at.span,
                at_vm: vm.map(|vm| vm.at.span),
            },
        );
        let (Some(vm_port), Some(vm)) = (vm_port, vm) else {
            return;
        };
        self.config.forwards.push(Forward {
            eip: eip.value,
            protocol,
            port: port.value.0,
            end_port: last,
            vm_port: vm_port.value.0,
            vm: vm.value,
        });
    }

    /// The protocol, under its historic spelling or the right one, but not under both.
    fn protocol(&mut self, historic: Slot<'_>, right: Slot<'_>) -> Option<Protocol> {
        let (given, mut other) = match (historic.entry, right.entry) {
            (None, Some(_)) => (right, historic),
            _ => (historic, right),
        };
        if given.entry.is_some() && other.entry.is_some() {
            if given.at_key().span.start > other.at_key().span.start {
                other = given;
            }
            self.errors.add(other.at_key(), || {
                let wrong = r#"both "protocal" and "protocol" are given, which mean the same"#;
                Words::error(wrong, "one of the two")
            });
        }
        let misspelt = historic.misspelt || right.misspelt;
        let value = self.required::<Protocol>(Slot { misspelt, ..given })?;
        Some(value.value)
    }

    fn last_port(&mut self, port: Found<Port>, end: Option<Found<Port>>) -> Result<u16, Reported> {
        let first = port.value.0;
        let Some(end) = end else { return Ok(first) };
        let last = end.value.0;
        if last < first {
            self.errors.add(end.at, || {
                let wrong = format!("{last} is below port, which is {first}");
                Words::error(wrong, format!("an integer from {first} to 65535"))
            });
            return Err(Reported);
        }
        Ok(last)
    }

    /// Refuses a range of the VM's ports that runs past the last port there is.
    fn target_range(&mut self, vm_port: Found<Port>, more: u16) {
        let first = vm_port.value.0;
        if first.checked_add(more).is_none() {
            self.errors.add(vm_port.at, || {
                let count = u32::from(more) + 1;
                let wrong = format!("{count} ports from {first} on run past 65535");
                Words::error(wrong, format!("an integer from 1 to {}", u16::MAX - more))
            });
        }
    }

    fn required<V: Value>(&mut self, slot: Slot<'_>) -> Option<Found<V>> {
        let found = self.optional(slot).ok()?;
        if found.is_none() && !slot.misspelt {
            let name = slot.name;
            // `protocal` is what old files say; whoever has to add the key had better spell it.
            let name = if name == "protocal" { "protocol" } else { name };
            let what = match slot.entry {
                Some(_) => "key without a value",
                None => "missing key",
            };
            let mut at = slot.at_key();
            at.key = "";
            self.errors.add(at, || {
                Words::error(format!("{what} {name:?}"), V::allowed())
            });
        }
        found
    }

    fn optional<V: Value>(&mut self, slot: Slot<'_>) -> Result<Option<Found<V>>, Reported> {
        match slot.value() {
            None => Ok(None),
            Some(node) => self.scalar(slot.at(node.span()), node).map(Some),
        }
    }

    fn scalar<V: Value>(&mut self, at: At, node: Node<'_>) -> Result<Found<V>, Reported> {
        match node.shape() {
            Shape::Scalar(scalar) if scalar.kind == V::TYPE => match V::read(scalar.text) {
                Some(value) => return Ok(Found { value, at }),
                None => self.errors.add(at, || {
                    let (wrong, help) = V::wrong(scalar.text);
                    Words::error(wrong, V::allowed()).help(help)
                }),
            },
            _ => self.wrong_type(at, node, V::allowed()),
        }
        Err(Reported)
    }

    fn wrong_type(&mut self, at: At, node: Node<'_>, allowed: impl fmt::Display) {
        let shape = node.shape();
        if matches!(shape, Shape::Refused) {
            return;
        }
        self.errors.add(at, || {
            let allowed = allowed.to_string();
            let mut help = None;
            let found = match shape {
                Shape::List(_) => "a list".to_owned(),
                Shape::Scalar(scalar) => {
                    let number = scalar.text.parse::<u64>().is_ok();
                    if scalar.quoted && number && allowed.starts_with("an integer") {
                        help = Some("write the number without quotes".to_owned());
                    }
                    scalar.described()
                }
                Shape::Mapping(_) | Shape::Refused => "a mapping".to_owned(),
            };
            Words::error(format!("wrong type: found {found}"), allowed).help(help)
        });
    }

    /// Sorts a mapping's entries by the keys that it may have. `None` if it is no mapping.
    fn keys<'t, const N: usize>(
        &mut self,
        owner: Owner,
        node: Node<'t>,
        known: [&'static str; N],
    ) -> Option<[Slot<'t>; N]> {
        let (within, key) = (node.span(), "");
        let at = |span| At { owner, key, span };
        let Shape::Mapping(mut children) = node.shape() else {
            let allowed =
                fmt::from_fn(|f| write!(f, "a mapping with the keys {}", known.join(", ")));
            self.wrong_type(at(within), node, allowed);
            return None;
        };
        let mut slots = known.map(|name| Slot {
            owner,
            name,
            within,
            entry: None,
            misspelt: false,
        });
        while let (Some(key), Some(value)) = (children.next(), children.next()) {
            let at = at(key.span());
            let scalar = match key.shape() {
                Shape::Scalar(scalar) => scalar,
                _ => {
                    self.wrong_type(at, key, "a key that is a word");
                    continue;
                }
            };
            let word = scalar.text;
            let text = scalar.kind == Type::Text;
            match known.iter().position(|name| text && *name == word) {
                Some(index) => match slots[index].entry {
                    None => slots[index].entry = Some((key, value)),
                    Some((first, _)) => self.duplicate(at, word, first),
                },
                None => {
                    // Looking for what was meant takes longer than reading the word.
                    let shown = !self.errors.is_full();
                    let near = shown.then(|| nearest(word, &known)).flatten();
                    if let Some(index) = near {
                        slots[index].misspelt = true;
                    }
                    self.unknown(at, word, &known, near.map(|index| known[index]));
                }
            }
        }
        Some(slots)
    }

    fn duplicate(&mut self, at: At, word: &str, first: Node<'_>) {
        self.errors.add(at, || {
            let line = self.source.line(first.span().start);
            let wrong = format!("duplicate key {word:?}, first given in line {line}");
            Words::error(wrong, "each key once")
        });
    }

    fn unknown(&mut self, at: At, word: &str, known: &[&str], near: Option<&str>) {
        self.errors.add(at, || {
            let help = near.map(|name| format!("did you mean {name:?}?"));
            Words::error(format!("unknown key {}", quoted(word)), known.join(", ")).help(help)
        });
    }
}
