//! What each kernel of the matrix is expected to support: `tests/vm/kernels.json` against the verdicts of the probes.

use std::collections::BTreeMap;
use std::fs;
use std::thread;

use plumbline_core::observation::{Fact, Health, ProbeStatus};
use plumbline_tests::scale::{Tier, scale};
use plumbline_tests::skip::skipped;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use serde::Deserialize;

use super::observer::{Observer, sandbox};

/// What a kernel is expected to support, with the sources as the tests set them up.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// Health of each probe by its name.
    probes: BTreeMap<String, Health>,
    /// The right that probes miss where it is absent and RLIMIT_MEMLOCK is low; `None`: the kernel does not ask for it.
    memlock: Option<String>,
}

/// Probes that read files: they load nothing, and kernels make no difference to them.
const READERS: [&str; 2] = ["listeners", "peers.node_addresses"];

/// What a service manager that says nothing leaves its services.
const MEMLOCK_BYTES: u64 = 64 * 1_024;

/// What the running kernel is expected to support. `None`, and said, for one that the matrix does not have.
fn expected() -> Option<Expected> {
    let mut all: BTreeMap<String, Expected> =
        serde_json::from_str(include_str!("../../vm/kernels.json")).unwrap();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-', '\n']);
    let series = format!("{}.{}", numbers.next().unwrap(), numbers.next().unwrap());
    let found = all.remove(&series);
    if found.is_none() {
        assert_ne!(
            scale().tier,
            Tier::Guest,
            "no row for {series} in kernels.json"
        );
        skipped(&format!(
            "Linux {series} is not in the matrix: nothing is expected of it"
        ));
    }
    found
}

/// Whether a probe would measure, if it had memory for its maps.
fn needs_maps(probe: &str, expected: &Expected) -> bool {
    !READERS.contains(&probe) && expected.probes[probe] == Health::Ok
}

/// The last verdict about each probe, but for those that are to be off: they need not say so.
fn verdicts(observer: &Observer, probes: &BTreeMap<String, Health>) -> Vec<ProbeStatus> {
    let verdict = |probe: &String| {
        observer.expect(probe, |seen| {
            seen.facts.iter().rev().find_map(|seen| match &seen.fact {
                Fact::Probe(status) if status.probe == *probe => Some(status.clone()),
                _ => None,
            })
        })
    };
    let on = probes.iter().filter(|(_, health)| **health != Health::Off);
    on.map(|(probe, _)| verdict(probe)).collect()
}

#[test]
fn each_probe_is_as_this_kernel_is_expected_to_allow() {
    let (Some(sandbox), Some(expected)) = (sandbox(), expected()) else {
        return;
    };
    let observer = Observer::unjudged(&sandbox);
    verdicts(&observer, &expected.probes);
    for fact in &observer.seen().facts {
        let Fact::Probe(status) = &fact.fact else {
            continue;
        };
        let probe = &status.probe;
        let Some(wanted) = expected.probes.get(probe) else {
            let reader = READERS.contains(&probe.as_str());
            assert!(reader, "kernels.json says nothing about {probe}");
            continue;
        };
        assert_eq!(status.health, *wanted, "{probe}: {:?}", status.reason);
        println!("{probe}: {:?}", status.health);
    }
}

/// As under a service manager that sets no limit, without the right to raise it: kernels before 5.11 count maps against it.
#[test]
fn a_low_memlock_names_the_missing_right() {
    let (Some(sandbox), Some(mut expected)) = (sandbox(), expected()) else {
        return;
    };
    // Takes no map.
    expected.probes.remove("listeners");
    let rights = capabilities(None).unwrap().effective;
    if !rights.contains(CapabilitySet::SYS_RESOURCE) {
        return skipped("needs CAP_SYS_RESOURCE, to put the limit back");
    }
    let before = getrlimit(Resource::Memlock);
    let low = Rlimit {
        current: Some(MEMLOCK_BYTES),
        maximum: Some(MEMLOCK_BYTES),
    };
    setrlimit(Resource::Memlock, low).unwrap();
    // Rights are a thread's own and those of the threads that it starts; the limit is the process's.
    let statuses = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut rights = capabilities(None).unwrap();
            for set in [&mut rights.effective, &mut rights.permitted] {
                set.remove(CapabilitySet::SYS_RESOURCE);
            }
            rights.inheritable = CapabilitySet::empty();
            set_capabilities(None, rights).unwrap();
            let observer = Observer::unjudged(&sandbox);
            verdicts(&observer, &expected.probes)
        });
        watching.join()
    });
    // This thread kept the right.
    setrlimit(Resource::Memlock, before).unwrap();
    for status in statuses.unwrap() {
        let wanted = match &expected.memlock {
            Some(right) if needs_maps(&status.probe, &expected) => {
                let reason = status.reason.clone().unwrap_or_default();
                assert!(
                    reason.contains(&format!("missing {right}")),
                    "{}: {reason}",
                    status.probe
                );
                Health::Unsupported
            }
            _ => expected.probes[&status.probe],
        };
        assert_eq!(
            status.health, wanted,
            "{}: {:?}",
            status.probe, status.reason
        );
    }
}
