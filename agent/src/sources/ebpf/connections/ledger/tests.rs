mod shares;

use std::collections::BTreeMap;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::Role;
use plumbline_ebpf::connection::Connection;
use plumbline_ebpf::flow::{ROLE_CLIENT, ROLE_SERVER, state};
use proptest::prelude::*;

use super::samples::guess;
use super::{Covered, Ledger, MISSED_MAX};
use crate::sources::sock_diag::message::{self, Entry, Sample};

const NETNS: u64 = 9;
const OWNER: CgroupId = CgroupId(5);
const PATIENCE: u32 = 7;

/// A connection as the kernel has it: what its counters say is derived, as the kernel derives it.
#[derive(Clone, Copy, Debug)]
struct Socket {
    cookie: u64,
    client: bool,
    sent: u64,
    received: u64,
    state: u32,
}

impl Socket {
    const fn new(cookie: u64, client: bool) -> Self {
        Self {
            cookie,
            client,
            sent: 0,
            received: 0,
            state: state::ESTABLISHED,
        }
    }

    fn sample(&self) -> Sample {
        let our_fin = u64::from(self.state == state::FIN_WAIT2);
        let their_fin = u64::from(self.state == state::CLOSE_WAIT);
        Sample {
            state: u8::try_from(self.state).unwrap(),
            acked: self.sent + u64::from(self.client) + our_fin,
            received: self.received + their_fin,
            sent_once: Some(self.sent),
            unacked: 0,
            in_flight: 0,
        }
    }

    fn closed(&self) -> Connection {
        Connection {
            sent_bytes: self.sent,
            received_bytes: self.received,
            closed_as: u64::from(if self.client {
                ROLE_CLIENT
            } else {
                ROLE_SERVER
            }),
        }
    }

    fn entry(&self) -> Entry {
        Entry {
            family: message::IPV4,
            state: u8::try_from(self.state).unwrap(),
            id: message::SocketId::NONE,
            cookie: self.cookie,
            local: [10, 0, 0, 1].into(),
            local_port: 80,
            remote: [10, 0, 0, 2].into(),
            remote_port: 443,
            inode: 1,
            cgroup: Some(OWNER),
            v6only: None,
            sample: Some(self.sample()),
        }
    }
}

/// The kernel's table and the program that writes to it, with the ledger that reads them.
struct Node {
    ledger: Ledger,
    entries: BTreeMap<u64, Connection>,
    capacity: Option<usize>,
    /// What the program added to the flows: connections without an entry.
    aggregate: (u64, u64),
    told: BTreeMap<(Role, u16), (u64, u64)>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            ledger: Ledger::new(PATIENCE),
            entries: BTreeMap::new(),
            capacity: None,
            aggregate: (0, 0),
            told: BTreeMap::new(),
        }
    }
}

impl Node {
    fn read(&mut self, sockets: &[Socket], older: bool) {
        for socket in sockets {
            let (entries, capacity) = (&mut self.entries, self.capacity);
            self.ledger.see(
                &socket.entry(),
                socket.sample(),
                (OWNER, NETNS, older),
                |cookie| {
                    let room = capacity.is_none_or(|capacity| entries.len() < capacity);
                    if room {
                        entries.insert(cookie, Connection::default());
                    }
                    room
                },
            );
        }
        self.end();
    }

    fn end(&mut self) {
        self.end_covering(&Covered {
            listed: [NETNS].into(),
            read: [NETNS].into(),
            ..Covered::default()
        });
    }

    fn end_covering(&mut self, covered: &Covered) {
        let entries = &self.entries;
        let over = self
            .ledger
            .end_reading(covered, |cookie| entries.get(&cookie).copied());
        for cookie in over {
            self.entries.remove(&cookie);
        }
        for row in self.ledger.rows() {
            let told = self.told.entry((row.role, row.server_port)).or_default();
            told.0 += row.counts.sent_bytes;
            told.1 += row.counts.received_bytes;
        }
        self.ledger.told();
    }

    /// As the program does at close.
    fn close(&mut self, socket: &Socket) {
        match self.entries.get_mut(&socket.cookie) {
            Some(entry) => *entry = socket.closed(),
            None => {
                self.aggregate.0 += socket.sent;
                self.aggregate.1 += socket.received;
            }
        }
    }

    fn all(&self) -> (u64, u64) {
        self.told
            .values()
            .fold(self.aggregate, |sum, told| (sum.0 + told.0, sum.1 + told.1))
    }
}

