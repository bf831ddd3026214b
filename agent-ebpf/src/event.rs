//! Records of the ring: rare facts that the agent wants at once.

use core::net::IpAddr;

use crate::flow::address;

/// Bytes of the ring: about 900 cgroup records or 9,000 listener records, between two wake-ups of the agent. Full: the
/// record is dropped and counted, and the next scan finds what it told.
pub const RING_BYTES: u32 = 512 * 1_024;

/// Bytes of a cgroup path in a record, with the NUL. Kubernetes paths have about 230. A longer one is cut, which
/// [`Event::Cgroup`] tells.
pub const PATH_CAPACITY: usize = 512;

/// [`ListenerRecord::kind`]: a socket entered LISTEN.
pub const LISTENER_OPENED: u32 = 1;
/// [`ListenerRecord::kind`]: a socket left LISTEN.
pub const LISTENER_CLOSED: u32 = 2;
/// [`CgroupRecord::kind`]: a directory is being made; it may not be there yet.
pub const CGROUP_MADE: u32 = 3;
/// [`CgroupRecord::kind`]: a directory was removed.
pub const CGROUP_REMOVED: u32 = 4;
/// [`ListenerRecord::kind`]: a UDP socket sent what a client's request or a server's answer may be. Only the owner is told.
pub const UDP_UNCLEAR: u32 = 5;

/// [`ListenerRecord::protocol`]: `IPPROTO_TCP`.
pub const PROTOCOL_TCP: u8 = 6;
/// [`ListenerRecord::protocol`]: `IPPROTO_UDP`. The socket was bound to a port that its program chose, or closed.
pub const PROTOCOL_UDP: u8 = 17;

/// A listening socket came or went, or its role is not clear.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerRecord {
    /// [`LISTENER_OPENED`], [`LISTENER_CLOSED`] or [`UDP_UNCLEAR`].
    pub kind: u32,
    /// Local port.
    pub port: u16,
    /// One of the `FAMILY_` constants of [`crate::flow`].
    pub family: u8,
    /// [`PROTOCOL_TCP`] or [`PROTOCOL_UDP`].
    pub protocol: u8,
    /// Local address, as in [`crate::flow::FlowKey::peer`].
    pub address: [u32; 4],
    /// Container cgroup of the socket's creator.
    pub owner: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

const _: () = assert!(size_of::<ListenerRecord>() == 48);

/// A cgroup directory came or went, in any hierarchy: the agent finds out whether it is one of ours.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupRecord {
    /// [`CGROUP_MADE`] or [`CGROUP_REMOVED`].
    pub kind: u32,
    /// Bytes of the path that are set, with the NUL.
    pub length: u32,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Path from the root of its hierarchy.
    pub path: [u8; PATH_CAPACITY],
}

const _: () = assert!(size_of::<CgroupRecord>() == 16 + PATH_CAPACITY);

/// A decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A listening socket came or went.
    Listener {
        /// It came.
        opened: bool,
        /// It is a UDP socket, not a TCP one.
        udp: bool,
        /// Container cgroup of the socket's creator.
        owner: u64,
        /// Local address.
        address: IpAddr,
        /// Local port.
        port: u16,
        /// The socket's cookie.
        cookie: u64,
        /// When, in nanoseconds of `CLOCK_MONOTONIC`.
        at_ns: u64,
    },
    /// Who is client and who server cannot be told without a look at what the container receives.
    Unclear {
        /// Container cgroup of the socket's creator.
        owner: u64,
    },
    /// A cgroup directory came or went.
    Cgroup {
        /// It came.
        made: bool,
        /// Path from the root of its hierarchy; `None` when it did not fit or is no text.
        path: Option<&'a str>,
        /// When, in nanoseconds of `CLOCK_MONOTONIC`.
        at_ns: u64,
    },
}

impl<'a> Event<'a> {
    /// Decodes a record of the ring. `None` for anything that no program of this version writes.
    #[must_use]
    pub fn decode(record: &'a [u8]) -> Option<Self> {
        let kind = u32::from_ne_bytes(field(record, 0)?);
        match kind {
            LISTENER_OPENED | LISTENER_CLOSED => Self::listener(kind == LISTENER_OPENED, record),
            UDP_UNCLEAR if record.len() == size_of::<ListenerRecord>() => Some(Self::Unclear {
                owner: u64::from_ne_bytes(field(record, 24)?),
            }),
            CGROUP_MADE | CGROUP_REMOVED => Self::cgroup(kind == CGROUP_MADE, record),
            _ => None,
        }
    }

    fn listener(opened: bool, record: &'a [u8]) -> Option<Self> {
        if record.len() != size_of::<ListenerRecord>() {
            return None;
        }
        let [family, protocol] = field(record, 6)?;
        if !matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP) {
            return None;
        }
        Some(Self::Listener {
            opened,
            udp: protocol == PROTOCOL_UDP,
            port: u16::from_ne_bytes(field(record, 4)?),
            address: address(family, words(record, 8)?)?,
            owner: u64::from_ne_bytes(field(record, 24)?),
            cookie: u64::from_ne_bytes(field(record, 32)?),
            at_ns: u64::from_ne_bytes(field(record, 40)?),
        })
    }

    fn cgroup(made: bool, record: &'a [u8]) -> Option<Self> {
        if record.len() != size_of::<CgroupRecord>() {
            return None;
        }
        let length = usize::try_from(u32::from_ne_bytes(field(record, 4)?)).ok()?;
        let at_ns = u64::from_ne_bytes(field(record, 8)?);
        let fits = length < PATH_CAPACITY;
        let bytes = record.get(16..)?.get(..length.checked_sub(1)?)?;
        let path = core::str::from_utf8(bytes)
            .ok()
            .filter(|path| fits && path.starts_with('/'));
        Some(Self::Cgroup { made, path, at_ns })
    }
}

