//! Bytes that a kernel (6.18) answered, and bytes that none would.
#![cfg(target_endian = "little")]

use plumbline_core::id::CgroupId;
use plumbline_ebpf::flow::state;
use proptest::prelude::*;

use super::{
    Entry, IPV4, IPV6, LISTENING, Message, OPEN, Query, Sample, TCP, dump, find, messages,
};

/// A listener on `[::]` port 45671 with `IPV6_V6ONLY`, and the end of its dump.
const V6ONLY: &str = "\
    840000001400020007000000bf6e00000a0a0000b2670000000000000000000000000000000000000000000000000000\
    00000000000000000000000007000000000000000000000000000000050000000000000047b600000500080000000000\
    05000b000100000008000f00000000000c00150001000000000000000600160012000000140000000300020007000000\
    bf6e000000000000";

/// A listener on 127.0.0.1 port 45672.
const LOOPBACK: &str = "\
    7c0000001400020007000000bf6e0000020a0000b26800007f0000010000000000000000000000000000000000000000\
    00000000000000000000000009000000000000000000000000000000050000000000000048b600000500080000000000\
    08000f00000000000c00150001000000000000000600160052000000";

/// The accepted end of a connection over IPv4 to a dual-stack listener on 45673: 100 bytes received, 50 sent.
const SERVER: &str = "\
    980100001400020007000000bf6e00000a010000b269d76200000000000000000000ffff7f0000010000000000000000\
    0000ffff7f000001000000000a00000000000000000000000000000000000000000000004cb600000500080000000000\
    08000f00000000000c001500010000000000000006001600120000001c010200010000000007aa01e01c0300409c0000\
    0080000018020000000000000000000000000000000000000000000000000000000000000000000000000000ffff0000\
    cbff00001b0000000f000000ffffff7f0b000000cbff00000300000000000000cbff000000000000bb90944407000000\
    ffffffffffffffff32000000000000006400000000000000020000000400000000000000080000000100000001000000\
    000024f40000000000000000000000000000000000000000000000000000000002000000000000003200000000000000\
    000000000000000000000000000000000000000000000100000001000000000000000000000000000000000000000000\
    000000000000000000000000000000000000000000000000";

/// The other end of it.
const CLIENT: &str = "\
    980100001400020007000000bf6e000002010000d762b2697f0000010000000000000000000000007f00000100000000\
    0000000000000000000000000b00000000000000000000000000000000000000000000004bb600000500080000000000\
    08000f00000000000c001500010000000000000006001600520000001c010200010000000007aa01e01c0300409c0000\
    0080000018020000000000000000000000000000000000000000000000000000000000000000000000000000ffff0000\
    d7ff00001b0000000e000000ffffff7f0b000000cbff00000300000000000000d7ff000000000000c4f3268307000000\
    ffffffffffffffff65000000000000003200000000000000040000000300000000000000100000000100000001000000\
    0000127a0000000000000000000000000000000000000000000000000000000002000000000000006400000000000000\
    000000000000000000000000000000000000000000000100000001000000000000000000000000000000000000000000\
    000000000000000000000000000000000000000000000000";

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn one(hex: &str) -> Entry {
    let all: Vec<Message> = messages(&bytes(hex)).collect();
    match &all[..] {
        [Message::Socket(entry)] | [Message::Socket(entry), Message::Done] => entry.clone(),
        _ => panic!("{all:?}"),
    }
}

#[test]
fn listeners_are_read_with_their_owner() {
    let entry = one(V6ONLY);
    assert_eq!(
        (entry.local, entry.local_port),
        ("::".parse().unwrap(), 45_671)
    );
    assert_eq!(
        (entry.v6only, entry.cgroup, entry.cookie, entry.inode),
        (Some(true), Some(CgroupId(1)), 7, 46_663)
    );
    assert_eq!(u32::from(entry.state), state::LISTEN);
    let entry = one(LOOPBACK);
    assert_eq!(
        (entry.local, entry.v6only),
        ("127.0.0.1".parse().unwrap(), None)
    );
    assert_eq!((entry.remote_port, entry.sample), (0, None));
}

#[test]
fn both_ends_of_a_connection_are_read_with_their_bytes() {
    let (server, client) = (one(SERVER), one(CLIENT));
    assert_eq!((server.family, client.family), (IPV6, IPV4));
    assert_eq!(
        (server.local, server.local_port, server.remote_port),
        (client.remote, client.remote_port, client.local_port)
    );
    assert_eq!((server.cookie, client.cookie), (10, 11));
    let counts = |acked, received, sent_once| {
        Some(Sample {
            state: 1,
            acked,
            received,
            sent_once: Some(sent_once),
            unacked: 0,
            in_flight: 0,
        })
    };
    assert_eq!(server.sample, counts(50, 100, 50));
    assert_eq!(client.sample, counts(101, 50, 100), "a client's SYN counts");
}

#[test]
fn a_connection_is_asked_for_by_its_name() {
    let query = Query {
        family: IPV4,
        protocol: TCP,
        states: OPEN,
        info: true,
    };
    let request = find(query, &one(CLIENT).id);
    assert_eq!(request[0..8], [72, 0, 0, 0, 20, 0, 1, 0]);
    assert_eq!(request[16..20], [2, 6, 2, 0]);
    assert_eq!(request[24..72], bytes(CLIENT)[20..68]);
}

#[test]
fn a_dump_names_states_and_no_socket() {
    let query = Query {
        family: IPV6,
        protocol: TCP,
        states: LISTENING,
        info: false,
    };
    let request = dump(query);
    assert_eq!(request[6..8], [1, 3]);
    assert_eq!(request[16..24], [10, 6, 0, 0, 0, 4, 0, 0]);
    assert_eq!(request[24..], [0; 48]);
}

#[test]
fn errors_are_told_as_such() {
    let error = |code: i32| {
        let mut message = vec![36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend(code.to_ne_bytes());
        message.extend([0; 16]);
        messages(&message).collect::<Vec<_>>()
    };
    assert_eq!(error(-2), [Message::Error(2)]);
    assert_eq!(error(i32::MIN), [Message::Error(i32::MAX)]);
    assert_eq!(error(0), [Message::Done]);
}

#[test]
fn what_is_cut_off_is_malformed_or_lacks_what_was_cut() {
    let whole = bytes(CLIENT);
    for length in 1..whole.len() {
        let found: Vec<Message> = messages(&whole[..length]).collect();
        assert_eq!(found, [Message::Malformed], "{length} bytes");
    }
    // The message itself says that it is shorter: attributes are missing, the rest stands.
    for length in 88_u8..=255 {
        let mut short = whole.clone();
        short[0..4].copy_from_slice(&[length, 0, 0, 0]);
        let first = messages(&short).next();
        let Some(Message::Socket(entry)) = first else {
            panic!("{first:?}")
        };
        assert_eq!(entry.cookie, 11);
        assert_eq!(entry.sample, None, "{length} bytes hold no whole counts");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_or_last_for_ever(noise in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(messages(&noise).count() <= noise.len() / 16 + 1);
    }

    /// Answers with some bytes changed get further into the decoder than noise.
    #[test]
    fn no_damage_panics(changes in proptest::collection::vec((0_usize..540, any::<u8>()), 1..12)) {
        let mut answer = bytes(SERVER);
        answer.extend(bytes(V6ONLY));
        for (at, byte) in changes {
            answer[at] = byte;
        }
        prop_assert!(messages(&answer).count() <= answer.len());
    }
}
