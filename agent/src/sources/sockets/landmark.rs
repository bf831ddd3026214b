//! Sockets of the agent's own, which nobody talks to: a scan that works finds them. They are never told.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

use plumbline_core::observation::ListenerRow;

/// Scans of the node in a row that miss one before it is said.
const MISSES: u32 = 2;

/// A listener and a UDP socket on loopback, for as long as this lives.
#[derive(Debug)]
pub struct Landmark {
    sockets: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    name: &'static str,
    inode: u64,
    misses: u32,
    _socket: Socket,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held, not used")]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Landmark {
    /// Opens them; one that cannot be opened is not missed. To be called before programs are attached, which would tell of it.
    #[must_use]
    pub fn open() -> Self {
        let loopback: [SocketAddr; 2] = [
            (Ipv4Addr::LOCALHOST, 0).into(),
            (Ipv6Addr::LOCALHOST, 0).into(),
        ];
        let tcp = TcpListener::bind(&loopback[..]).ok().and_then(|socket| {
            let inode = inode(&socket)?;
            Some(("TCP listener", inode, Socket::Tcp(socket)))
        });
        let udp = UdpSocket::bind(&loopback[..]).ok().and_then(|socket| {
            let inode = inode(&socket)?;
            Some(("UDP socket", inode, Socket::Udp(socket)))
        });
        let sockets = tcp.into_iter().chain(udp);
        let known = sockets.map(|(name, inode, socket)| Known {
            name,
            inode,
            misses: 0,
            _socket: socket,
        });
        Self {
            sockets: known.collect(),
        }
    }

    /// Takes them out of what a scan found, and notes which were there.
    pub(super) fn take(&mut self, rows: &mut Vec<ListenerRow>) {
        for known in &mut self.sockets {
            let before = rows.len();
            rows.retain(|row| row.inode != known.inode);
            known.misses = if rows.len() < before {
                0
            } else {
                known.misses + 1
            };
        }
    }

    /// The same of a scan that need not find them.
    pub(super) fn strip(&self, rows: &mut Vec<ListenerRow>) {
        rows.retain(|row| self.sockets.iter().all(|known| known.inode != row.inode));
    }

    /// Those that were missed too often.
    pub(super) fn missed(&self) -> Vec<&'static str> {
        let missed = self.sockets.iter().filter(|known| known.misses >= MISSES);
        missed.map(|known| known.name).collect()
    }
}

fn inode(socket: &impl AsFd) -> Option<u64> {
    Some(rustix::fs::fstat(socket).ok()?.st_ino)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::scan;
    use super::super::tables::Method;
    use super::Landmark;
    use crate::sources::cgroups::CgroupRoot;
    use crate::sources::processes::CgroupResolver;

    #[test]
    fn a_scan_finds_it_and_one_that_does_not_is_told_of() {
        let mut landmark = Landmark::open();
        let mut resolver = CgroupResolver::new(CgroupRoot {
            directory: "/sys/fs/cgroup".into(),
            kernel_path: None,
        });
        for method in [Method::Procfs, Method::SockDiag] {
            let found = scan::scan(Path::new("/proc"), &mut resolver, None, method).unwrap();
            let (mut rows, mut none) = (found.rows, Vec::new());
            let all = rows.len();
            landmark.take(&mut rows);
            assert_eq!(rows.len() + 2, all, "both are taken out");
            for missed in [&[][..], &["TCP listener", "UDP socket"]] {
                landmark.take(&mut none);
                assert_eq!(landmark.missed(), missed);
            }
        }
    }
}
