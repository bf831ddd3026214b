//! Namespaces in which nothing was opened since they were read: there the connections are known, and asked for by name.
//!
//! A dump of connections walks the kernel's one table for all namespaces, however few there are: 0.4 ms and more for each
//! pod (Linux 6.18, 24 GiB of memory, 262,144 buckets). The counters of a namespace cost a tenth of that, and tell whether
//! a dump could find anything new.

use std::collections::BTreeMap;
use std::path::Path;

use crate::sources::sock_diag::netns::Namespace;

/// A dump of a namespace in so many readings at least, whatever its counters say: sockets that a checkpointed process brings
/// along are counted nowhere.
const DUMP_EVERY: u32 = 12;

/// Connections of a namespace that are asked for by name; with more, a dump is cheaper.
pub(super) const NAMED_MAX: usize = 128;

/// Counters of a namespace by which an opened connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    /// `ActiveOpens` and `PassiveOpens`: connects and accepts since the namespace was made.
    opens: u64,
    /// `CurrEstab`: a connect is counted when it begins, and shows up here once it is answered.
    pub(super) established: u64,
}

impl Counters {
    /// Of the namespace that a process is in, given its file of the namespace. `None` when they cannot be read.
    pub(super) fn read(way: &Path) -> Option<Self> {
        let process = way.parent()?.parent()?;
        Self::parse(&std::fs::read_to_string(process.join("net/snmp")).ok()?)
    }

    /// From the two lines `Tcp:` of `/proc/<pid>/net/snmp`: names, then values.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (lines.next()?, lines.next()?);
        let value = |wanted: &str| {
            let at = names.split(' ').position(|name| name == wanted)?;
            values.split(' ').nth(at)?.parse::<u64>().ok()
        };
        Some(Self {
            opens: value("ActiveOpens")?.wrapping_add(value("PassiveOpens")?),
            established: value("CurrEstab")?,
        })
    }
}

/// What is remembered of a namespace.
#[derive(Clone, Copy, Debug)]
struct Known {
    counters: Counters,
    /// Dumps in a row that began with these counters and found room for all connections.
    dumps: u32,
    /// Readings since the last dump.
    since: u32,
}

/// How a namespace is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Everything in it.
    Dump,
    /// Only the connections that are followed.
    Named,
}

/// Namespaces by inode; as many as are listed.
#[derive(Debug, Default)]
pub(super) struct Quiet(BTreeMap<u64, Known>);

impl Quiet {
    /// How to read a namespace with these counters, taken before the reading. A connection may be counted a moment before it is
    /// in the table: only a second dump after a change finds all.
    pub(super) fn way(&mut self, inode: u64, counters: Option<Counters>) -> Way {
        let Some(known) = self.0.get_mut(&inode) else {
            return Way::Dump;
        };
        known.since += 1;
        if counters == Some(known.counters) && known.dumps >= 2 && known.since < DUMP_EVERY {
            Way::Named
        } else {
            Way::Dump
        }
    }

    /// A namespace was dumped. `whole`: nothing was left out or found no entry, which the next dump may mend.
    pub(super) fn dumped(&mut self, inode: u64, counters: Option<Counters>, whole: bool) {
        let Some(counters) = counters.filter(|_| whole) else {
            self.0.remove(&inode);
            return;
        };
        let known = self.0.entry(inode).or_insert(Known {
            counters,
            dumps: 0,
            since: 0,
        });
        if known.counters != counters {
            (known.counters, known.dumps) = (counters, 0);
        }
        known.dumps = known.dumps.saturating_add(1);
        known.since = 0;
    }

    /// Forgets those that are not listed any more.
    pub(super) fn retain(&mut self, listed: impl Fn(u64) -> bool) {
        self.0.retain(|inode, _| listed(*inode));
    }
}

/// The counters of a namespace by the first of its ways that still leads somewhere.
pub(super) fn counters(namespace: &Namespace) -> Option<Counters> {
    namespace.ways.iter().find_map(|way| Counters::read(way))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;

    use super::{Counters, DUMP_EVERY, Quiet, Way};

    const SNMP: &str = "Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: RtoAlgorithm ActiveOpens PassiveOpens CurrEstab\nTcp: 1 40 2 3\nUdp: InDatagrams\nUdp: 7\n";

    #[test]
    fn counters_are_found_by_name_and_their_absence_is_no_zero() {
        let counters = Counters::parse(SNMP);
        let expected = Counters {
            opens: 42,
            established: 3,
        };
        assert_eq!(counters, Some(expected));
        assert_eq!(Counters::parse(&SNMP.replace("CurrEstab", "Other")), None);
        assert_eq!(Counters::parse("Tcp: ActiveOpens\n"), None);
        assert_eq!(Counters::read(Path::new("/proc/0/ns/net")), None);
    }

    #[test]
    fn an_opened_connection_shows_in_the_kernels_counters() {
        let way = Path::new("/proc/self/ns/net");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = Counters::read(way).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let after = Counters::read(way).unwrap();
        assert!(after.opens >= before.opens + 2, "{before:?} {after:?}");
    }

    #[test]
    fn two_dumps_with_the_same_counters_are_enough_for_some_readings() {
        let counters = Counters::parse(SNMP);
        let other = Counters::parse(&SNMP.replace("40", "41"));
        let mut quiet = Quiet::default();
        for _ in 0..2 {
            assert_eq!(quiet.way(1, counters), Way::Dump);
            quiet.dumped(1, counters, true);
        }
        assert_eq!(quiet.way(1, counters), Way::Named);
        assert_eq!(quiet.way(1, None), Way::Dump, "not to be read");
        assert_eq!(quiet.way(1, other), Way::Dump, "something was opened");
        quiet.dumped(1, other, true);
        assert_eq!(quiet.way(1, other), Way::Dump, "once more");
        quiet.dumped(1, other, true);
        let named = (0..2 * DUMP_EVERY).take_while(|_| quiet.way(1, other) == Way::Named);
        assert_eq!(named.count(), DUMP_EVERY as usize - 1);
        quiet.dumped(1, other, false);
        assert_eq!(quiet.way(1, other), Way::Dump, "something was left out");
        quiet.retain(|_| false);
        assert_eq!(quiet.way(1, other), Way::Dump);
    }
}
