//! What an address tells by itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::snapshot::{Peer, PeerKind};

/// Addresses at which clouds serve instance metadata, credentials among it: most clouds, AWS over IPv6, Google over IPv6,
/// Alibaba.
pub(crate) const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

/// Kinds of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The same network namespace.
    Loopback,
    /// The cloud's metadata service.
    Metadata,
    /// No address of anybody: unspecified, multicast, broadcast.
    Nobody,
    /// 169.254.0.0/16 and fe80::/10: never a pod's, and never routed.
    LinkLocal,
    /// RFC 1918, RFC 6598 (shared address space, which some CNIs give to pods) and RFC 4193.
    Private,
    /// All others.
    Public,
}

impl Class {
    /// The class of an address that is no IPv4-mapped one.
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_loopback() {
            Self::Loopback
        } else if METADATA.contains(&address) {
            Self::Metadata
        } else if address.is_unspecified() || address.is_multicast() {
            Self::Nobody
        } else {
            match address {
                IpAddr::V4(v4) => Self::of_v4(v4),
                IpAddr::V6(v6) if v6.is_unicast_link_local() => Self::LinkLocal,
                IpAddr::V6(v6) if v6.is_unique_local() => Self::Private,
                IpAddr::V6(_) => Self::Public,
            }
        }
    }

    fn of_v4(v4: Ipv4Addr) -> Self {
        let [first, second, ..] = v4.octets();
        if v4.is_broadcast() {
            Self::Nobody
        } else if v4.is_link_local() {
            Self::LinkLocal
        } else if v4.is_private() || (first == 100 && (64..128).contains(&second)) {
            Self::Private
        } else {
            Self::Public
        }
    }

    /// The word by which an address without a name of its own is told.
    const fn word(self) -> Option<&'static str> {
        match self {
            Self::Metadata => Some("metadata"),
            Self::LinkLocal | Self::Private => Some("private"),
            Self::Public => Some("public"),
            Self::Loopback | Self::Nobody => None,
        }
    }
}

/// Somebody outside of the cluster, by class.
pub(super) fn external(class: Class) -> Peer {
    peer(PeerKind::External, None, class.word())
}

/// Somebody who cannot be named, by class.
pub(super) fn unresolved(class: Class) -> Peer {
    peer(PeerKind::Unresolved, None, class.word())
}

/// A peer.
pub(super) fn peer(kind: PeerKind, namespace: Option<&str>, name: Option<&str>) -> Peer {
    Peer {
        kind,
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
    }
}

/// The part of an address that neighbours share: a /16 of IPv4, a /48 of IPv6 (what a site is given).
pub(super) fn neighbourhood(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(u32::from(v4) >> 16),
        // Above every IPv4 prefix: 2^16 of those at most, and no IPv6 address in use begins with so many zeros.
        IpAddr::V6(v6) => u64::try_from(u128::from(v6) >> 80).unwrap_or(u64::MAX) | 1 << 48,
    }
}
