//! The thread that reads every network namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use plumbline_core::observation::{Health, ProbeStatus};
use plumbline_ebpf::connection::CONNECTIONS_MAX;
use rustix::io::Errno;

use super::books::{Books, Entries};
use super::landmark::Landmark;
use super::ledger::Covered;
use super::quiet::{self, Counters, NAMED_MAX, Quiet, Way};
use super::{CONNECTIONS, Settings, broken, unsupported};
use crate::clock;
use crate::sources::Sink;
use crate::sources::ebpf::report::Reporter;
use crate::sources::sock_diag::message::{Entry, IPV4, IPV6, OPEN, Query, TCP};
use crate::sources::sock_diag::netns::{self, Closed, NAMESPACES_MAX, Namespace};
use crate::sources::sock_diag::socket::{DiagError, DiagSocket};

/// The first reading of a namespace looks at so many times more connections than a later one: it alone tells those that are
/// older than the agent.
const FIRST_TIMES: usize = 16;

/// The thread's own state.
pub(super) struct Reader {
    settings: Settings,
    books: Arc<Mutex<Books<Entries>>>,
    reporter: Reporter,
    /// Namespaces that were there at start and were not looked into yet: what is found in them is older than the agent.
    unread: Option<BTreeSet<u64>>,
    landmark: Option<Landmark>,
    quiet: Quiet,
    /// Readings of a namespace that did not come to its end.
    cut: u64,
    /// Namespaces beyond the limit, of all readings.
    beyond: u64,
}

/// How a namespace is read, and its counters from before that.
#[derive(Clone, Copy, Debug)]
struct Plan {
    way: Way,
    counters: Option<Counters>,
}

impl Plan {
    const DUMP: Self = Self {
        way: Way::Dump,
        counters: None,
    };
}

/// What a reading could not look at.
#[derive(Debug, Default)]
struct Left {
    /// Namespaces that could not be asked, and why the last could not.
    refused: Option<(usize, DiagError)>,
    /// Namespaces beyond the limit.
    beyond: usize,
    /// Namespaces with more connections than a reading looks at, and about how many those are, where their counters tell.
    cut: usize,
    not_read: u64,
    /// Processes that may not be looked at: on some nodes the first is closed even to root.
    unreadable: usize,
}

impl Reader {
    pub(super) fn new(settings: Settings, books: Arc<Mutex<Books<Entries>>>, sink: Sink) -> Self {
        Self {
            reporter: Reporter::new(sink),
            settings,
            books,
            unread: None,
            landmark: None,
            quiet: Quiet::default(),
            cut: 0,
            beyond: 0,
        }
    }

    pub(super) fn run(mut self, stopped: &Receiver<()>, ready: &SyncSender<()>) {
        self.read();
        // Whoever started us may have given up waiting.
        ready.try_send(()).unwrap_or_default();
        while stopped.recv_timeout(self.settings.interval) == Err(RecvTimeoutError::Timeout) {
            self.read();
        }
        self.read();
    }

    /// Reads every namespace once, and tells.
    fn read(&mut self) {
        // Nobody else wants them while this thread lives.
        let books = Arc::clone(&self.books);
        let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
        books.owners.begin();
        self.advance();
        let began = clock::monotonic();
        let mut covered = Covered::default();
        let left = self.visit_all(&mut books, &mut covered);
        books.end_reading(covered, began);
        let missed = self.landmark.as_mut().is_some_and(Landmark::is_missed);
        let status = match left {
            Ok(_) if missed => {
                broken("the agent's own connection is not found, or not with its bytes")
            }
            Ok(left) => judge(left),
            Err(error) => broken(&format!("{error:#}")),
        };
        self.report(&books, &status);
    }

    /// The agent's own connection moves; it is made if there is none.
    fn advance(&mut self) {
        if self.landmark.is_none() {
            self.landmark = Landmark::open()
                .inspect_err(|error| tracing::debug!(error = %error, "no connection over loopback"))
                .ok();
        }
        if let Some(landmark) = &mut self.landmark
            && let Err(error) = landmark.advance()
        {
            tracing::debug!(error = %error, "the connection over loopback is gone");
            self.landmark = None;
        }
    }

