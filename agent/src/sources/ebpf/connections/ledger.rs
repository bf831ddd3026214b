//! What is known of each followed connection, and which of its bytes have been told (pure).
//!
//! A connection is met in a reading and gets an entry in the kernel's table. If a later reading still finds it, it was open
//! after the entry was made, so that its close will find the entry: only then are its bytes told while it is open. At close
//! the program leaves the final counts in the entry, and the rest is told. A connection that closed before its entry was
//! made was counted by the program as a whole; its entry stays empty and is removed. So each byte is told once, whenever
//! the connection closes.
//!
//! Counts of an open connection are never above the final ones, but for one byte: the peer's FIN, when it comes between
//! the reading of the state and of the counts. Such a byte is owed, and taken off the next ones of the same flow.

mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use plumbline_core::declared::Transport;
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{FlowCounts, FlowRow, Role};
use plumbline_ebpf::connection::{CONNECTIONS_MAX, Connection};

use crate::sources::sock_diag::message::{Entry, Sample, SocketId};
use samples::{Guess, guess, is_open, received, role_of, sent};

/// Flows that wait to be told. Full (the loop is stuck): further ones lose their peer.
const PENDING_MAX: usize = 32_768;

/// Readings that do not find a connection, and after which it is given up: of them all but the first asked for it by name.
const MISSED_MAX: u8 = 3;

/// Connections that each container may have followed. More only while half of the table is free, so that no container keeps
/// the others' out.
const SHARE: u32 = CONNECTIONS_MAX / 16;

/// Connections older than the agent that found no entry yet and are remembered as older. Full: further ones are counted; those
/// that find an entry later are told with what they moved before the agent.
const OLDER_MAX: usize = 65_536;

/// Connections without an entry that are remembered from one reading to the next, so that each is counted once. Full: further
/// ones are counted with each reading.
const REFUSED_MAX: usize = 65_536;

/// Containers of which it is told how many of their connections found no entry.
const NAMED_MAX: usize = 1_024;

/// What is told together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    owner: CgroupId,
    role: Role,
    peer: Option<IpAddr>,
    server_port: u16,
}

/// Bytes to be told, or owed where negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bytes {
    sent: i64,
    received: i64,
}

/// One followed connection.
#[derive(Clone, Debug)]
struct Followed {
    owner: CgroupId,
    netns: u64,
    family: u8,
    id: SocketId,
    local_port: u16,
    remote: IpAddr,
    remote_port: u16,
    /// What it had moved before the agent; not told.
    baseline: Sample,
    /// Its end of the connection, once known.
    role: Option<Role>,
    guess: Option<Guess>,
    told: Bytes,
    /// It was open after its entry was made.
    confirmed: bool,
    /// This reading found it.
    seen: bool,
    missed: u8,
    /// Readings for which nobody was in its namespace and its container was gone.
    orphaned: u32,
}

/// Connections that found no entry, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusals {
    /// The table was full.
    pub(super) full: u64,
    /// Their container had its share.
    pub(super) budget: u64,
    /// They are older than the agent, and there was no room to remember that.
    pub(super) older: u64,
}

/// All followed connections, by cookie.
#[derive(Debug)]
pub(super) struct Ledger {
    followed: BTreeMap<u64, Followed>,
    /// How many of them each container has.
    shares: BTreeMap<CgroupId, u32>,
    pending: BTreeMap<Flow, Bytes>,
    /// Connections that found no entry in this reading and the last one.
    refused: [BTreeSet<u64>; 2],
    refusals: Refusals,
    refused_of: BTreeMap<CgroupId, u64>,
    /// Connections without an entry that are older than the agent.
    older: BTreeSet<u64>,
    /// Readings after which a program that could tell of an orphan's close is surely detached.
    patience: u32,
    unseen: u64,
    folded: u64,
}

/// What a reading covered.
#[derive(Debug, Default)]
pub(super) struct Covered {
    /// Network namespaces that there are.
    pub(super) listed: BTreeSet<u64>,
    /// Of these, those of which all connections were read.
    pub(super) read: BTreeSet<u64>,
    /// Containers that are gone, of those with connections in no namespace that is listed.
    pub(super) gone: BTreeSet<CgroupId>,
}

impl Ledger {
    /// Nothing is followed. A connection whose container is gone is given up after so many readings; by then no program may be
    /// attached any more that would count it at its close.
    pub(super) const fn new(patience: u32) -> Self {
        Self {
            followed: BTreeMap::new(),
            shares: BTreeMap::new(),
            pending: BTreeMap::new(),
            refused: [BTreeSet::new(), BTreeSet::new()],
            refusals: Refusals {
                full: 0,
                budget: 0,
                older: 0,
            },
            refused_of: BTreeMap::new(),
            older: BTreeSet::new(),
            patience,
            unseen: 0,
            folded: 0,
        }
    }

