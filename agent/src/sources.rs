//! Sources: each turns one part of the world into observations and sends them to the loop. They never import each other's
//! state and never an exporter.

pub mod addresses;
mod canaries;
pub mod cgroups;
pub mod cpu;
pub mod ebpf;
pub mod kube;
pub mod manifests;
pub mod memory;
pub mod objects;
pub mod processes;
pub(crate) mod sock_diag;
pub mod sockets;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plumbline_core::observation::{Fact, Observation};
use plumbline_core::time::Timestamp;
use tokio::sync::mpsc;

/// Observations between sources and the loop. The loop takes thousands a second; more than this waiting means it is stuck.
pub const CHANNEL_CAPACITY: usize = 8_192;

/// The way from a source to the loop: bounded, never blocking. Full means dropped and counted.
#[derive(Clone, Debug)]
pub struct Sink {
    sender: mpsc::Sender<Observation>,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    /// A sink and the end that the loop reads.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Observation>) {
        let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        (
            Self {
                sender,
                dropped: Arc::default(),
            },
            receiver,
        )
    }

    /// Sends a fact. `false` when it was dropped: counts must then be kept and sent again with the next ones.
    pub fn send(&self, at: Timestamp, fact: Fact) -> bool {
        let sent = self.sender.try_send(Observation { at, fact }).is_ok();
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// Observations dropped so far because the loop did not keep up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