    fn report(&mut self, books: &MutexGuard<'_, Books<Entries>>, status: &ProbeStatus) {
        // Everything is told each time: the loop may have had no room for the last.
        self.reporter.forget();
        self.reporter.probe(status);
        let ledger = &books.ledger;
        let followed = (ledger.len(), u64::from(CONNECTIONS_MAX));
        self.reporter.occupancy(CONNECTIONS, followed);
        for (reason, count) in [
            ("full", ledger.refusals().full),
            ("budget", ledger.refusals().budget),
            ("older", ledger.refusals().older),
            ("cut", self.cut),
            ("unseen_close", ledger.unseen()),
            ("pending_full", ledger.folded()),
            ("namespaces_full", self.beyond),
        ] {
            self.reporter.dropped(CONNECTIONS, reason, count);
        }
        for (owner, connections) in ledger.refused() {
            self.reporter.refused_connections(owner, connections);
        }
    }

    fn visit_all(
        &mut self,
        books: &mut Books<Entries>,
        covered: &mut Covered,
    ) -> anyhow::Result<Left> {
        let proc_root = &self.settings.proc_root;
        let listing = netns::of_processes(proc_root)
            .with_context(|| format!("list the processes in {}", proc_root.display()))?;
        let namespaces = listing.namespaces;
        let listed: BTreeSet<u64> = namespaces.iter().map(|namespace| namespace.inode).collect();
        let unread = self.unread.get_or_insert_with(|| listed.clone()).clone();
        covered.listed = listed;
        let mut left = Left {
            beyond: listing.beyond,
            unreadable: listing.unreadable,
            ..Left::default()
        };
        self.beyond += listing.beyond as u64;
        let (namespaces, plans) = self.plan(namespaces, books, covered);
        let mut looked_into = BTreeSet::new();
        for (inode, opened) in netns::visit(namespaces, false)? {
            let older = unread.contains(&inode);
            let plan = plans.get(&inode).copied().unwrap_or(Plan::DUMP);
            let read = match opened {
                Ok(mut opened) => self.ask(&mut opened.socket, books, (inode, older), plan),
                Err(Closed::Gone) => continue,
                Err(Closed::Refused(errno)) => Err(errno.into()),
            };
            match read {
                Ok(whole) => {
                    // What is beyond the cut is never known to be older, or it would lose its bytes in all readings.
                    looked_into.insert(inode);
                    if whole {
                        covered.read.insert(inode);
                    } else {
                        self.cut += 1;
                        left.cut += 1;
                        let all = plan.counters.map_or(0, |counters| counters.established);
                        left.not_read += all.saturating_sub(self.most(older) as u64);
                    }
                }
                Err(error) => {
                    let so_far = left.refused.map_or(0, |(many, _)| many);
                    left.refused = Some((so_far + 1, error));
                }
            }
        }
        if let Some(unread) = &mut self.unread {
            unread.retain(|inode| covered.listed.contains(inode) && !looked_into.contains(inode));
        }
        Ok(left)
    }

    /// The namespaces that have to be looked into, and how. The others have no connection that could have moved bytes.
    fn plan(
        &mut self,
        mut namespaces: Vec<Namespace>,
        books: &Books<Entries>,
        covered: &mut Covered,
    ) -> (Vec<Namespace>, BTreeMap<u64, Plan>) {
        let followed = books.ledger.by_namespace();
        self.quiet.retain(|inode| covered.listed.contains(&inode));
        let mut plans = BTreeMap::new();
        namespaces.retain(|namespace| {
            let inode = namespace.inode;
            let counters = quiet::counters(namespace);
            let mut way = self.quiet.way(inode, counters);
            let followed = followed.get(&inode).copied().unwrap_or(0);
            // The agent's own connection must be found by a dump.
            if followed > NAMED_MAX || netns::own() == Some(inode) {
                way = Way::Dump;
            }
            if way == Way::Named && followed == 0 {
                covered.read.insert(inode);
                return false;
            }
            plans.insert(inode, Plan { way, counters });
            true
        });
        (namespaces, plans)
    }

