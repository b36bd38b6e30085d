//! Scalars: which type YAML gives them, and what the file's own kinds of value make of them.

use std::fmt;
use std::net::Ipv4Addr;

use vr_common::session::record::POOL;

use super::schema::{Filtering, MacAddr, Protocol};
use super::source::{bare, quoted};
use super::spelling::nearest;

/// What a scalar is under the core schema of YAML 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Bool,
    Integer,
    Float,
    Text,
}

/// A scalar's type and its text, without quotes and escapes.
#[derive(Clone, Copy)]
pub(super) struct Scalar<'t> {
    pub(super) kind: Type,
    pub(super) text: &'t str,
    /// Whether it was written in quotes or as a block of text.
    pub(super) quoted: bool,
}

impl Scalar<'_> {
    /// The scalar as a message names it.
    pub(super) fn described(self) -> String {
        match self.kind {
            Type::Null => "null".to_owned(),
            Type::Bool => format!("the boolean {}", self.text),
            Type::Integer => format!("the integer {}", bare(self.text)),
            Type::Float => format!("the float {}", bare(self.text)),
            Type::Text => format!("the string {}", quoted(self.text)),
        }
    }
}

/// A kind of value that the file knows.
pub(super) trait Value: Sized {
    /// What YAML has to say that it is, for a message about its value to make sense.
    const TYPE: Type;

    /// What a message says to be allowed.
    fn allowed() -> impl fmt::Display;

    /// The value of a scalar of the right type.
    fn read(text: &str) -> Option<Self>;

    /// What is wrong with a scalar of the right type that has no such value, and what might help.
    fn wrong(text: &str) -> (String, Option<String>);
}

impl Value for Ipv4Addr {
    const TYPE: Type = Type::Text;

    fn allowed() -> impl fmt::Display {
        "an IPv4 address from 1.0.0.0 to 223.255.255.255, outside 127.0.0.0/8"
    }

    fn read(text: &str) -> Option<Self> {
        let address: Self = text.parse().ok()?;
        matches!(address.octets()[0], 1..=126 | 128..=223).then_some(address)
    }

    fn wrong(text: &str) -> (String, Option<String>) {
        let wrong = format!("{} is not an IPv4 unicast address", quoted(text));
        let zeros = |octet: &str| octet.len() > 1 && octet.starts_with('0');
        let help = if text.contains('/') {
            Some("leave out the `/` and what follows it")
        } else if text.split('.').any(zeros) {
            Some("write each number without leading zeros")
        } else {
            None
        };
        (wrong, help.map(str::to_owned))
    }
}

impl Value for MacAddr {
    const TYPE: Type = Type::Text;

    fn allowed() -> impl fmt::Display {
        "six pairs of hexadecimal digits with `:` or `-` between them, not multicast, not all zero"
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(Self::is_unicast)
    }

    fn wrong(text: &str) -> (String, Option<String>) {
        let why = match text.parse::<Self>() {
            Ok(mac) if mac.0 == [0; 6] => "is all zero, which is no NIC's MAC",
            Ok(_) => "is a multicast MAC: its first byte is odd",
            Err(_) => "is not a MAC",
        };
        (format!("{} {why}", quoted(text)), None)
    }
}

impl Value for Protocol {
    const TYPE: Type = Type::Text;

    fn allowed() -> impl fmt::Display {
        "tcp or udp"
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp]
            .into_iter()
            .find(|protocol| text.eq_ignore_ascii_case(&protocol.to_string()))
    }

    fn wrong(text: &str) -> (String, Option<String>) {
        (
            format!("{} is not a protocol with ports", quoted(text)),
            None,
        )
    }
}

/// A port number; 0 is none.
#[derive(Clone, Copy)]
pub(super) struct Port(pub(super) u16);

impl Value for Port {
    const TYPE: Type = Type::Integer;

    fn allowed() -> impl fmt::Display {
        "an integer from 1 to 65535"
    }

    fn read(text: &str) -> Option<Self> {
        Some(Self(decimal(text)?.try_into().ok()?))
    }

    fn wrong(text: &str) -> (String, Option<String>) {
        wrong_number(text)
    }
}

/// The length of an interface's prefix. A NIC that holds every address (0) is no subnet.
#[derive(Clone, Copy)]
pub(super) struct Prefix(pub(super) u8);

impl Value for Prefix {
    const TYPE: Type = Type::Integer;

    fn allowed() -> impl fmt::Display {
        "an integer from 1 to 32"
    }

    fn read(text: &str) -> Option<Self> {
        let length = decimal(text)?.try_into().ok()?;
        (length <= 32).then_some(Self(length))
    }

    fn wrong(text: &str) -> (String, Option<String>) {
        wrong_number(text)
    }
}

/// A number of a setting. `LEAST` is at least 1.
#[derive(Clone, Copy)]
pub(super) struct Number<const LEAST: u32, const MOST: u32>(pub(super) u32);

