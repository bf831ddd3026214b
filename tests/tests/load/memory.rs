//! Memory of a process over time: its own, and what its eBPF maps take in the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often is looked.
const STEP: Duration = Duration::from_millis(50);

/// Watches the memory of a process from beside.
pub(crate) struct Watched {
    pid: u32,
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    pub(crate) fn start(pid: u32) -> Self {
        let (peak, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (peak_there, stop_there) = (Arc::clone(&peak), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stop_there.load(Ordering::Relaxed) {
                peak_there.fetch_max(anonymous_bytes(pid), Ordering::Relaxed);
                thread::sleep(STEP);
            }
        });
        Self {
            pid,
            peak,
            stop,
            thread: Some(thread),
        }
    }

    /// Most bytes of its own so far, and bytes of its maps now.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.peak.load(Ordering::Relaxed), map_bytes(self.pid))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// `RssAnon`: resident memory that no file backs. What a debug build's own file takes says nothing about the agent.
fn anonymous_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

/// `memlock` of each eBPF map that the process holds open, each once.
fn map_bytes(pid: u32) -> u64 {
    let mut maps = BTreeMap::new();
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the agent runs");
    for entry in entries.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    maps.values().sum()
}
