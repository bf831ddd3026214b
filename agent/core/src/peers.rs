//! Names for addresses: what the far end of a flow is called, as far as the declared side of this node tells.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::declared::Declared;
use crate::snapshot::{Peer, PeerKind};

/// Addresses that a name is known for. Built once for each [`Declared`].
///
/// Without one (`PeerTable::default()`) nothing that could be a pod or a Service is named: a private address is then
/// `unresolved`, never `external`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerTable {
    declared: bool,
    /// `unresolved` where one address means several things.
    named: BTreeMap<IpAddr, Peer>,
}

impl PeerTable {
    /// The names that a declared side gives.
    ///
    /// Left out are pods that have finished (their address is free for others). The address of a hostNetwork pod is the
    /// node's and every such pod's: it is not named after any of them.
    #[must_use]
    pub fn new(declared: &Declared) -> Self {
        let mut table = Self {
            declared: true,
            named: BTreeMap::new(),
        };
        for service in &declared.services {
            for ip in &service.cluster_ips {
                table.add(
                    *ip,
                    peer(PeerKind::Service, Some((&service.namespace, &service.name))),
                );
            }
        }
        for pod in declared.pods.iter().filter(|pod| !pod.finished) {
            let peer = if pod.host_network {
                peer(PeerKind::Unresolved, None)
            } else {
                peer(PeerKind::Workload, Some((&pod.namespace, &pod.owner.name)))
            };
            for ip in &pod.ips {
                table.add(*ip, peer.clone());
            }
        }
        table
    }

    /// What the address is called.
    #[must_use]
    pub fn name(&self, address: IpAddr) -> Peer {
        let address = address.to_canonical();
        if address.is_loopback() {
            return peer(PeerKind::Loopback, None);
        }
        if METADATA.contains(&address) {
            return external("metadata");
        }
        if let Some(peer) = self.named.get(&address) {
            return peer.clone();
        }
        match (is_private(address), self.declared) {
            _ if address.is_unspecified() => peer(PeerKind::Unresolved, None),
            (true, false) => peer(PeerKind::Unresolved, None),
            (true, true) => external("private"),
            (false, _) => external("public"),
        }
    }

    /// Two different owners of one address: the watch is behind, so neither name may be used.
    fn add(&mut self, address: IpAddr, peer: Peer) {
        self.named
            .entry(address.to_canonical())
            .and_modify(|known| {
                if *known != peer {
                    *known = self::peer(PeerKind::Unresolved, None);
                }
            })
            .or_insert(peer);
    }
}

/// Addresses at which clouds serve instance metadata, credentials among it.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
];

/// RFC 1918, RFC 6598 (shared address space, which some CNIs give to pods), link-local and RFC 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            v4.is_private() || v4.is_link_local() || (first == 100 && (64..128).contains(&second))
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

fn external(class: &str) -> Peer {
    Peer {
        kind: PeerKind::External,
        namespace: None,
        name: Some(class.to_owned()),
    }
}

fn peer(kind: PeerKind, name: Option<(&String, &String)>) -> Peer {
    Peer {
        kind,
        namespace: name.map(|(namespace, _)| namespace.clone()),
        name: name.map(|(_, name)| name.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::PeerTable;
    use crate::declared::{Declared, DeclaredPod, DeclaredService, WorkloadRef};

    fn pod(owner: &str, ips: &[&str]) -> DeclaredPod {
        DeclaredPod {
            namespace: "shop".into(),
            name: format!("{owner}-1"),
            owner: WorkloadRef {
                kind: "Deployment".into(),
                name: owner.into(),
            },
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..DeclaredPod::default()
        }
    }

    fn service(name: &str, ips: &[&str]) -> DeclaredService {
        DeclaredService {
            namespace: "shop".into(),
            name: name.into(),
            cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..DeclaredService::default()
        }
    }

    fn table() -> PeerTable {
        let pods = vec![
            pod("web", &["10.0.0.9", "fd12::9"]),
            // Two replicas may not share an address, but two owners of one must not name each other's traffic.
            pod("old", &["10.0.0.10"]),
            pod("new", &["10.0.0.10"]),
            DeclaredPod {
                finished: true,
                ..pod("job", &["10.0.0.11"])
            },
            DeclaredPod {
                host_network: true,
                ..pod("proxy", &["192.0.2.10"])
            },
            DeclaredPod {
                host_network: true,
                ..pod("agent", &["192.0.2.10"])
            },
        ];
        PeerTable::new(&Declared {
            pods: pods.into_iter().map(Arc::new).collect(),
            services: vec![
                service("api", &["10.96.0.1", "fd96::1"]),
                service("headless", &[]),
            ],
            ..Declared::default()
        })
    }

    fn check(table: &PeerTable, address: &str, expected: &str) {
        let peer = table.name(address.parse::<IpAddr>().unwrap());
        let parts = [
            Some(peer.kind.as_str().to_owned()),
            peer.namespace,
            peer.name,
        ];
        let text: Vec<String> = parts.into_iter().flatten().collect();
        assert_eq!(text.join(" "), expected, "{address}");
    }

    #[test]
    fn addresses_have_names() {
        for (address, expected) in [
            ("10.0.0.9", "workload shop web"),
            ("::ffff:10.0.0.9", "workload shop web"),
            ("fd12::9", "workload shop web"),
            ("10.0.0.10", "unresolved"),
            ("10.0.0.11", "external private"),
            ("192.0.2.10", "unresolved"),
            ("10.96.0.1", "service shop api"),
            ("fd96::1", "service shop api"),
            ("127.0.0.1", "loopback"),
            ("127.9.9.9", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("169.254.169.254", "external metadata"),
            ("fd00:ec2::254", "external metadata"),
            ("10.0.0.12", "external private"),
            ("172.16.0.1", "external private"),
            ("172.32.0.1", "external public"),
            ("192.168.1.1", "external private"),
            ("100.64.0.1", "external private"),
            ("100.63.255.255", "external public"),
            ("100.128.0.0", "external public"),
            ("169.254.20.10", "external private"),
            ("fe80::1", "external private"),
            ("fd12::10", "external private"),
            ("8.8.8.8", "external public"),
            ("2001:4860:4860::8888", "external public"),
            ("0.0.0.0", "unresolved"),
            ("::", "unresolved"),
        ] {
            check(&table(), address, expected);
        }
    }

    #[test]
    fn without_a_declared_side_a_private_address_may_be_a_pod() {
        for (address, expected) in [
            ("10.0.0.9", "unresolved"),
            ("fd12::9", "unresolved"),
            ("8.8.8.8", "external public"),
            ("169.254.169.254", "external metadata"),
            ("127.0.0.1", "loopback"),
        ] {
            check(&PeerTable::default(), address, expected);
        }
    }
}