#[test]
fn a_long_connection_is_told_with_each_reading_and_once_in_all() {
    let mut node = Node::default();
    let mut socket = Socket::new(1, true);
    socket.sent = 100;
    node.read(&[socket], false);
    assert_eq!(
        node.all(),
        (0, 0),
        "it may have closed before its entry was made"
    );
    (socket.sent, socket.received) = (150, 30);
    node.read(&[socket], false);
    assert_eq!(node.told, [((Role::Client, 443), (150, 30))].into());
    node.read(&[socket], false);
    socket.sent = 1_000;
    node.close(&socket);
    node.read(&[], false);
    assert_eq!(node.told, [((Role::Client, 443), (1_000, 30))].into());
    assert_eq!((node.ledger.len(), node.entries.len()), (0, 0));
}

#[test]
fn what_was_moved_before_the_agent_is_not_told() {
    let mut node = Node::default();
    let mut socket = Socket::new(1, false);
    (socket.sent, socket.received) = (1_000, 2_000);
    node.read(&[socket], true);
    (socket.sent, socket.received) = (1_001, 2_002);
    node.read(&[socket], false);
    assert_eq!(node.told, [((Role::Server, 80), (1, 2))].into());
    socket.sent += 5;
    node.close(&socket);
    node.read(&[], false);
    assert_eq!(node.all(), (6, 2));
}

#[test]
fn a_connection_that_closed_before_its_entry_was_made_is_the_programs() {
    let mut node = Node::default();
    let mut socket = Socket::new(1, true);
    socket.sent = 10;
    // The reading that found it was under way when it closed.
    node.close(&socket);
    node.read(&[socket], false);
    for _ in 0..MISSED_MAX {
        node.read(&[], false);
    }
    assert_eq!(node.all(), (10, 0));
    assert_eq!((node.ledger.len(), node.entries.len()), (0, 0));
    assert_eq!(node.ledger.unseen(), 0);
}

#[test]
fn a_fin_is_no_payload_in_either_direction() {
    for (state, client) in [
        (state::FIN_WAIT2, true),
        (state::FIN_WAIT2, false),
        (state::CLOSE_WAIT, true),
        (state::CLOSE_WAIT, false),
    ] {
        let mut node = Node::default();
        let mut socket = Socket::new(1, client);
        (socket.sent, socket.received) = (7, 9);
        node.read(&[socket], false);
        node.read(&[socket], false);
        socket.state = state;
        node.read(&[socket], false);
        assert_eq!(node.all(), (7, 9), "{socket:?}");
    }
}

/// A FIN that came between the reading of the state and of the counts.
#[test]
fn a_byte_too_many_is_taken_off_the_next_of_its_flow() {
    let mut node = Node::default();
    let mut socket = Socket::new(1, false);
    node.read(&[socket], false);
    socket.received = 11;
    node.read(&[socket], false);
    socket.received = 10;
    node.close(&socket);
    node.read(&[], false);
    assert_eq!(node.all(), (0, 11), "never less than was told");
    let mut next = Socket::new(2, false);
    node.read(&[next], false);
    next.received = 5;
    node.read(&[next], false);
    assert_eq!(node.all(), (0, 15));
}

#[test]
fn a_close_that_nobody_told_of_is_counted() {
    let mut node = Node::default();
    let socket = Socket::new(1, true);
    node.read(&[socket], false);
    node.read(&[socket], false);
    node.read(&[], false);
    assert_eq!(node.ledger.doubtful(NETNS).len(), 1, "asked for by name");
    for _ in 1..MISSED_MAX {
        node.read(&[], false);
    }
    assert_eq!((node.ledger.unseen(), node.ledger.len()), (1, 0));
}

#[test]
fn a_connection_is_not_given_up_while_its_namespace_cannot_be_read() {
    let mut node = Node::default();
    let mut socket = Socket::new(1, true);
    node.read(&[socket], false);
    socket.sent = 4;
    node.read(&[socket], false);
    for _ in 0..10 {
        let covered = Covered {
            listed: [NETNS].into(),
            ..Covered::default()
        };
        assert_eq!(node.ledger.end_reading(&covered, |_| None), [0_u64; 0]);
    }
    socket.sent = 6;
    node.read(&[socket], false);
    assert_eq!(node.all(), (6, 0));
}

/// Its last process has left the namespace, which the socket keeps; the program is there for as long as the container is, and
/// some time more.
#[test]
fn a_connection_whose_namespace_nobody_is_in_any_more_is_counted_once() {
    for gone in [false, true] {
        let mut node = Node::default();
        let mut socket = Socket::new(1, true);
        node.read(&[socket], false);
        socket.sent = 40;
        node.read(&[socket], false);
        assert_eq!(node.all(), (40, 0));
        let nobody = Covered {
            gone: if gone { [OWNER].into() } else { [].into() },
            ..Covered::default()
        };
        for _ in 1..PATIENCE {
            node.end_covering(&nobody);
        }
        socket.sent = 50;
        node.close(&socket);
        node.end_covering(&nobody);
        assert_eq!(node.all(), (50, 0), "gone: {gone}");
        assert_eq!((node.ledger.len(), node.entries.len()), (0, 0));
    }
}

