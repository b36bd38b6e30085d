//! Addresses as the record has them: those that follow each other as one, `[ifindex, prefix, first, count]`. EIPs mostly do, and there
//! may be a hundred thousand.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr};

use serde::{
    Deserialize, Deserializer, Serializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value},
};

use super::OnLink;

/// More than all the addresses that any router has.
const MOST: u32 = 1 << 24;

pub fn serialize<S: Serializer>(
    addresses: &BTreeSet<OnLink>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut runs: Vec<(u32, u8, Ipv4Addr, u32)> = Vec::new();
    for on_link in addresses {
        let OnLink {
            ifindex,
            address,
            prefix,
        } = *on_link;
        match runs.last_mut() {
            Some((index, length, first, count))
                if (*index, *length) == (ifindex, prefix)
                    && first.to_bits().checked_add(*count) == Some(address.to_bits()) =>
            {
                *count += 1;
            }
            _ => runs.push((ifindex, prefix, address, 1)),
        }
    }
    serializer.collect_seq(runs)
}

pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeSet<OnLink>, D::Error> {
    let runs = Vec::<Run>::deserialize(deserializer)?;
    let each = runs.into_iter().flat_map(|Run { first, count }| {
        let start = first.address.to_bits();
        (start..start + count).map(move |bits| OnLink {
            address: Ipv4Addr::from_bits(bits),
            ..first
        })
    });
    Ok(each.collect())
}

struct Run {
    first: OnLink,
    count: u32,
}

impl<'de> Deserialize<'de> for Run {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

/// A run; or one address by its fields, as records of earlier versions have it.
struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = Run;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("addresses on an interface")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, fields: A) -> Result<Run, A::Error> {
        let fields = value::SeqAccessDeserializer::new(fields);
        let (ifindex, prefix, address, count) = Deserialize::deserialize(fields)?;
        let address: Ipv4Addr = address;
        let fits = count <= MOST && address.to_bits().checked_add(count).is_some();
        let first = OnLink {
            ifindex,
            address,
            prefix,
        };
        fits.then_some(Run { first, count })
            .ok_or_else(|| A::Error::custom("more addresses than there are"))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Run, A::Error> {
        let fields = value::MapAccessDeserializer::new(fields);
        let first = OnLink::deserialize(fields)?;
        Ok(Run { first, count: 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Owned;
    use super::*;

    #[test]
    fn addresses_that_follow_each_other_are_one_and_come_back_each() {
        let mut owned = Owned::default();
        for (ifindex, last, prefix) in [(2, 1, 32), (2, 2, 32), (2, 3, 24), (2, 4, 32), (3, 5, 32)]
        {
            owned.addresses.insert(OnLink {
                ifindex,
                address: Ipv4Addr::new(10, 0, 0, last),
                prefix,
            });
        }
        let json = serde_json::to_value(&owned).unwrap();
        let expected = serde_json::json!([
            [2, 32, "10.0.0.1", 2],
            [2, 24, "10.0.0.3", 1],
            [2, 32, "10.0.0.4", 1],
            [3, 32, "10.0.0.5", 1]
        ]);
        assert_eq!(json["addresses"], expected);
        assert_eq!(serde_json::from_value::<Owned>(json).unwrap(), owned);
    }

    #[test]
    fn a_record_of_an_earlier_version_is_read() {
        let json = r#"{"addresses": [{"ifindex": 2, "address": "10.0.0.1", "prefix": 32}]}"#;
        let owned: Owned = serde_json::from_str(json).unwrap();
        assert_eq!(owned.addresses.len(), 1);
        let json = r#"{"addresses": [[2, 32, "255.0.0.0", 4000000000]]}"#;
        serde_json::from_str::<Owned>(json).unwrap_err();
    }
}