    /// A reading found a connection of a container. `older` says that it is older than the agent: then what it has moved so
    /// far is not told. `make` makes its entry and says whether there was room.
    pub(super) fn see(
        &mut self,
        entry: &Entry,
        sample: Sample,
        (owner, netns, older): (CgroupId, u64, bool),
        make: impl FnOnce(u64) -> bool,
    ) {
        if let Some(followed) = self.followed.get_mut(&entry.cookie) {
            // Once more in one answer: it may be from before the entry was made.
            if std::mem::replace(&mut followed.seen, true) {
                return;
            }
            followed.confirmed = true;
            (followed.missed, followed.orphaned) = (0, 0);
            let credit = followed.credit(sample);
            if let Some((flow, bytes)) = credit {
                self.add(flow, bytes);
            }
            return;
        }
        let in_share = self.is_in_share(owner);
        if !in_share || !make(entry.cookie) {
            return self.refuse(entry.cookie, owner, (in_share, older));
        }
        *self.shares.entry(owner).or_default() += 1;
        let was_older = self.older.remove(&entry.cookie);
        let followed = Followed {
            owner,
            netns,
            family: entry.family,
            id: entry.id,
            local_port: entry.local_port,
            remote: entry.remote,
            remote_port: entry.remote_port,
            baseline: if older || was_older {
                sample
            } else {
                Sample::default()
            },
            role: None,
            guess: guess(sample),
            told: Bytes::default(),
            // No program was attached yet that could have seen it close.
            confirmed: older,
            seen: true,
            missed: 0,
            orphaned: 0,
        };
        self.followed.insert(entry.cookie, followed);
    }

    /// Whether a container may have one more followed.
    fn is_in_share(&self, owner: CgroupId) -> bool {
        let own = self.shares.get(&owner).copied().unwrap_or(0);
        own < SHARE || self.followed.len() < CONNECTIONS_MAX as usize / 2
    }

    /// Counts a connection that found no entry, once.
    fn refuse(&mut self, cookie: u64, owner: CgroupId, (in_share, older): (bool, bool)) {
        let [this, last] = &mut self.refused;
        let again = last.contains(&cookie) || this.contains(&cookie);
        if this.len() < REFUSED_MAX {
            this.insert(cookie);
        }
        if older && !self.older.contains(&cookie) {
            if self.older.len() < OLDER_MAX {
                self.older.insert(cookie);
            } else {
                self.refusals.older += 1;
            }
        }
        if again {
            return;
        }
        let why = if in_share {
            &mut self.refusals.full
        } else {
            &mut self.refusals.budget
        };
        *why += 1;
        if self.refused_of.len() < NAMED_MAX || self.refused_of.contains_key(&owner) {
            *self.refused_of.entry(owner).or_default() += 1;
        }
    }

    /// Containers with connections in namespaces that are not listed.
    pub(super) fn owners_outside(&self, listed: &BTreeSet<u64>) -> BTreeSet<CgroupId> {
        let outside = self.followed.values();
        let outside = outside.filter(|followed| !listed.contains(&followed.netns));
        outside.map(|followed| followed.owner).collect()
    }

