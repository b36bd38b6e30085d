//! Scalars: which type YAML gives them, and what the file's own kinds of value make of them.

use std::net::Ipv4Addr;

use super::schema::{MacAddr, Protocol};
use super::source::{bare, quoted};

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
    const ALLOWED: &'static str;

    /// The value of a scalar of the right type.
    fn read(text: &str) -> Option<Self>;

    /// What is wrong with a scalar of the right type that has no such value, and what might help.
    fn wrong(text: &str) -> (String, Option<String>);
}

impl Value for Ipv4Addr {
    const TYPE: Type = Type::Text;
    const ALLOWED: &'static str =
        "an IPv4 address from 1.0.0.0 to 223.255.255.255, outside 127.0.0.0/8";

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
    const ALLOWED: &'static str =
        "six pairs of hexadecimal digits with `:` or `-` between them, not multicast, not all zero";

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
    const ALLOWED: &'static str = "tcp or udp";

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
    const ALLOWED: &'static str = "an integer from 1 to 65535";

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
    const ALLOWED: &'static str = "an integer from 1 to 32";

    fn read(text: &str) -> Option<Self> {
        let length = decimal(text)?.try_into().ok()?;
        (length <= 32).then_some(Self(length))
    }

    fn wrong(text: &str) -> (String, Option<String>) {
        wrong_number(text)
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
