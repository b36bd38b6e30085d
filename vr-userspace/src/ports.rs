//! Sets of ports, in the kernel's notation: `1024-32767,36864-65535`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

const WORDS: usize = (u16::MAX as usize + 1) / 64;

/// A set of ports.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Ports(Box<[u64]>);

impl Default for Ports {
    fn default() -> Self {
        Self(vec![0; WORDS].into())
    }
}

impl Ports {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub fn contains_all(&self, other: &Self) -> bool {
        other.without(self).is_empty()
    }

    /// The ports of both.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        self.combined(other, |a, b| a | b)
    }

    /// The ports that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.combined(other, |a, b| a & !b)
    }

    /// The ports that are also in `other`.
    #[must_use]
    pub fn within(&self, other: &Self) -> Self {
        self.combined(other, |a, b| a & b)
    }

    fn combined(&self, other: &Self, bits: impl Fn(u64, u64) -> u64) -> Self {
        Self(
            self.0
                .iter()
                .zip(&other.0)
                .map(|(a, b)| bits(*a, *b))
                .collect(),
        )
    }

    fn has(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] >> (port % 64) & 1 == 1
    }
}

impl FromIterator<u16> for Ports {
    fn from_iter<T: IntoIterator<Item = u16>>(ports: T) -> Self {
        let mut set = Self::default();
        for port in ports {
            set.0[usize::from(port) / 64] |= 1 << (port % 64);
        }
        set
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next = (0..=u16::MAX).filter(|port| self.has(*port)).peekable();
        let mut comma = "";
        while let Some(first) = next.next() {
            let mut last = first;
            while let Some(port) = next.next_if(|port| port - 1 == last) {
                last = port;
            }
            write!(f, "{comma}{first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// The text is no list of ports.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no port or range of ports")]
pub struct NotPorts(String);

impl FromStr for Ports {
    type Err = NotPorts;

    fn from_str(text: &str) -> Result<Self, NotPorts> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
        };
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| range(part).ok_or_else(|| NotPorts(part.to_owned())))
            .collect::<Result<Vec<_>, _>>()
            .map(|ranges| ranges.into_iter().flatten().collect())
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

impl TryFrom<String> for Ports {
    type Error = NotPorts;

    fn try_from(text: String) -> Result<Self, NotPorts> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Ports {
        text.parse().unwrap()
    }

    #[test]
    fn a_list_comes_back_as_the_kernel_writes_it() {
        for text in ["", "0", "65535", "1024-32767,36864-65535", "0-65535"] {
            assert_eq!(ports(text).to_string(), text);
        }
        assert_eq!(ports("81, 80,82-84\n").to_string(), "80-84");
        for wrong in ["x", "80-", "65536", "-"] {
            assert!(wrong.parse::<Ports>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sets_are_joined_and_parted() {
        let (a, b) = (ports("10-20"), ports("15-30"));
        assert_eq!(a.with(&b), ports("10-30"));
        assert_eq!(a.without(&b), ports("10-14"));
        assert_eq!(a.within(&b), ports("15-20"));
        assert!(a.with(&b).contains_all(&a) && !a.contains_all(&b));
        assert!(Ports::default().is_empty());
    }
}
