//! The catalogue: each metric's name, unit, kind and meaning, once.

use serde::{Serialize, Serializer};

/// How a metric's points behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instrument {
    /// Monotonic sum, cumulative.
    Counter,
    /// Sum that may fall, cumulative.
    UpDownCounter,
    /// Value of the moment.
    Gauge,
}

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// OpenTelemetry name.
    pub name: &'static str,
    /// UCUM unit.
    pub unit: &'static str,
    /// How points behave.
    pub instrument: Instrument,
    /// One sentence.
    pub description: &'static str,
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

/// Every metric that leaves, by name.
pub const CATALOGUE: &[&Metric] = &[];