impl<const LEAST: u32, const MOST: u32> Value for Number<LEAST, MOST> {
    const TYPE: Type = Type::Integer;

    fn allowed() -> impl fmt::Display {
        fmt::from_fn(|f| write!(f, "an integer from {LEAST} to {MOST}"))
    }

    fn read(text: &str) -> Option<Self> {
        let number = decimal(text)?;
        (LEAST..=MOST).contains(&number).then_some(Self(number))
    }

    fn wrong(text: &str) -> (String, Option<String>) {
        wrong_number(text)
    }
}

impl Value for Filtering {
    const TYPE: Type = Type::Text;

    fn allowed() -> impl fmt::Display {
        Self::ALL.map(Self::name).join(" or ")
    }

    fn read(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|filtering| text.eq_ignore_ascii_case(filtering.name()))
    }

    fn wrong(text: &str) -> (String, Option<String>) {
        let names = Self::ALL.map(Self::name);
        let help = nearest(text, &names).map(|index| format!("did you mean {:?}?", names[index]));
        let wrong = format!("{} is not a filtering that there is", quoted(text));
        (wrong, help)
    }
}

/// An address, or all from one to another.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

impl Addresses {
    /// The ends of what may be a range, both of them addresses that a host can have.
    fn ends(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (Value::read(first)?, Value::read(last)?);
        Some(Self { first, last })
    }

    /// How many; `None` if the last comes before the first.
    fn count(self) -> Option<u32> {
        let more = self.last.to_bits().checked_sub(self.first.to_bits())?;
        Some(more.saturating_add(1))
    }

    /// Each of them, of which there are at most [`MOST_IN_RANGE`].
    pub(super) fn each(self) -> impl Iterator<Item = Ipv4Addr> {
        (self.first.to_bits()..=self.last.to_bits()).map(Ipv4Addr::from_bits)
    }
}

/// A longer range would fill a pool more than once, and may run through addresses that no host has.
const MOST_IN_RANGE: u32 = POOL as u32;

impl Value for Addresses {
    const TYPE: Type = Type::Text;

    fn allowed() -> impl fmt::Display {
        fmt::from_fn(|f| {
            let address = Ipv4Addr::allowed();
            write!(
                f,
                "{address}, or two of them with `-` between, the lower first, for a range of at \
                 most {MOST_IN_RANGE}"
            )
        })
    }

    fn read(text: &str) -> Option<Self> {
        let ends = Self::ends(text)?;
        (ends.count()? <= MOST_IN_RANGE).then_some(ends)
    }

    fn wrong(text: &str) -> (String, Option<String>) {
        let range = quoted(text);
        match (Self::ends(text).map(Self::count), text.split_once('-')) {
            (Some(None), _) => (format!("{range} ends before it begins"), None),
            (Some(Some(count)), _) => (format!("{range} is {count} addresses"), None),
            (None, None) => Ipv4Addr::wrong(text),
            (None, Some((first, last))) => {
                let help = (first.ends_with(' ') || last.starts_with(' '))
                    .then(|| "write the range without blanks".to_owned());
                let wrong = format!("{range} is not a range of IPv4 unicast addresses");
                (wrong, help)
            }
        }
    }
}

/// A positive number as everybody writes it. What YAML versions disagree about (010, +1, 1_000,
/// 0x10) is not guessed at.
fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

fn wrong_number(text: &str) -> (String, Option<String>) {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let why = if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        "is not plain decimal digits"
    } else if digits.len() > 1 && digits.starts_with('0') {
        "has a leading zero"
    } else {
        "is out of range"
    };
    (format!("{} {why}", bare(text)), None)
}

/// The type of an untagged scalar under the core schema of YAML 1.2, where `010` is ten, `yes` is
/// a word and 52:54:00:11:22:33 is no number.
pub(super) fn implied_type(text: &str, quoted: bool) -> Type {
    if quoted {
        return Type::Text;
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Type::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Type::Bool,
        ".nan" | ".NaN" | ".NAN" => return Type::Float,
        _ => {}
    }
    let all =
        |text: &str, digit: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(digit);
    let in_base = |prefix: &str, digit| {
        text.strip_prefix(prefix)
            .is_some_and(|rest| all(rest, digit))
    };
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if all(unsigned, u8::is_ascii_digit)
        || in_base("0x", u8::is_ascii_hexdigit)
        || in_base("0o", |digit| (b'0'..=b'7').contains(digit))
    {
        Type::Integer
    } else if is_float(unsigned) {
        Type::Float
    } else {
        Type::Text
    }
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`, or an infinity.
fn is_float(unsigned: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let any = !whole.is_empty() || !fraction.is_empty();
    any && digits(whole) && digits(fraction) && digits(exponent) && !exponent.is_empty()
}
