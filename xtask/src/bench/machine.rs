//! The machine that the figures are from, and how quiet it was.

use std::fs;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    /// Model of the first CPU.
    pub(super) cpu: String,
    /// CPUs that are on line.
    pub(super) cpus: usize,
    /// `Linux 6.18.44` and so on.
    pub(super) kernel: String,
    /// Physical memory in MiB.
    pub(super) memory_mib: u64,
    /// The distribution.
    pub(super) system: String,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// Without procfs.
    pub(super) fn this() -> Result<Self> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let release = read("/proc/sys/kernel/osrelease")?;
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let memory = read("/proc/meminfo")?;
        let name = os
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Ok(Self {
            cpu: value(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("Linux {}", release.trim()),
            memory_mib: kib(&memory, "MemTotal").unwrap_or(0) / 1024,
            system: name.unwrap_or("unknown").trim_matches('"').to_owned(),
        })
    }
}

/// How busy the machine was since it was started, to be subtracted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Activity {
    /// Context switches of all CPUs.
    pub(super) switches: u64,
    /// Time that the hypervisor gave to others, in hundredths of a second of all CPUs.
    pub(super) steal_ticks: u64,
}

impl Activity {
    /// Now.
    ///
    /// # Errors
    /// Without procfs.
    pub(super) fn now() -> Result<Self> {
        let stat = read("/proc/stat")?;
        let column = |name: &str, column: usize| {
            let line = stat.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(column)?.parse().ok()
        };
        Ok(Self {
            switches: column("ctxt ", 1).context("/proc/stat has no ctxt")?,
            steal_ticks: column("cpu ", 8).unwrap_or(0),
        })
    }
}

/// Load average of the last minute.
pub(super) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(f64::NAN)
}

/// `ActiveOpens` and `PassiveOpens`: TCP connections that the namespace of a process opened and accepted.
///
/// # Errors
/// When the process is gone.
pub(super) fn tcp_opens(pid: u32) -> Result<(u64, u64)> {
    let text = read(&format!("/proc/{pid}/net/snmp"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let names = lines
        .next()
        .context("/proc/net/snmp names no TCP counters")?;
    let values = lines.next().context("/proc/net/snmp has no TCP counters")?;
    let count = |name: &str| {
        let mut pairs = names.split(' ').zip(values.split(' '));
        pairs
            .find(|(found, _)| *found == name)?
            .1
            .parse::<u64>()
            .ok()
    };
    let active = count("ActiveOpens").context("no ActiveOpens")?;
    Ok((active, count("PassiveOpens").context("no PassiveOpens")?))
}

/// Kibibytes after `name:` in a file such as `/proc/meminfo` or `/proc/<pid>/status`.
pub(super) fn kib(text: &str, name: &str) -> Option<u64> {
    value(text, name)?.strip_suffix(" kB")?.trim().parse().ok()
}

/// What follows `name` and a colon.
fn value(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    })
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

#[cfg(test)]
mod tests {
    use super::{Activity, kib, tcp_opens};

    #[test]
    fn figures_of_procfs() {
        assert_eq!(
            kib("VmRSS:\t  1234 kB\nVmHWM:\t 5 kB\n", "VmRSS"),
            Some(1234)
        );
        assert_eq!(kib("VmRSS: x\n", "VmRSS"), None);
        assert!(Activity::now().unwrap().switches > 0);
        let before = tcp_opens(std::process::id()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        drop(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let after = tcp_opens(std::process::id()).unwrap();
        assert!(
            after.0 > before.0 && after.1 > before.1,
            "{before:?} {after:?}"
        );
    }
}
