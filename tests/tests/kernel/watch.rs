//! The source under test and what it sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use plumbline::clock;
use plumbline::sources::Sink;
use plumbline::sources::ebpf::{Handle, Settings, Stats, spawn};
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{Fact, FlowCounts, Observation, Role};
use plumbline_ebpf::names;
use plumbline_tests::scale::scale;

/// Owner, role, peer, server port.
pub(crate) type FlowId = (CgroupId, Role, Option<IpAddr>, u16);

/// Waiting for a fact that does not come ends here; nothing is measured with it.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Watch {
    handle: Handle,
    receiver: tokio::sync::mpsc::Receiver<Observation>,
    facts: Vec<Fact>,
    taken: BTreeSet<usize>,
}

/// All facts of a source that has ended.
pub(crate) struct Stopped {
    pub(crate) facts: Vec<Fact>,
    pub(crate) stats: Stats,
}

impl Watch {
    pub(crate) fn start(settings: Settings) -> Self {
        let (sink, receiver) = Sink::new();
        // Bytes are to be counted by the program alone, at close.
        let settings = Settings {
            connection_interval: None,
            ..settings
        };
        let handle = spawn(settings, sink).unwrap();
        Self {
            handle,
            receiver,
            facts: Vec::new(),
            taken: BTreeSet::new(),
        }
    }

    /// Waits for a fact that the closure takes. Each fact is taken once; those before may be asked for later.
    pub(crate) fn until<T>(&mut self, mut take: impl FnMut(&Fact) -> Option<T>) -> T {
        self.wait(|facts, taken| {
            let open = facts
                .iter()
                .enumerate()
                .filter(|(index, _)| !taken.contains(index));
            let found = open
                .filter_map(|(index, fact)| Some((index, take(fact)?)))
                .next();
            found.map(|(index, found)| {
                taken.insert(index);
                found
            })
        })
    }

    /// Waits until the newest fact about something is as the closure wants it: `None` for facts about other things.
    pub(crate) fn until_last(&mut self, mut good: impl FnMut(&Fact) -> Option<bool>) {
        self.wait(|facts, _| {
            let newest = facts.iter().rev().find_map(&mut good);
            newest.is_some_and(|good| good).then_some(())
        });
    }

    /// Waits until the flows are as the closure wants them.
    pub(crate) fn until_flows(&mut self, enough: impl Fn(&BTreeMap<FlowId, FlowCounts>) -> bool) {
        self.wait(|facts, _| enough(&flows(facts)).then_some(()));
    }

    fn wait<T>(&mut self, mut look: impl FnMut(&[Fact], &mut BTreeSet<usize>) -> Option<T>) -> T {
        let deadline = clock::instant() + scale().patience(PATIENCE);
        loop {
            while let Ok(observation) = self.receiver.try_recv() {
                self.facts.push(observation.fact);
            }
            if let Some(found) = look(&self.facts, &mut self.taken) {
                return found;
            }
            assert!(
                clock::instant() < deadline,
                "it did not come; what came:\n{:?}",
                self.facts
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn stop(mut self) -> Stopped {
        let stats = self.handle.stats();
        for program in stats
            .programs
            .iter()
            .filter(|program| program.run_count > 0)
        {
            let each = program.run_time.as_nanos() / u128::from(program.run_count);
            println!("{}: {} runs of {each} ns", program.name, program.run_count);
        }
        self.handle.stop();
        while let Ok(observation) = self.receiver.try_recv() {
            self.facts.push(observation.fact);
        }
        Stopped {
            facts: self.facts,
            stats,
        }
    }
}

fn flows(facts: &[Fact]) -> BTreeMap<FlowId, FlowCounts> {
    let mut flows: BTreeMap<FlowId, FlowCounts> = BTreeMap::new();
    for fact in facts {
        if let Fact::Flows { rows, .. } = fact {
            for row in rows {
                let id = (row.owner, row.role, row.peer, row.server_port);
                flows.entry(id).or_default().add(&row.counts);
            }
        }
    }
    flows
}

impl Stopped {
    pub(crate) fn flows(&self) -> BTreeMap<FlowId, FlowCounts> {
        flows(&self.facts)
    }

    /// The last count of what came through there.
    pub(crate) fn delivered(&self, at: &str) -> u64 {
        let mut facts = self.facts.iter().rev();
        facts
            .find_map(|fact| match fact {
                Fact::Delivered { place, count } if place == at => Some(*count),
                _ => None,
            })
            .unwrap_or_else(|| panic!("{at} was never told"))
    }

    /// The last count of what was lost there.
    pub(crate) fn dropped(&self, at: &str, why: &str) -> u64 {
        let mut facts = self.facts.iter().rev();
        facts
            .find_map(|fact| match fact {
                Fact::Dropped {
                    place,
                    reason,
                    count,
                } if place == at && reason == why => Some(*count),
                _ => None,
            })
            .unwrap_or_else(|| panic!("{at} {why} was never told"))
    }

    /// The kernel frees programs a moment after the last descriptor is closed.
    pub(crate) fn nothing_is_left(&self) {
        let ours: BTreeSet<u32> = self
            .stats
            .programs
            .iter()
            .map(|program| program.id)
            .collect();
        assert_eq!(
            ours.len(),
            names::PROGRAMS.len()
                + names::UDP_ADDRESS.len()
                + names::UDP_RECEIVE.len()
                + names::UDP_SOCKET.len(),
            "{:?}",
            self.stats.programs
        );
        let deadline = clock::instant() + scale().patience(PATIENCE);
        loop {
            let loaded = aya::programs::loaded_programs()
                .filter_map(Result::ok)
                .map(|program| program.id());
            let left: Vec<u32> = loaded.filter(|id| ours.contains(id)).collect();
            if left.is_empty() {
                return;
            }
            assert!(
                clock::instant() < deadline,
                "programs {left:?} are still there"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
