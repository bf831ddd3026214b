//! What is known of connections and what is to be told of them. It outlives the thread that reads: whatever ends that, each
//! byte is told once.

use aya::maps::{HashMap, MapData};
use plumbline_core::observation::Fact;
use plumbline_core::time::Timestamp;
use plumbline_ebpf::connection::Connection;

use super::ledger::{Covered, Ledger};
use super::owners::Owners;
use crate::clock;
use crate::sources::Sink;
use crate::sources::sock_diag::message::Entry;

/// `BPF_NOEXIST`.
const NEW: u64 = 1;

/// Entries of followed connections, which the network program finds at close.
pub(in crate::sources::ebpf) type Entries = HashMap<MapData, u64, Connection>;

/// A table of such entries.
pub(super) trait Table {
    /// Makes the entry of a connection; `false` without room.
    fn make(&mut self, cookie: u64) -> bool;
    /// The entry of a connection.
    fn look(&self, cookie: u64) -> Option<Connection>;
    /// Takes it out.
    fn remove(&mut self, cookie: u64);
}

impl Table for Entries {
    fn make(&mut self, cookie: u64) -> bool {
        self.insert(cookie, Connection::default(), NEW).is_ok()
    }

    fn look(&self, cookie: u64) -> Option<Connection> {
        let entry = self.get(&cookie, 0).ok()?;
        if entry.closed_as == 0 {
            return Some(entry);
        }
        // Read again: the first reading may have met it half written.
        self.get(&cookie, 0).ok()
    }

    fn remove(&mut self, cookie: u64) {
        if let Err(error) = HashMap::remove(self, &cookie) {
            tracing::debug!(error = %error, "an entry cannot be removed");
        }
    }
}

/// The ledger with its table.
#[derive(Debug)]
pub(super) struct Books<T> {
    pub(super) ledger: Ledger,
    pub(super) owners: Owners,
    table: T,
    sink: Sink,
    /// When the reading began whose rows the loop has: what the next ones count came since.
    told: Timestamp,
}

impl<T: Table> Books<T> {
    pub(super) fn new(ledger: Ledger, owners: Owners, table: T, sink: Sink) -> Self {
        Self {
            ledger,
            owners,
            table,
            sink,
            told: clock::monotonic(),
        }
    }

    /// A reading found a connection. `older` says that it is older than the agent.
    pub(super) fn found(&mut self, entry: &Entry, netns: u64, older: bool) {
        // In TIME_WAIT there is no sample: the connection has closed already.
        let (Some(sample), Some(cgroup)) = (entry.sample, entry.cgroup) else {
            return;
        };
        let Some(owner) = self.owners.container(cgroup) else {
            return;
        };
        let table = &mut self.table;
        self.ledger
            .see(entry, sample, (owner, netns, older), |cookie| {
                table.make(cookie)
            });
    }

    /// Ends a reading that began then, and tells. One that covered nothing still finds what was closed.
    pub(super) fn end_reading(&mut self, mut covered: Covered, began: Timestamp) {
        let outside = self.ledger.owners_outside(&covered.listed);
        let gone = outside.into_iter();
        covered.gone = gone.filter(|owner| self.owners.is_gone(*owner)).collect();
        let table = &self.table;
        let over = self
            .ledger
            .end_reading(&covered, |cookie| table.look(cookie));
        for cookie in over {
            self.table.remove(cookie);
        }
        let rows = self.ledger.rows();
        let since = Some(self.told);
        if rows.is_empty()
            || self
                .sink
                .send(clock::monotonic(), Fact::Flows { rows, since })
        {
            self.ledger.told();
            self.told = began;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex, PoisonError};

    use plumbline_core::id::CgroupId;
    use plumbline_core::observation::Fact;
    use plumbline_ebpf::connection::Connection;
    use plumbline_ebpf::flow::{ROLE_CLIENT, state};

    use super::super::ledger::{Covered, Ledger};
    use super::super::owners;
    use super::{Books, Table};
    use crate::clock;
    use crate::sources::Sink;
    use crate::sources::sock_diag::message::{Entry, IPV4, Sample, SocketId};

    impl Table for BTreeMap<u64, Connection> {
        fn make(&mut self, cookie: u64) -> bool {
            self.insert(cookie, Connection::default());
            true
        }

        fn look(&self, cookie: u64) -> Option<Connection> {
            self.get(&cookie).copied()
        }

        fn remove(&mut self, cookie: u64) {
            Self::remove(self, &cookie);
        }
    }

    fn entry(container: CgroupId, sent: u64) -> Entry {
        Entry {
            family: IPV4,
            state: u8::try_from(state::ESTABLISHED).unwrap(),
            id: SocketId::NONE,
            cookie: 1,
            local: [10, 0, 0, 1].into(),
            local_port: 40_000,
            remote: [10, 0, 0, 2].into(),
            remote_port: 443,
            inode: 1,
            cgroup: Some(container),
            v6only: None,
            sample: Some(Sample {
                state: u8::try_from(state::ESTABLISHED).unwrap(),
                acked: sent + 1,
                sent_once: Some(sent),
                ..Sample::default()
            }),
        }
    }

    /// The program leaves the counts of a followed connection in its entry, so that somebody has to take them from there.
    #[test]
    fn whatever_ends_the_reader_each_byte_is_told_once() {
        let (sink, mut facts) = Sink::new();
        let (_tree, owners, container, _) = owners::tests::one();
        let table = BTreeMap::new();
        let books = Books::new(Ledger::new(3), owners, table, sink);
        let books = Arc::new(Mutex::new(books));
        let of_reader = Arc::clone(&books);
        let reader = std::thread::spawn(move || {
            for sent in [0, 10] {
                let mut books = of_reader.lock().unwrap();
                books.found(&entry(container, sent), 9, false);
                let covered = Covered {
                    listed: [9].into(),
                    read: [9].into(),
                    ..Covered::default()
                };
                books.end_reading(covered, clock::monotonic());
            }
            let _books = of_reader.lock().unwrap();
            panic!("the reader ends in the middle of a reading");
        });
        assert!(reader.join().is_err());
        let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = 0;
        let mut sum = |books: &mut Books<BTreeMap<u64, Connection>>| {
            books.end_reading(Covered::default(), clock::monotonic());
            while let Ok(observation) = facts.try_recv() {
                if let Fact::Flows { rows, .. } = observation.fact {
                    told += rows.iter().map(|row| row.counts.sent_bytes).sum::<u64>();
                }
            }
            told
        };
        for _ in 0..10 {
            assert_eq!(sum(&mut books), 10, "told before; it is open still");
        }
        let closed = Connection {
            sent_bytes: 25,
            received_bytes: 0,
            closed_as: ROLE_CLIENT.into(),
        };
        *books.table.get_mut(&1).unwrap() = closed;
        assert_eq!(sum(&mut books), 25, "and its end");
        assert_eq!((books.table.len(), books.ledger.len()), (0, 0));
    }
}