    /// How many connections are followed in each namespace.
    pub(super) fn by_namespace(&self) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        for followed in self.followed.values() {
            *counts.entry(followed.netns).or_default() += 1;
        }
        counts
    }

    /// The connections of a namespace that are followed, to be asked for by name.
    pub(super) fn named(&self, netns: u64) -> Vec<(u8, SocketId)> {
        let all = self.followed.values();
        all.filter(|followed| followed.netns == netns)
            .map(|followed| (followed.family, followed.id))
            .collect()
    }

    /// Connections of this reading that found no entry; `None` when not all of them are remembered.
    pub(super) fn turned_away(&self) -> Option<usize> {
        Some(self.refused[0].len()).filter(|many| *many < REFUSED_MAX)
    }

    /// Connections of a namespace that a reading before this one missed already, and this one too: to be asked for by name.
    pub(super) fn doubtful(&self, netns: u64) -> Vec<(u8, SocketId)> {
        let doubtful = self
            .followed
            .values()
            .filter(|followed| followed.netns == netns && !followed.seen && followed.missed > 0);
        doubtful
            .map(|followed| (followed.family, followed.id))
            .collect()
    }

    /// Ends a reading: looks what became of connections that it did not find. Returns those whose entry is to be removed.
    pub(super) fn end_reading(
        &mut self,
        covered: &Covered,
        mut entry: impl FnMut(u64) -> Option<Connection>,
    ) -> Vec<u64> {
        let mut over = Vec::new();
        let mut rests = Vec::new();
        for (cookie, followed) in &mut self.followed {
            if std::mem::take(&mut followed.seen) {
                continue;
            }
            let closed = entry(*cookie).and_then(|entry| Some((role_of(entry.closed_as)?, entry)));
            if let Some((role, entry)) = closed {
                rests.extend(followed.settle(role, &entry));
                over.push(*cookie);
                continue;
            }
            followed.missed += u8::from(covered.read.contains(&followed.netns));
            // Where nobody is any more a socket may live on, and its program with it: given up too early it would be counted
            // as a whole when it closes, with what was told already.
            let orphaned =
                !covered.listed.contains(&followed.netns) && covered.gone.contains(&followed.owner);
            followed.orphaned += u32::from(orphaned);
            if followed.missed >= MISSED_MAX || followed.orphaned >= self.patience {
                self.unseen += u64::from(followed.confirmed);
                over.push(*cookie);
            }
        }
        for (flow, bytes) in rests {
            self.add(flow, bytes);
        }
        for cookie in &over {
            if let Some(followed) = self.followed.remove(cookie) {
                self.leave(followed.owner);
            }
        }
        let [this, last] = &mut self.refused;
        *last = std::mem::take(this);
        over
    }

    /// A container has one less.
    fn leave(&mut self, owner: CgroupId) {
        if let Some(share) = self.shares.get_mut(&owner) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&owner);
            }
        }
    }

    fn add(&mut self, mut flow: Flow, bytes: Bytes) {
        if bytes == Bytes::default() {
            return;
        }
        if self.pending.len() >= PENDING_MAX && !self.pending.contains_key(&flow) {
            self.folded += 1;
            (flow.peer, flow.server_port) = (None, 0);
        }
        let pending = self.pending.entry(flow).or_default();
        pending.sent = pending.sent.saturating_add(bytes.sent);
        pending.received = pending.received.saturating_add(bytes.received);
    }

    /// What is to be told.
    pub(super) fn rows(&self) -> Vec<FlowRow> {
        let row = |(flow, bytes): (&Flow, &Bytes)| {
            let counts = FlowCounts {
                sent_bytes: u64::try_from(bytes.sent).unwrap_or(0),
                received_bytes: u64::try_from(bytes.received).unwrap_or(0),
                ..FlowCounts::default()
            };
            (counts != FlowCounts::default()).then_some(FlowRow {
                owner: flow.owner,
                transport: Transport::Tcp,
                role: flow.role,
                peer: flow.peer,
                server_port: flow.server_port,
                counts,
            })
        };
        self.pending.iter().filter_map(row).collect()
    }

    /// The rows were told; what is owed stays.
    pub(super) fn told(&mut self) {
        self.pending.retain(|_, bytes| {
            bytes.sent = bytes.sent.min(0);
            bytes.received = bytes.received.min(0);
            *bytes != Bytes::default()
        });
    }

    /// Connections that are followed.
    pub(super) fn len(&self) -> u64 {
        self.followed.len() as u64
    }

    /// Connections that found no entry: their bytes arrive when they close.
    pub(super) const fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// The same by container.
    pub(super) fn refused(&self) -> impl Iterator<Item = (CgroupId, u64)> {
        self.refused_of
            .iter()
            .map(|(owner, count)| (*owner, *count))
    }

    /// Connections that ended without a word from any program, so that what they moved after the last reading is missing.
    pub(super) const fn unseen(&self) -> u64 {
        self.unseen
    }

    /// Flows that lost their peer because the loop did not take them.
    pub(super) const fn folded(&self) -> u64 {
        self.folded
    }
}

impl Followed {
    fn flow(&self, role: Role) -> Flow {
        Flow {
            owner: self.owner,
            role,
            peer: Some(self.remote),
            server_port: match role {
                Role::Client => self.remote_port,
                Role::Server => self.local_port,
            },
        }
    }

    /// What is to be told of an open connection.
    fn credit(&mut self, sample: Sample) -> Option<(Flow, Bytes)> {
        let now = guess(sample);
        if self.role.is_none()
            && is_open(sample.state)
            && let Some(before) = self.guess
            && (before.exact || now.is_some_and(|now| now.role == before.role))
        {
            self.role = Some(before.role);
        }
        self.guess = now;
        let role = self.role?;
        let total = self.since_baseline(role, sent(&sample, role), received(&sample));
        let more = Bytes {
            sent: total.sent.saturating_sub(self.told.sent).max(0),
            received: total.received.saturating_sub(self.told.received).max(0),
        };
        self.told.sent += more.sent;
        self.told.received += more.received;
        Some((self.flow(role), more))
    }

    /// The rest of a closed connection, and what was told under another role.
    fn settle(&self, role: Role, entry: &Connection) -> Vec<(Flow, Bytes)> {
        let total = self.since_baseline(role, entry.sent_bytes, entry.received_bytes);
        let Bytes { sent, received } = self.told;
        match self.role {
            Some(before) if before != role => {
                let back = Bytes {
                    sent: -sent,
                    received: -received,
                };
                vec![(self.flow(before), back), (self.flow(role), total)]
            }
            Some(_) | None => {
                let rest = Bytes {
                    sent: total.sent.saturating_sub(sent),
                    received: total.received.saturating_sub(received),
                };
                vec![(self.flow(role), rest)]
            }
        }
    }

    fn since_baseline(&self, role: Role, sent_bytes: u64, received_bytes: u64) -> Bytes {
        let sent_before = sent(&self.baseline, role);
        let received_before = received(&self.baseline);
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Bytes {
            sent: signed(sent_bytes.saturating_sub(sent_before)),
            received: signed(received_bytes.saturating_sub(received_before)),
        }
    }
}

#[cfg(test)]
mod tests;
