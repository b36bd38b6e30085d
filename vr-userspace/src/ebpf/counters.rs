//! The counters of rules.

use anyhow::{Context, Result};
use aya::{
    maps::{Map, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use vr_common::{layout::Counter, tally::Tally};

/// The `RULES` array.
pub struct RuleCounters(PerCpuArray<MapData, [u8; 16]>);

impl RuleCounters {
    /// Opens the map.
    ///
    /// # Errors
    /// If it has another shape.
    pub fn open(data: MapData) -> Result<Self> {
        let array = Map::PerCpuArray(data).try_into();
        Ok(Self(
            array.context("the counters of rules have another shape")?,
        ))
    }

    /// How many there are, two of each rule.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them, summed over the CPUs.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn get(&self, tally: Tally) -> Result<Counter> {
        Ok(sum(&self.0.get(&tally.index(), 0)?))
    }

    /// Has the counters of these rules begin anew.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn clear(&mut self, rules: impl IntoIterator<Item = u32>) -> Result<()> {
        for rule in rules {
            for tally in [Tally::inward(rule), Tally::outward(rule)] {
                let zero = vec![[0; 16]; nr_cpus().map_err(|(_, error)| error)?];
                self.0
                    .set(tally.index(), PerCpuValues::try_from(zero)?, 0)?;
            }
        }
        Ok(())
    }

    /// Copies all into an array that is larger.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn copy_to(&self, larger: &mut Self) -> Result<()> {
        for index in 0..self.len() {
            let values = self.0.get(&index, 0)?;
            if sum(&values) != Counter::default() {
                larger.0.set(index, values, 0)?;
            }
        }
        Ok(())
    }
}

fn sum(values: &PerCpuValues<[u8; 16]>) -> Counter {
    values
        .iter()
        .map(|bytes| Counter::from_bytes(*bytes))
        .fold(Counter::default(), Counter::plus)
}