    /// Reads one namespace. `false` when it has too many connections.
    fn ask(
        &mut self,
        socket: &mut DiagSocket,
        books: &mut Books<Entries>,
        (netns, older): (u64, bool),
        plan: Plan,
    ) -> Result<bool, DiagError> {
        if plan.way == Way::Named {
            for (family, id) in books.ledger.named(netns) {
                if let Some(entry) = socket.find(open(family), &id)? {
                    self.found(&entry, books, (netns, older));
                }
            }
            return Ok(true);
        }
        let before = books.ledger.turned_away();
        let whole = self.dump(socket, books, (netns, older))?;
        let all_followed = before.is_some() && books.ledger.turned_away() == before;
        self.quiet
            .dumped(netns, plan.counters, whole && all_followed);
        Ok(whole)
    }

    /// Reads everything in one namespace. `false` when it has too many connections.
    fn dump(
        &mut self,
        socket: &mut DiagSocket,
        books: &mut Books<Entries>,
        (netns, older): (u64, bool),
    ) -> Result<bool, DiagError> {
        let most = self.most(older);
        let mut found = 0;
        for family in [IPV4, IPV6] {
            socket.dump(open(family), |entry| {
                found += 1;
                if found > most {
                    return ControlFlow::Break(());
                }
                self.found(&entry, books, (netns, older));
                ControlFlow::Continue(())
            })?;
            if found > most {
                return Ok(false);
            }
        }
        for (family, id) in books.ledger.doubtful(netns) {
            if let Some(entry) = socket.find(open(family), &id)? {
                self.found(&entry, books, (netns, older));
            }
        }
        Ok(true)
    }

    /// Connections that one reading of a namespace looks at.
    fn most(&self, older: bool) -> usize {
        let times = if older { FIRST_TIMES } else { 1 };
        self.settings.sockets_max.saturating_mul(times)
    }

    fn found(&mut self, entry: &Entry, books: &mut Books<Entries>, (netns, older): (u64, bool)) {
        let landmark = self.landmark.as_mut();
        if !landmark.is_some_and(|landmark| landmark.is_own(entry.cookie, entry.sample)) {
            books.found(entry, netns, older);
        }
    }
}

/// Asks for connections that may still move bytes.
const fn open(family: u8) -> Query {
    Query {
        family,
        protocol: TCP,
        states: OPEN,
        info: true,
    }
}

fn judge(left: Left) -> ProbeStatus {
    match left.refused {
        Some((_, DiagError::Refused(code))) if Errno::from_raw_os_error(code) == Errno::NOENT => {
            return unsupported("the kernel has no tcp_diag (CONFIG_INET_TCP_DIAG)");
        }
        Some((many, why)) => {
            return broken(&format!(
                "{many} network namespaces cannot be read ({why}): for them"
            ));
        }
        None => {}
    }
    if left.beyond > 0 {
        return broken(&format!(
            "{} network namespaces are beyond the {NAMESPACES_MAX} that a reading looks at: for them",
            left.beyond
        ));
    }
    if left.cut > 0 {
        let (cut, not_read) = (left.cut, left.not_read);
        return broken(&format!(
            "{cut} network namespaces have more connections than a reading looks at, about {not_read} more: for those"
        ));
    }
    let unreadable = left.unreadable;
    ProbeStatus {
        probe: CONNECTIONS.into(),
        health: Health::Ok,
        reason: (unreadable > 0).then(|| {
            format!(
                "the network namespaces of {unreadable} processes may not be looked at; without others in them they are not read"
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use plumbline_core::observation::Health;

    use super::{Left, judge};

    #[test]
    fn what_is_left_out_is_said() {
        assert_eq!(judge(Left::default()).reason, None);
        let some = judge(Left {
            unreadable: 3,
            ..Left::default()
        });
        assert_eq!(some.health, Health::Ok);
        assert!(some.reason.unwrap().contains("of 3 processes"));
        let many = judge(Left {
            beyond: 7,
            ..Left::default()
        });
        assert_eq!(many.health, Health::Broken);
        assert!(
            many.reason
                .unwrap()
                .starts_with("7 network namespaces are beyond")
        );
        let cut = judge(Left {
            cut: 1,
            not_read: 1_464,
            ..Left::default()
        });
        assert_eq!(cut.health, Health::Broken);
        let reason = cut.reason.unwrap();
        assert!(reason.contains("about 1464 more: for those"), "{reason}");
    }
}
