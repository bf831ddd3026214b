//! What all watches have in common, whatever they watch: whether they changed, how they are doing, and how that is told.

use std::collections::BTreeMap;
use std::time::Instant;

use plumbline_core::observation::{Health, ProbeStatus, SourceRow};
use plumbline_core::time::Timestamp;

use super::super::objects::Objects;
use super::Peers;
use super::trouble::Trouble;
use super::watch::{Shared, verdict};
use crate::clock;

/// Whose health a watch's trouble is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// The declared side as a whole: nothing is compared without it.
    Declared,
    /// A probe of its own: the rest works without it.
    Probe(&'static str),
}

/// One watch, seen from outside.
pub(super) trait Member: Send {
    fn of(&self) -> Of;
    /// Whether its table changed since this was last asked.
    fn take_changed(&self) -> bool;
    /// When an outage becomes news.
    fn next_verdict(&self, now: Instant) -> Option<Instant>;
    /// Trouble that is news, and whether a list was complete once.
    fn condition(&self, now: Instant) -> (Option<Trouble>, bool);
    /// How current it is; `None` before the first complete list.
    fn age(&self, now: Timestamp) -> Option<SourceRow>;
    /// Adds the objects that make no sense; returns how many there were since the beginning.
    fn report(&self, all: &mut Objects) -> u64;
}

/// A watch as a member.
pub(super) fn new<T: PartialEq + Send + Sync + 'static>(
    of: Of,
    store: Shared<T>,
) -> Box<dyn Member> {
    Box::new(One { of, store })
}

struct One<T> {
    of: Of,
    store: Shared<T>,
}

impl<T: PartialEq + Send + Sync> Member for One<T> {
    fn of(&self) -> Of {
        self.of
    }

    fn take_changed(&self) -> bool {
        std::mem::take(&mut self.store.lock().changed)
    }

    fn next_verdict(&self, now: Instant) -> Option<Instant> {
        verdict(&self.store.lock(), now).0
    }

    fn condition(&self, now: Instant) -> (Option<Trouble>, bool) {
        let store = self.store.lock();
        (verdict(&store, now).1.cloned(), store.table.synced())
    }

    fn age(&self, now: Timestamp) -> Option<SourceRow> {
        let store = self.store.lock();
        store.table.synced().then(|| SourceRow {
            source: store.table.resource().to_owned(),
            as_of: store.broke.unwrap_or(now),
            error: store.trouble.as_ref().map(|trouble| trouble.text.clone()),
        })
    }

    fn report(&self, all: &mut Objects) -> u64 {
        let store = self.store.lock();
        store.table.report(all);
        store.table.problems_total()
    }
}

/// What was told of the health of each probe.
pub(super) struct Statuses {
    sent: BTreeMap<String, ProbeStatus>,
    peers: Peers,
}

impl Statuses {
    pub(super) fn new(peers: Peers) -> Self {
        Self {
            sent: BTreeMap::new(),
            peers,
        }
    }

    pub(super) fn told(&mut self, status: ProbeStatus) {
        self.sent.insert(status.probe.clone(), status);
    }

    /// What is not told yet. `told`: a complete declared side was.
    pub(super) fn now(
        &self,
        members: &[Box<dyn Member>],
        told: Option<&str>,
        source: &str,
    ) -> Vec<ProbeStatus> {
        let now = clock::instant();
        let mut all = vec![declared(members, told.is_some(), source, now)];
        all.extend(
            members
                .iter()
                .filter_map(|member| extra(member.as_ref(), now)),
        );
        if self.peers == Peers::Off {
            all.push(ProbeStatus {
                probe: "peers.endpointslices".to_owned(),
                health: Health::Off,
                reason: Some("--peers off".to_owned()),
            });
        }
        all.retain(|status| self.sent.get(&status.probe) != Some(status));
        all
    }
}

/// Of the declared side as a whole.
fn declared(members: &[Box<dyn Member>], told: bool, source: &str, now: Instant) -> ProbeStatus {
    let own = members.iter().filter(|member| member.of() == Of::Declared);
    let texts: Vec<String> = own
        .filter_map(|member| Some(member.condition(now).0?.text))
        .collect();
    let reason = match (texts.is_empty(), told) {
        (true, true) => None,
        (true, false) => Some(format!(
            "{source}: no complete list of pods and services yet"
        )),
        (false, true) => Some(format!(
            "{source}: {}; the last state stays in force",
            texts.join("; ")
        )),
        (false, false) => Some(format!("{source}: {}", texts.join("; "))),
    };
    let health = if reason.is_some() {
        Health::Broken
    } else {
        Health::Ok
    };
    ProbeStatus {
        probe: "declared".to_owned(),
        health,
        reason,
    }
}

/// Of what the rest works without. An outage is the declared side's news; only what time will not mend is told here.
fn extra(member: &dyn Member, now: Instant) -> Option<ProbeStatus> {
    let Of::Probe(probe) = member.of() else {
        return None;
    };
    let (trouble, synced) = member.condition(now);
    let trouble = trouble.filter(|trouble| trouble.permanent);
    let health = match &trouble {
        Some(trouble) if trouble.absent => Health::Unsupported,
        Some(_) => Health::Broken,
        None if synced => Health::Ok,
        None => return None,
    };
    Some(ProbeStatus {
        probe: probe.to_owned(),
        health,
        reason: trouble
            .map(|trouble| format!("{}; what it would tell stays unknown", trouble.text)),
    })
}
