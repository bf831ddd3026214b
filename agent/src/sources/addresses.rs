//! The addresses of the node itself, from procfs: those of the network namespace of process 1.
//!
//! From there and not by netlink: `getifaddrs` tells of the agent's own namespace, which is not the node's when the agent
//! runs as a pod, and entering another takes `CAP_SYS_ADMIN`. Reading these files takes no right at all. IPv4 comes from the
//! routing table (`fib_trie`, where each address is a route `/32 host LOCAL`, whatever interface has it), IPv6 from
//! `if_inet6`. Formats: <https://github.com/torvalds/linux/blob/v5.10/net/ipv4/fib_trie.c#L2713>,
//! <https://github.com/torvalds/linux/blob/v5.10/net/ipv6/addrconf.c#L4306>.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use plumbline_core::observation::{Health, ProbeStatus};

/// Name of the probe.
pub const PROBE: &str = "peers.node_addresses";

/// Bytes read of one file. A node of a hundred pods has some 30 KiB; one that holds the routes of the Internet has more than
/// this, and its own addresses may then be missing.
const BYTES_MAX: u64 = 4 << 20;

/// Addresses kept. IPVS gives every Service's to the node.
const ADDRESSES_MAX: usize = 16_384;

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Loopback addresses are not among them.
    pub all: BTreeSet<IpAddr>,
    /// Some may be missing.
    pub cut: bool,
}

/// Reads them.
///
/// # Errors
///
/// The routing table cannot be read. A kernel without IPv6 is no error.
pub fn read(proc_root: &Path) -> io::Result<Addresses> {
    let net = proc_root.join("1/net");
    let mut addresses = Addresses::default();
    addresses.lines(&net.join("fib_trie"), &mut FibTrie::default())?;
    match addresses.lines(&net.join("if_inet6"), &mut IfInet6) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(addresses),
    }
}

/// How the probe is after a reading.
#[must_use]
pub fn status(read: &io::Result<Addresses>) -> ProbeStatus {
    let reason = match read {
        Ok(addresses) if addresses.cut => {
            let limit = BYTES_MAX >> 20;
            Some(format!(
                "the node has more than {ADDRESSES_MAX} addresses or {limit} MiB of routes: peers on it may stay unresolved"
            ))
        }
        Ok(_) => None,
        Err(error) => Some(format!(
            "1/net of --proc-root cannot be read: {error}; peers on the node stay unresolved"
        )),
    };
    let health = if reason.is_some() {
        Health::Broken
    } else {
        Health::Ok
    };
    ProbeStatus {
        probe: PROBE.into(),
        health,
        reason,
    }
}

/// A line of a file to an address.
trait Format {
    fn address(&mut self, line: &str) -> Option<IpAddr>;
}

/// `|-- 192.0.2.2`, and below it what is known of it.
#[derive(Default)]
struct FibTrie {
    leaf: Option<Ipv4Addr>,
}

impl Format for FibTrie {
    fn address(&mut self, line: &str) -> Option<IpAddr> {
        let line = line.trim();
        if let Some(leaf) = line.strip_prefix("|-- ") {
            self.leaf = leaf.parse().ok();
            return None;
        }
        let local = line.starts_with("/32 ") && line.ends_with(" LOCAL");
        self.leaf.filter(|_| local).map(IpAddr::V4)
    }
}

/// 32 hex digits, and five more fields.
struct IfInet6;

impl Format for IfInet6 {
    fn address(&mut self, line: &str) -> Option<IpAddr> {
        let digits = line.split_ascii_whitespace().next()?;
        let bits = u128::from_str_radix(digits, 16).ok();
        bits.filter(|_| digits.len() == 32)
            .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
    }
}

impl Addresses {
    fn lines(&mut self, path: &Path, format: &mut impl Format) -> io::Result<()> {
        let mut left = BufReader::new(File::open(path)?.take(BYTES_MAX));
        let mut line = String::new();
        while left.read_line(&mut line)? > 0 {
            if let Some(address) = format
                .address(&line)
                .filter(|address| !address.is_loopback())
            {
                if self.all.len() >= ADDRESSES_MAX {
                    self.cut = true;
                    return Ok(());
                }
                self.all.insert(address);
            }
            line.clear();
        }
        self.cut |= left.into_inner().limit() == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::IpAddr;
    use std::path::Path;

    use plumbline_core::observation::Health;

    use super::{BYTES_MAX, read, status};

    const FIB_TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
     +-- 10.244.0.0/24 2 0 2
        |-- 10.244.0.0
           /24 link UNICAST
        |-- 10.244.0.1
           /32 link BROADCAST
           /32 host LOCAL
        |-- 10.244.0.7
           /32 link UNICAST
Local:
        |-- 192.0.2.10
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
";

    const IF_INET6: &str = "\
fe800000000000000a0027fffe4ec31c 02 40 20 80   enp0s3
20010db8000000000000000000000010 02 40 00 80   enp0s3
00000000000000000000000000000001 01 80 10 80       lo
";

    fn net(files: &[(&str, &str)]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir_all(proc.path().join("1/net")).unwrap();
        for (name, text) in files {
            fs::write(proc.path().join("1/net").join(name), text).unwrap();
        }
        proc
    }

    fn told(proc: &Path) -> Vec<String> {
        let all = read(proc).unwrap().all;
        all.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn addresses_of_both_families_but_for_loopback() {
        let both = net(&[("fib_trie", FIB_TRIE), ("if_inet6", IF_INET6)]);
        let expected = [
            "10.244.0.1",
            "192.0.2.10",
            "2001:db8::10",
            "fe80::a00:27ff:fe4e:c31c",
        ];
        assert_eq!(told(both.path()), expected);
        let without_v6 = net(&[("fib_trie", FIB_TRIE)]);
        assert_eq!(told(without_v6.path()), expected[..2]);
    }

    #[test]
    fn what_cannot_be_read_is_not_empty() {
        let nothing = net(&[]);
        assert!(read(nothing.path()).is_err());
        let verdict = status(&read(nothing.path()));
        assert_eq!(verdict.health, Health::Broken);
        let long = FIB_TRIE.repeat(usize::try_from(BYTES_MAX).unwrap() / FIB_TRIE.len() + 1);
        let long = net(&[("fib_trie", &long)]);
        let read = read(long.path());
        assert!(read.as_ref().unwrap().cut);
        assert_eq!(status(&read).health, Health::Broken);
    }

    /// What is read can be bound to, which the kernel allows for addresses of the namespace only.
    #[test]
    fn the_kernel_agrees() {
        let proc = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc/self", proc.path().join("1")).unwrap();
        let of_own_namespace = read(proc.path()).unwrap().all;
        // A link-local address is bound to together with an interface.
        let global = |address: &&IpAddr| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        };
        for address in of_own_namespace.iter().filter(global) {
            let bound = std::net::UdpSocket::bind((*address, 0));
            assert!(bound.is_ok(), "{address}: {bound:?}");
        }
    }
}
