//! What procfs tells of one process's sockets. A node has thousands of descriptors, each looked at every 30 s: one system
//! call for each, and none where there is nothing to be found.

use std::io::{self, Read as _};

use procfs::ProcError;
use procfs::process::Process;
use rustix::fs::{Dir, readlinkat_raw};
use rustix::io::Errno;

/// Where a descriptor leads fits if it is a socket: `socket:[<inode>]`.
const TARGET_MAX: usize = 32;

/// Tells the inode of each socket that a process holds. What is closed meanwhile is left out.
///
/// # Errors
///
/// The process ended, or may not be looked at.
pub(super) fn each_socket(process: &Process, mut tell: impl FnMut(u64)) -> Result<(), ProcError> {
    let directory = process.open_relative("fd")?;
    for entry in Dir::read_from(&directory).map_err(io::Error::from)? {
        let entry = entry.map_err(io::Error::from)?;
        let mut target = [0_u8; TARGET_MAX];
        match readlinkat_raw(&directory, entry.file_name(), &mut target) {
            Ok(length) => target
                .get(..length)
                .and_then(inode)
                .into_iter()
                .for_each(&mut tell),
            // All others of the process would be denied as well.
            Err(error @ (Errno::ACCESS | Errno::PERM)) => return Err(io::Error::from(error).into()),
            Err(_) => {}
        }
    }
    Ok(())
}

fn inode(target: &[u8]) -> Option<u64> {
    let inode = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inode).ok()?.parse().ok()
}

/// Whether the process's network namespace has a UDP socket with a port. Most pods have none, and to be told so by the tables
/// of UDP makes the kernel look through those of all namespaces.
pub(super) fn has_udp(process: &Process) -> bool {
    let has = |file: &str, label: &str| -> Result<bool, ProcError> {
        let mut text = String::new();
        process.open_relative(file)?.read_to_string(&mut text)?;
        Ok(count(&text, label) != Some(0))
    };
    match has("net/sockstat6", "UDP6: inuse ") {
        // Not there without IPv6, and when the process has ended: then the other is not there either.
        Ok(false) | Err(ProcError::NotFound(_)) => {}
        Ok(true) | Err(_) => return true,
    }
    // If it cannot be read, the tables say why.
    has("net/sockstat", "UDP: inuse ").unwrap_or(true)
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

    use super::{count, each_socket, has_udp, inode};

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
    fn of_a_process_that_has_ended_nothing_is_concluded() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::new(child.id().try_into().unwrap()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(has_udp(&process), "the tables are asked, and fail");
        assert!(each_socket(&process, |_| {}).is_err());
    }

    #[test]
    fn this_process_holds_its_sockets_and_no_files() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = File::open("/proc/self/exe").unwrap();
        let this = Process::myself().unwrap();
        let mut held = Vec::new();
        each_socket(&this, |inode| held.push(inode)).unwrap();
        assert!(held.contains(&fstat(&socket).unwrap().st_ino));
        assert!(!held.contains(&file.metadata().unwrap().ino()));
        assert!(has_udp(&this));
    }
}
