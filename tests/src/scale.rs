//! How large the tests are: one table, chosen by `PLUMBLINE_TEST_TIER`.

use std::time::Duration;

/// Where the tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// `guest`: an emulated machine, about twenty times slower than a real one.
    Guest,
    /// `ci`, and when nothing is said: quick on two busy CPUs.
    Ci,
    /// `full`: the loads that the product promises to stand; some minutes, best on a quiet machine.
    Full,
}

/// Sizes of the tests of one tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Whose sizes these are.
    pub tier: Tier,
    /// How much longer than usual every time-out is: see [`Scale::patience`].
    pub slowness: u32,
    /// Connections of the test that draws every size and closing order.
    pub exact_connections: u32,
    /// Connections of each closing order.
    pub order_connections: u32,
    /// Wall time of a load on the CPU that is held against `cpu.stat`, in milliseconds.
    pub cpu_load_ms: u64,
    /// Containers that come and go one after the other.
    pub churned_containers: u32,
    /// How long a load lasts, in milliseconds, where the machine keeps up.
    pub load_ms: u64,
    /// Connections of the flood: a multiple of 32.
    pub flood_connections: u32,
    /// Ports that one container listens on.
    pub listening_ports: u16,
    /// Datagrams from new ports each second.
    pub datagrams_per_second: u32,
    /// Ports that one container opens and closes while the agent stands still: more than its share of the ring.
    pub stalled_ports: u16,
    /// How often the agent is killed.
    pub kills: u32,
    /// Cgroups made and removed each second.
    pub cgroups_per_second: u32,
    /// Pods of one name that come and go with connections of their own: a multiple of 4.
    pub churned_pods: u16,
    /// Connections of each of them, and up to nine more.
    pub churned_connections: u32,
}

impl Scale {
    const GUEST: Self = Self {
        tier: Tier::Guest,
        slowness: 10,
        exact_connections: 192,
        order_connections: 16,
        cpu_load_ms: 12_000,
        churned_containers: 60,
        load_ms: 10_000,
        flood_connections: 192,
        listening_ports: 100,
        datagrams_per_second: 20,
        stalled_ports: 600,
        kills: 2,
        cgroups_per_second: 5,
        churned_pods: 32,
        churned_connections: 10,
    };
    const CI: Self = Self {
        tier: Tier::Ci,
        slowness: 1,
        exact_connections: 2_000,
        order_connections: 100,
        cpu_load_ms: 6_000,
        churned_containers: 600,
        load_ms: 10_000,
        flood_connections: 2_496,
        listening_ports: 1_500,
        datagrams_per_second: 1_000,
        stalled_ports: 2_000,
        kills: 5,
        cgroups_per_second: 50,
        churned_pods: 24,
        churned_connections: 100,
    };
    const FULL: Self = Self {
        tier: Tier::Full,
        flood_connections: 50_016,
        listening_ports: 30_000,
        datagrams_per_second: 20_000,
        stalled_ports: 10_000,
        kills: 100,
        cgroups_per_second: 1_000,
        churned_pods: 200,
        churned_connections: 1_000,
        ..Self::CI
    };

    /// The sizes of a tier by its name in `PLUMBLINE_TEST_TIER`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "guest" => Some(Self::GUEST),
            "ci" | "" => Some(Self::CI),
            "full" => Some(Self::FULL),
            _ => None,
        }
    }

    /// A time-out that suits a real machine, made longer for a slow one.
    #[must_use]
    pub fn patience(&self, usual: Duration) -> Duration {
        usual.saturating_mul(self.slowness)
    }
}

/// The sizes that this process is to use.
///
/// # Panics
/// When `PLUMBLINE_TEST_TIER` names no tier: a misspelt one must not pass as a small one.
#[must_use]
pub fn scale() -> Scale {
    let name = std::env::var("PLUMBLINE_TEST_TIER").unwrap_or_default();
    Scale::named(&name)
        .unwrap_or_else(|| panic!("PLUMBLINE_TEST_TIER={name}: it is guest, ci or full"))
}

#[cfg(test)]
mod tests {
    use super::{Scale, Tier};

    #[test]
    fn tiers_by_name() {
        let tier = |name| Scale::named(name).map(|scale| scale.tier);
        assert_eq!(tier(""), Some(Tier::Ci));
        assert_eq!(tier("full"), Some(Tier::Full));
        assert_eq!(tier("guest"), Some(Tier::Guest));
        assert_eq!(tier("Full"), None);
    }
}
