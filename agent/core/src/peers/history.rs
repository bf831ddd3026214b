//! Who held an address from when to when.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::declared::PeerPod;
use crate::settings::{PEER_HISTORY, PEER_HISTORY_MAX, PEER_HOLDERS_MAX};
use crate::snapshot::Peer;
use crate::time::Timestamp;

/// Who holds an address, so that the same holder is known again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// This node, by its own interfaces.
    Interface,
    /// A Node object, by name.
    Node(String),
    /// A Service, by namespace and name: its cluster address.
    Service(String, String),
    /// A pod, by UID, else by namespace and name.
    Pod(String),
}

/// What a holder is called, and what policies need of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) peer: Peer,
    pub(super) pod: Option<Arc<PeerPod>>,
}

impl Name {
    pub(super) fn new(peer: Peer) -> Arc<Self> {
        Arc::new(Self { peer, pod: None })
    }
}

/// One span of time in which somebody may have held an address. The true span lies within it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) holder: Holder,
    pub(super) name: Arc<Name>,
    /// When it was told last that the name is another than before.
    pub(super) renamed: Timestamp,
    from: Timestamp,
    to: Option<Timestamp>,
}

impl Held {
    /// Whether the holder has let go of it.
    pub(super) fn ended(&self) -> bool {
        self.to.is_some()
    }

    /// Whether the holder had it for the whole time, as far as is known.
    pub(super) fn covers(&self, since: Timestamp, until: Timestamp) -> bool {
        self.from < since && self.to.is_none_or(|to| to > until)
    }
}

/// All addresses, those given up lately too.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    held: BTreeMap<IpAddr, Vec<Held>>,
    open: usize,
    /// Ends of spans, as they came.
    ended: VecDeque<(Timestamp, IpAddr)>,
    /// Spans that ended up to here may have been forgotten because there were too many.
    forgotten: Timestamp,
    /// Holders that found no place, and spans forgotten early.
    refused: u64,
    cut: u64,
}

impl History {
    /// `holder` holds `address` at least from `at` on, perhaps since `from`. Known already: only what it is called may
    /// change.
    pub(super) fn open(
        &mut self,
        address: IpAddr,
        holder: &Holder,
        name: &Arc<Name>,
        from: Timestamp,
        at: Timestamp,
    ) {
        let spans = self.held.entry(address).or_default();
        let known = spans
            .iter_mut()
            .find(|held| held.to.is_none() && held.holder == *holder);
        if let Some(known) = known {
            if known.name != *name {
                known.renamed = at;
            }
            known.name = Arc::clone(name);
        } else if self.open >= PEER_HOLDERS_MAX {
            self.refused += 1;
        } else {
            self.open += 1;
            spans.push(Held {
                holder: holder.clone(),
                name: Arc::clone(name),
                renamed: at,
                from,
                to: None,
            });
        }
    }

    /// Ends every open span that `ends` picks, at `at`.
    pub(super) fn close(&mut self, at: Timestamp, ends: impl Fn(IpAddr, &Holder) -> bool) {
        for (address, spans) in &mut self.held {
            let open = spans.iter_mut().filter(|held| held.to.is_none());
            for held in open.filter(|held| ends(*address, &held.holder)) {
                held.to = Some(at.max(held.from));
                self.ended.push_back((at.max(held.from), *address));
                self.open -= 1;
            }
        }
        self.prune(at);
    }

    /// Ends the open spans of one holder at some addresses.
    pub(super) fn close_of(&mut self, at: Timestamp, addresses: &[IpAddr], holder: &Holder) {
        for address in addresses {
            let spans = self.held.get_mut(address).into_iter().flatten();
            for held in spans.filter(|held| held.to.is_none() && held.holder == *holder) {
                held.to = Some(at.max(held.from));
                self.ended.push_back((at.max(held.from), *address));
                self.open -= 1;
            }
        }
        self.prune(at);
    }

    /// Everybody who may have held the address at some time of the span. `None` when that may have been forgotten.
    pub(super) fn holders(
        &self,
        address: IpAddr,
        since: Timestamp,
        until: Timestamp,
    ) -> Option<impl Iterator<Item = &Held>> {
        let spans = self.held.get(&address).into_iter().flatten();
        (since > self.forgotten || self.forgotten == Timestamp::default()).then(|| {
            spans.filter(move |held| held.from <= until && held.to.is_none_or(|to| to >= since))
        })
    }

    /// Addresses that somebody holds now.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&IpAddr, &Held)> {
        let open = |(address, spans)| {
            let spans: &Vec<Held> = spans;
            let open = spans.iter().filter(|held| held.to.is_none());
            open.map(move |held| (address, held))
        };
        self.held.iter().flat_map(open)
    }

    /// Spans that are open, and those that ended and are remembered.
    pub(super) fn occupancy(&self) -> (usize, usize) {
        (self.open, self.ended.len())
    }

    /// Holders that found no place, and spans forgotten early.
    pub(super) fn lost(&self) -> (u64, u64) {
        (self.refused, self.cut)
    }

    /// Forgets what nobody asks for any more, and the oldest where there is too much.
    fn prune(&mut self, now: Timestamp) {
        while let Some((to, address)) = self.ended.front().copied() {
            let cut = self.ended.len() > PEER_HISTORY_MAX;
            if !cut && now.since(to) < PEER_HISTORY {
                break;
            }
            self.ended.pop_front();
            self.forgotten = self.forgotten.max(to);
            self.cut += u64::from(cut);
            if let Some(spans) = self.held.get_mut(&address) {
                spans.retain(|held| held.to.is_none_or(|end| end > to));
                if spans.is_empty() {
                    self.held.remove(&address);
                }
            }
        }
    }
}
