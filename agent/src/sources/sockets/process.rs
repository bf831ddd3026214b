//! What procfs tells of one process's sockets. A node has thousands of descriptors, each looked at every 30 s: one system
//! call for each, and none where there is nothing to be found.

use std::io::{self, Read as _};

use procfs::ProcError;
use procfs::process::Process;
use rustix::fs::{Dir, readlinkat_raw};
use rustix::io::Errno;

/// Where a descriptor leads fits if it is a socket: `socket:[<inode>]`.
const TARGET_MAX: usize = 32;

/// Inodes of the sockets that a process holds. What is closed while they are read is left out.
///
/// # Errors
///
/// The process ended, or may not be looked at.
pub(super) fn sockets(process: &Process) -> Result<Vec<u64>, ProcError> {
    let directory = process.open_relative("fd")?;
    let mut found = Vec::new();
    for entry in Dir::read_from(&directory).map_err(io::Error::from)? {
        let entry = entry.map_err(io::Error::from)?;
        let mut target = [0_u8; TARGET_MAX];
        match readlinkat_raw(&directory, entry.file_name(), &mut target) {
            Ok(length) => found.extend(target.get(..length).and_then(inode)),
            // All others of the process would be denied as well.
            Err(error @ (Errno::ACCESS | Errno::PERM)) => return Err(io::Error::from(error).into()),
            Err(_) => {}
        }
    }
    Ok(found)
}

fn inode(target: &[u8]) -> Option<u64> {
    let inode = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inode).ok()?.parse().ok()
}

/// Whether the process's network namespace has a UDP socket with a port. Most pods have none, and to be told so by the tables
/// of UDP makes the kernel look through those of all namespaces.
pub(super) fn has_udp(process: &Process) -> bool {
    // Without IPv6 there is no second file.
    let files = [
        ("net/sockstat", "UDP: inuse "),
        ("net/sockstat6", "UDP6: inuse "),
    ];
    files.iter().any(|(file, label)| {
        let mut text = String::new();
        let read = process.open_relative(file);
        let read = read.and_then(|mut file| Ok(file.read_to_string(&mut text)?));
        match read {
            Ok(_) => count(&text, label) != Some(0),
            Err(ProcError::NotFound(_)) => false,
            // The tables say why.
            Err(_) => true,
        }
    })
}

fn count(sockstat: &str, label: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix(label))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::UdpSocket;
    use std::os::unix::fs::MetadataExt as _;

    use procfs::process::Process;
    use rustix::fs::fstat;

    use super::{count, has_udp, inode, sockets};

    #[test]
    fn a_socket_is_told_from_other_descriptors() {
        assert_eq!(inode(b"socket:[4294967296]"), Some(1 << 32));
        for other in [
            &b"/dev/null"[..],
            b"anon_inode:[eventpoll]",
            b"socket:[12",
            b"socket:[x]",
            b"",
        ] {
            assert_eq!(inode(other), None);
        }
    }

    #[test]
    fn the_line_of_one_protocol_is_read() {
        let text =
            "sockets: used 12\nTCP: inuse 1 orphan 0\nUDP: inuse 7 mem 0\nUDPLITE: inuse 0\n";
        assert_eq!(count(text, "UDP: inuse "), Some(7));
        assert_eq!(count(text, "UDP6: inuse "), None);
    }

    #[test]
    fn this_process_holds_its_sockets_and_no_files() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = File::open("/proc/self/exe").unwrap();
        let this = Process::myself().unwrap();
        let held = sockets(&this).unwrap();
        assert!(held.contains(&fstat(&socket).unwrap().st_ino));
        assert!(!held.contains(&file.metadata().unwrap().ino()));
        assert!(has_udp(&this));
    }
}
