//! How probes fare.

use serde::{Deserialize, Serialize};

/// Health of one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// `tcp`, `udp`, `cpu_windows`, `cgroups`, `listeners`, `connections`, `cpu_stat`, `declared`; `peers.*` for tables that
    /// only names of peers come from.
    pub probe: String,
    /// How it is.
    pub health: Health,
    /// Why, when it is not `ok`, and what still works. When it is: by what means, where there are several.
    pub reason: Option<String>,
}

/// Probes that no rule needs, and that ask for rights beyond those of the shipped manifests: without them figures come later
/// or are coarser, and nothing is blind.
pub const OPTIONAL_PROBES: [&str; 2] = ["connections", "logs"];

/// The four words for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It measures.
    Ok,
    /// This kernel, or these rights, do not allow it.
    Unsupported,
    /// It should work and does not.
    Broken,
    /// The operator turned it off, or gave it nothing to read.
    Off,
}
