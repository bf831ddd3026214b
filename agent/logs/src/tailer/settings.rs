//! What the reader is told, and the defaults.

use std::path::PathBuf;
use std::time::Duration;

use crate::join::Rule;
use crate::process::Process;
use crate::select::Select;

/// What the reader is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory of the pods' logs.
    pub root: PathBuf,
    /// Where the checkpoint lives; `None`: each start begins with the oldest line on disk.
    pub state: Option<PathBuf>,
    /// Bytes of a request before compression. A single longer record is sent alone.
    pub batch_bytes: usize,
    /// Requests that may be unanswered.
    pub in_flight_max: usize,
    /// Bytes of a record; longer ones are cut.
    pub line_bytes_max: usize,
    /// Bytes that the unfinished lines of all containers may hold.
    pub partial_bytes_max: usize,
    /// How long a record waits for its batch to fill.
    pub linger: Duration,
    /// Between two looks at all directories.
    pub scan_interval: Duration,
    /// Between two checkpoints.
    pub checkpoint_interval: Duration,
    /// Bytes of deleted files that are kept open to be read.
    pub held_bytes_max: u64,
    /// How long a deleted file is kept open.
    pub held_time_max: Duration,
    /// How long answers are waited for at the end.
    pub drain: Duration,
    /// Pods that are not read, by UID: the agent's own.
    pub exclude_uids: Vec<String>,
    /// Which containers are read.
    pub select: Select,
    /// What is done with each record.
    pub process: Process,
    /// Which lines are joined to one record; `None`: none.
    pub join: Option<Rule>,
    /// Bytes that a pod may log in a second, in the long run; what is more is dropped and counted.
    pub pod_bytes_per_second: Option<u64>,
}

impl Settings {
    /// The defaults, for this directory.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            state: None,
            batch_bytes: 1 << 20,
            in_flight_max: 4,
            line_bytes_max: 1 << 20,
            partial_bytes_max: 8 << 20,
            linger: Duration::from_secs(1),
            scan_interval: Duration::from_secs(1),
            checkpoint_interval: Duration::from_secs(1),
            held_bytes_max: 1 << 30,
            held_time_max: Duration::from_mins(10),
            drain: Duration::from_secs(3),
            exclude_uids: Vec::new(),
            select: Select::default(),
            process: Process::default(),
            join: None,
            pod_bytes_per_second: None,
        }
    }
}
