//! What processes of the host listen on in the node's own network: what complete scans find, each in place of the last.

use std::collections::{BTreeMap, BTreeSet};

use crate::declared::Transport;
use crate::observation::ListenerRow;
use crate::settings::{HOST_LISTENER_NAMES_MAX, HOST_LISTENERS_MAX};
use crate::snapshot::HostListenerView;
use crate::time::Timestamp;

/// Unit, protocol and port.
type Key = (String, Transport, u16);

/// At most [`HOST_LISTENERS_MAX`]; what a scan finds beyond is left out. Loopback is no exposure (trap 3).
#[derive(Clone, Debug, Default)]
pub(crate) struct HostListeners(BTreeMap<Key, HostListenerView>);

impl HostListeners {
    /// Takes what a complete scan found, by unit; returns how many sockets were left out.
    pub(crate) fn scanned(&mut self, rows: Vec<(String, ListenerRow)>, at: Timestamp) -> u64 {
        let before = std::mem::take(&mut self.0);
        let mut left_out = 0;
        for (unit, row) in rows {
            if row.address.to_canonical().is_loopback() {
                continue;
            }
            let key = (unit, row.transport, row.port);
            if self.0.len() >= HOST_LISTENERS_MAX && !self.0.contains_key(&key) {
                left_out += 1;
                continue;
            }
            let known = before.get(&key);
            let view = self
                .0
                .entry(key)
                .or_insert_with_key(|key| HostListenerView {
                    unit: key.0.clone(),
                    transport: key.1,
                    port: key.2,
                    addresses: BTreeSet::new(),
                    executables: BTreeSet::new(),
                    first_seen: known.map_or(at, |known| known.first_seen),
                    scans: known.map_or(0, |known| known.scans).saturating_add(1),
                });
            if view.addresses.len() < HOST_LISTENER_NAMES_MAX {
                view.addresses.insert(row.address);
            }
            let executables = row.holders.into_iter().filter_map(|one| one.executable);
            let room = HOST_LISTENER_NAMES_MAX.saturating_sub(view.executables.len());
            view.executables.extend(executables.take(room));
        }
        left_out
    }

    /// Sorted by unit, protocol and port.
    pub(crate) fn views(&self) -> Vec<HostListenerView> {
        self.0.values().cloned().collect()
    }
}

/// By what name a cgroup of the host is known: its outermost systemd service, else its first directory, since sessions and
/// scopes have other names each time.
pub(crate) fn unit(path: &str) -> String {
    let mut names = path.split('/').filter(|name| !name.is_empty());
    let service = names.clone().find(|name| name.ends_with(".service"));
    service.or_else(|| names.next()).unwrap_or("/").to_owned()
}

#[cfg(test)]
mod tests {
    use super::unit;

    #[test]
    fn a_unit_keeps_its_name() {
        assert_eq!(unit("/system.slice/ssh.service"), "ssh.service");
        assert_eq!(unit("/system.slice/docker.service/init"), "docker.service");
        assert_eq!(
            unit("/user.slice/user-0.slice/session-3.scope"),
            "user.slice"
        );
        assert_eq!(
            unit("/user.slice/user-0.slice/user@0.service/app.slice/x.service"),
            "user@0.service"
        );
        assert_eq!((unit("/"), unit("")), ("/".into(), "/".into()));
    }
}
