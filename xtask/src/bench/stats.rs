//! What a series of measured values says.

use serde::{Serialize, Serializer};

/// Values of one case, in the order of the rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series(pub Vec<f64>);

impl Series {
    /// The value that as many lie below as above; `NaN` if there are none.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The least and the greatest.
    pub fn spread(&self) -> (f64, f64) {
        (self.quantile(0.0), self.quantile(1.0))
    }

    /// The value below which this share of them lies, between the two nearest in proportion.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let place = share * last as f64;
        let (below, above) = (
            sorted[place.floor() as usize],
            sorted[place.ceil() as usize],
        );
        below + (above - below) * place.fract()
    }

    /// One by one, of the same round.
    pub fn with(&self, other: &Self, how: impl Fn(f64, f64) -> f64) -> Self {
        Self(
            self.0
                .iter()
                .zip(&other.0)
                .map(|(a, b)| how(*a, *b))
                .collect(),
        )
    }

    /// How many times the other each is. A round in which the other is 0 tells nothing, and is left out.
    pub fn over(&self, other: &Self) -> Self {
        let mut ratios = self.with(other, |a, b| a / b);
        ratios.0.retain(|ratio| ratio.is_finite());
        ratios
    }

    /// What is left of each without the other's part.
    pub fn less(&self, other: &Self) -> Self {
        self.with(other, |a, b| a - b)
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Serialize for Series {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        values.iter().copied().collect()
    }

    #[test]
    fn the_middle_is_found_whatever_the_order() {
        assert_eq!(series(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(series(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(series(&[7.0]).median(), 7.0);
        assert!(series(&[]).median().is_nan());
    }

    #[test]
    fn the_ends_and_what_lies_between() {
        let values = series(&[10.0, 0.0, 5.0]);
        assert_eq!(values.spread(), (0.0, 10.0));
        assert_eq!(values.quantile(0.25), 2.5);
        assert_eq!(series(&[0.0, 100.0]).quantile(0.99), 99.0);
    }

    #[test]
    fn rounds_are_compared_with_their_own() {
        // The second round was slow for both: the ratio of the medians would say 3, that of each pair says 2.
        let (a, b) = (series(&[2.0, 20.0, 6.0]), series(&[1.0, 10.0, 3.0]));
        assert_eq!(a.over(&b), series(&[2.0, 2.0, 2.0]));
        assert_eq!(a.less(&b), series(&[1.0, 10.0, 3.0]));
    }

    #[test]
    fn a_round_that_measured_nothing_is_left_out() {
        let (a, b) = (series(&[2.0, 3.0]), series(&[1.0, 0.0]));
        assert_eq!(a.over(&b), series(&[2.0]));
    }
}
