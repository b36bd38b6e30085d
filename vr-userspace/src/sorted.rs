//! A map as one sorted vector: what is made once, then compared and listed as a whole, a hundred thousand elements and more.

use std::{cmp::Ordering, ops::Deref};

/// Elements in the order of their keys, each of which is there once. All that only reads them is a slice's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sorted<K, V>(Vec<(K, V)>);

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K, V> Deref for Sorted<K, V> {
    type Target = [(K, V)];

    fn deref(&self) -> &[(K, V)] {
        &self.0
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Sorted<K, V> {
    /// Of elements with one key the last counts.
    fn from_iter<T: IntoIterator<Item = (K, V)>>(elements: T) -> Self {
        let mut all: Vec<(K, V)> = elements.into_iter().collect();
        if !all.is_sorted_by(|(one, _), (next, _)| one < next) {
            // Stable, and backwards, so that of equal ones the last stands first.
            all.reverse();
            all.sort_by(|(one, _), (other, _)| one.cmp(other));
            all.dedup_by(|(later, _), (first, _)| later == first);
        }
        Self(all)
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for Sorted<K, V> {
    fn from(elements: [(K, V); N]) -> Self {
        elements.into_iter().collect()
    }
}

impl<K, V> IntoIterator for Sorted<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<K: Ord, V> Extend<(K, V)> for Sorted<K, V> {
    /// Takes as long as sorting all.
    fn extend<T: IntoIterator<Item = (K, V)>>(&mut self, elements: T) {
        *self = std::mem::take(self).into_iter().chain(elements).collect();
    }
}

impl<K: Ord, V> Sorted<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let at = self.0.binary_search_by(|(there, _)| there.cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// The values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// The values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// Both maps side by side, in the order of the keys: each key of either, and the values that it has.
    pub fn beside<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        std::iter::from_fn(move || {
            let order = match (ours.peek(), theirs.peek()) {
                (Some((one, _)), Some((two, _))) => one.cmp(two),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return None,
            };
            let one = if order.is_le() { ours.next() } else { None };
            let two = if order.is_ge() { theirs.next() } else { None };
            let (key, _) = one.or(two)?;
            Some((key, one.map(|(_, v)| v), two.map(|(_, v)| v)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map(one: Vec<(u8, u8)>, two: Vec<(u8, u8)>) {
            let maps = |all: &[(u8, u8)]| -> (Sorted<u8, u8>, BTreeMap<u8, u8>) {
                (all.iter().copied().collect(), all.iter().copied().collect())
            };
            let ((one, one_map), (two, two_map)) = (maps(&one), maps(&two));
            prop_assert!(one.iter().copied().eq(one_map.clone()));
            let mut seen = Vec::new();
            for (key, in_one, in_two) in one.beside(&two) {
                prop_assert_eq!((in_one, in_two), (one_map.get(key), two_map.get(key)));
                prop_assert_eq!((in_one, in_two), (one.get(key), two.get(key)));
                seen.push(*key);
            }
            let mut both = one_map;
            both.extend(two_map);
            prop_assert!(seen.iter().eq(both.keys()));
        }
    }
}