#[test]
fn an_orphan_is_given_up_when_no_program_can_tell_of_it() {
    let mut node = Node::default();
    for _ in 0..2 {
        node.read(&[Socket::new(1, true)], false);
    }
    let orphaned = Covered {
        gone: [OWNER].into(),
        ..Covered::default()
    };
    for _ in 0..PATIENCE {
        assert_eq!(node.ledger.len(), 1);
        node.end_covering(&orphaned);
    }
    assert_eq!((node.ledger.unseen(), node.ledger.len()), (1, 0));
    assert_eq!(node.entries.len(), 0);
}

#[test]
fn connections_beyond_the_table_are_counted_once_and_arrive_at_close() {
    let mut node = Node {
        capacity: Some(1),
        ..Node::default()
    };
    let (first, mut second) = (Socket::new(1, true), Socket::new(2, true));
    for _ in 0..3 {
        node.read(&[first, second], false);
    }
    assert_eq!((node.ledger.refusals().full, node.ledger.len()), (1, 1));
    assert_eq!(node.ledger.refused().collect::<Vec<_>>(), [(OWNER, 1)]);
    second.sent = 8;
    node.close(&second);
    node.read(&[first], false);
    assert_eq!(node.all(), (8, 0));
}

#[test]
fn a_role_takes_two_readings_that_agree_or_a_quiet_one() {
    let busy = |sent_once, acked, in_flight| Sample {
        state: 1,
        acked,
        sent_once: Some(sent_once),
        unacked: 1,
        in_flight,
        ..Sample::default()
    };
    let role = |sample| guess(sample).map(|guess| guess.role);
    assert_eq!(role(busy(100, 61, 40)), Some(Role::Client));
    assert_eq!(role(busy(100, 60, 40)), Some(Role::Server));
    assert_eq!(
        role(busy(100, 70, 40)),
        None,
        "the counts are of two moments"
    );
    let old = Sample {
        sent_once: None,
        ..busy(100, 60, 40)
    };
    assert_eq!(
        role(old),
        None,
        "a kernel that does not count what was sent"
    );
    let mut node = Node::default();
    let mut socket = Socket::new(1, true);
    socket.state = state::FIN_WAIT2;
    node.read(&[socket], false);
    node.read(&[socket], false);
    assert_eq!(node.told, [].into(), "its FIN counts like a SYN");
    socket.sent = 3;
    node.close(&socket);
    node.read(&[], false);
    assert_eq!(node.told, [((Role::Client, 443), (3, 0))].into());
}

/// What happens to one of several connections.
#[derive(Clone, Copy, Debug)]
enum Step {
    Open(bool),
    Move(usize, u16, u16),
    Close(usize),
    /// A reading, during which that connection closes after it was found and before its entry is made.
    Read(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::Open),
        (0_usize..6, any::<u16>(), any::<u16>()).prop_map(|(n, a, b)| Step::Move(n, a, b)),
        (0_usize..6).prop_map(Step::Close),
        (0_usize..6, any::<bool>()).prop_map(|(n, race)| Step::Read(n, race)),
    ]
}

proptest! {
    /// Whatever happens in whatever order: at the end every byte was told once, and before it never too much.
    #[test]
    fn every_byte_is_told_once(steps in proptest::collection::vec(step(), 1..60), capacity in 1_usize..8) {
        let mut node = Node { capacity: Some(capacity), ..Node::default() };
        let mut sockets: Vec<Socket> = Vec::new();
        let (mut cookie, mut moved) = (0, (0_u64, 0_u64));
        for step in steps {
            match step {
                Step::Open(client) => {
                    cookie += 1;
                    sockets.push(Socket::new(cookie, client));
                }
                Step::Move(n, sent, received) => if let Some(socket) = sockets.get_mut(n) {
                    socket.sent += u64::from(sent);
                    socket.received += u64::from(received);
                    moved = (moved.0 + u64::from(sent), moved.1 + u64::from(received));
                },
                Step::Close(n) => if n < sockets.len() {
                    let socket = sockets.remove(n);
                    node.close(&socket);
                },
                Step::Read(n, race) => {
                    let found = sockets.clone();
                    if race && n < sockets.len() {
                        let socket = sockets.remove(n);
                        node.close(&socket);
                    }
                    node.read(&found, false);
                }
            }
            prop_assert!(node.all().0 <= moved.0 && node.all().1 <= moved.1);
        }
        for socket in sockets {
            node.close(&socket);
        }
        for _ in 0..=MISSED_MAX {
            node.read(&[], false);
        }
        prop_assert_eq!(node.all(), moved);
        prop_assert_eq!((node.ledger.len(), node.ledger.unseen(), node.entries.len()), (0, 0, 0));
    }
}