/// Four words at an offset.
fn words(record: &[u8], offset: usize) -> Option<[u32; 4]> {
    let mut words = [0; 4];
    for (index, word) in words.iter_mut().enumerate() {
        *word = u32::from_ne_bytes(field(record, offset + 4 * index)?);
    }
    Some(words)
}

/// `N` bytes at an offset.
fn field<const N: usize>(record: &[u8], offset: usize) -> Option<[u8; N]> {
    record.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::{
        CGROUP_MADE, CGROUP_REMOVED, CgroupRecord, Event, LISTENER_CLOSED, LISTENER_OPENED,
        ListenerRecord, PATH_CAPACITY, UDP_UNCLEAR,
    };

    /// The record as the kernel side lays it out in memory.
    fn bytes<T: Copy>(record: &T) -> Vec<u8> {
        let start = std::ptr::from_ref(record).cast::<u8>();
        // SAFETY: both records are repr(C) without padding, so that all their bytes are initialised.
        unsafe { std::slice::from_raw_parts(start, size_of::<T>()) }.to_vec()
    }

    fn listener(kind: u32) -> ListenerRecord {
        let (family, address) = crate::flow::words("127.0.0.1".parse().unwrap());
        ListenerRecord {
            kind,
            port: 8_080,
            family,
            protocol: super::PROTOCOL_TCP,
            address,
            owner: 77,
            cookie: 5,
            at_ns: 9,
        }
    }

    fn cgroup(kind: u32, path: &[u8], length: u32) -> CgroupRecord {
        let mut record = CgroupRecord {
            kind,
            length,
            at_ns: 3,
            path: [0; PATH_CAPACITY],
        };
        record.path[..path.len()].copy_from_slice(path);
        record
    }

    #[test]
    fn listeners_decode() {
        for (kind, opened) in [(LISTENER_OPENED, true), (LISTENER_CLOSED, false)] {
            let want = Event::Listener {
                opened,
                udp: false,
                owner: 77,
                address: "127.0.0.1".parse().unwrap(),
                port: 8_080,
                cookie: 5,
                at_ns: 9,
            };
            assert_eq!(Event::decode(&bytes(&listener(kind))), Some(want));
        }
    }

    #[test]
    fn whose_role_is_not_clear_decodes() {
        let record = ListenerRecord {
            family: crate::flow::FAMILY_NONE,
            ..listener(UDP_UNCLEAR)
        };
        let record = bytes(&record);
        assert_eq!(Event::decode(&record), Some(Event::Unclear { owner: 77 }));
        for length in 0..record.len() {
            assert_eq!(Event::decode(&record[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn cgroup_paths_decode() {
        let made = bytes(&cgroup(CGROUP_MADE, b"/a/b", 5));
        assert_eq!(
            Event::decode(&made),
            Some(Event::Cgroup {
                made: true,
                path: Some("/a/b"),
                at_ns: 3
            })
        );
        let removed = bytes(&cgroup(CGROUP_REMOVED, b"/a", 3));
        assert_eq!(
            Event::decode(&removed),
            Some(Event::Cgroup {
                made: false,
                path: Some("/a"),
                at_ns: 3
            })
        );
    }

    #[test]
    fn a_path_that_was_cut_or_is_no_text_is_told_as_such() {
        let full = [b'/'; PATH_CAPACITY - 1];
        for (path, length) in [(&full[..], 512), (b"/\xff", 3), (b"a/b", 4), (b"", 1)] {
            let record = bytes(&cgroup(CGROUP_MADE, path, length));
            assert_eq!(
                Event::decode(&record),
                Some(Event::Cgroup {
                    made: true,
                    path: None,
                    at_ns: 3
                })
            );
        }
    }

    #[test]
    fn nonsense_is_none_at_every_length() {
        let good = bytes(&listener(LISTENER_OPENED));
        for length in 0..good.len() {
            assert_eq!(Event::decode(&good[..length]), None, "{length} bytes");
        }
        let path = bytes(&cgroup(CGROUP_MADE, b"/a", 3));
        for length in 0..path.len() {
            assert_eq!(Event::decode(&path[..length]), None, "{length} bytes");
        }
        assert_eq!(Event::decode(&bytes(&listener(9))), None, "unknown kind");
        assert_eq!(
            Event::decode(&bytes(&ListenerRecord {
                family: 10,
                ..listener(1)
            })),
            None,
            "unknown family"
        );
        assert_eq!(
            Event::decode(&bytes(&cgroup(CGROUP_MADE, b"/a", 0))),
            None,
            "no length"
        );
        assert_eq!(
            Event::decode(&bytes(&cgroup(CGROUP_MADE, b"/a", u32::MAX))),
            None,
            "length beyond the record"
        );
    }

    #[test]
    fn offsets_of_the_decoder_are_those_of_the_struct() {
        let offsets = [
            offset_of!(ListenerRecord, port),
            offset_of!(ListenerRecord, family),
            offset_of!(ListenerRecord, address),
            offset_of!(ListenerRecord, owner),
            offset_of!(ListenerRecord, cookie),
            offset_of!(ListenerRecord, at_ns),
        ];
        assert_eq!(offsets, [4, 6, 8, 24, 32, 40]);
        assert_eq!(
            [
                offset_of!(CgroupRecord, length),
                offset_of!(CgroupRecord, path)
            ],
            [4, 16]
        );
    }
}
