//! What a run of the bench found, as JSON, and as text for people (in `markdown.rs`) and plots (in `plot.rs`).

use serde::Serialize;

use super::bounds::Bound;
use super::machine::Machine;
use super::stats::Series;

/// What a value is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Nanoseconds a packet.
    #[serde(rename = "ns/packet")]
    NanosecondsPerPacket,
    /// Packets a second.
    #[serde(rename = "packets/s")]
    PacketsPerSecond,
    /// Connections a second.
    #[serde(rename = "connections/s")]
    ConnectionsPerSecond,
    /// Bits a second.
    #[serde(rename = "bit/s")]
    BitsPerSecond,
    /// Microseconds.
    #[serde(rename = "µs")]
    Microseconds,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Bytes.
    #[serde(rename = "bytes")]
    Bytes,
}

impl Unit {
    /// How values are shown: their unit, what one of it is, and how many digits follow the point.
    pub fn shown(self) -> (&'static str, f64, usize) {
        match self {
            Self::NanosecondsPerPacket => ("ns a packet", 1.0, 1),
            Self::PacketsPerSecond => ("thousand packets a second", 1e3, 0),
            Self::ConnectionsPerSecond => ("connections a second", 1.0, 0),
            Self::BitsPerSecond => ("Gbit/s", 1e9, 2),
            Self::Microseconds => ("µs", 1.0, 1),
            Self::Seconds => ("ms", 1e-3, 1),
            Self::Bytes => ("bytes", 1.0, 1),
        }
    }
}

/// One case, measured in every round.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub case: String,
    /// The values.
    pub values: Series,
}

/// Cases that can be compared with each other.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// What they have in common.
    pub title: String,
    /// What they are measured in.
    pub unit: Unit,
    /// The cases.
    pub figures: Vec<Figure>,
}

impl Section {
    /// A section without cases.
    pub fn new(title: impl Into<String>, unit: Unit) -> Self {
        Self {
            title: title.into(),
            unit,
            figures: Vec::new(),
        }
    }

    /// Adds a case.
    pub fn add(&mut self, case: impl Into<String>, values: Series) {
        let case = case.into();
        self.figures.push(Figure { case, values });
    }

    /// The values of a case.
    pub fn get(&self, case: &str) -> Option<&Series> {
        let mut figures = self.figures.iter();
        figures
            .find(|figure| figure.case == case)
            .map(|figure| &figure.values)
    }
}

/// Two cases of the same rounds, one over the other.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// Its name, by which its bound is found.
    pub name: String,
    /// What it says.
    pub text: String,
    /// By round.
    pub values: Series,
    /// What it is held to.
    pub bound: Option<Bound>,
    /// Whether its median is on the good side; nothing without a bound.
    pub met: Option<bool>,
}

impl Ratio {
    /// The ratio of this name, and whether its bound is met.
    pub fn new(name: impl Into<String>, text: impl Into<String>, values: Series) -> Self {
        let name = name.into();
        let bound = Bound::of(&name);
        let met = bound.map(|bound| bound.is_met(values.median()));
        Self {
            name,
            text: text.into(),
            values,
            bound,
            met,
        }
    }
}

/// What a group found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// The cases.
    pub sections: Vec<Section>,
    /// Their ratios.
    pub ratios: Vec<Ratio>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

impl Findings {
    /// Adds the ratio of two cases, if both were measured.
    pub fn compare(
        &mut self,
        name: impl Into<String>,
        text: impl Into<String>,
        a: Option<&Series>,
        b: Option<&Series>,
    ) {
        if let (Some(a), Some(b)) = (a, b) {
            self.ratios.push(Ratio::new(name, text, a.over(b)));
        }
    }

    /// Adds a note.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// A group that was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What it found before it ended or failed.
    pub findings: Findings,
    /// Why it could not be run, or not to its end.
    pub failure: Option<String>,
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where it was run.
    pub machine: Machine,
    /// Whether it was a quick one, whose figures are rough.
    pub quick: bool,
    /// Rounds of each comparison.
    pub rounds: usize,
    /// The groups.
    pub groups: Vec<Group>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        values.iter().copied().collect()
    }

    #[test]
    fn a_ratio_is_held_to_its_bound_by_its_median() {
        let met = Ratio::new("program/eip-in/floor", "", series(&[1.4, 1.5, 9.0]));
        assert_eq!(met.met, Some(true));
        let missed = Ratio::new("program/eip-in/floor", "", series(&[1.4, 1.6, 9.0]));
        assert_eq!(missed.met, Some(false));
        assert_eq!(Ratio::new("another", "", series(&[1.0])).met, None);
    }

    #[test]
    fn a_bound_without_values_is_not_met() {
        assert_eq!(
            Ratio::new("program/eip-in/floor", "", series(&[])).met,
            Some(false)
        );
    }

    #[test]
    fn what_was_not_measured_is_not_compared() {
        let mut findings = Findings::default();
        findings.compare("a/b", "", Some(&series(&[1.0])), None);
        assert!(findings.ratios.is_empty());
        findings.compare("a/b", "", Some(&series(&[1.0])), Some(&series(&[2.0])));
        assert_eq!(findings.ratios[0].values, series(&[0.5]));
    }
}
