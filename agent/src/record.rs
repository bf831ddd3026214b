//! Observations to and from JSON lines: a header, then one line each. A recording is a complete bug report: it replays
//! without root, kernel or cluster.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use plumbline_core::observation::Observation;
use plumbline_core::settings::{CoreSettings, NodeIdentity};
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Evaluation};

/// Version of the format. A change that old recordings do not survive raises it.
pub const FORMAT: u32 = 1;

/// A recording ends here; the observations after it are counted as lost, and the agent runs on.
const RECORDING_BYTES_MAX: u64 = 4 << 30;

/// The first line of a recording: all that a replay needs besides observations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub plumbline_recording: u32,
    /// Who the node was, and which agent recorded it.
    pub node: NodeIdentity,
    /// Windows and limits in force.
    pub settings: CoreSettings,
    /// Time between two reports.
    pub export_interval: Duration,
    /// `/proc/sys/kernel/random/boot_id`: monotonic times of two recordings compare only within one boot.
    pub boot_id: Option<String>,
}

impl Header {
    /// The header of this agent on this boot.
    #[must_use]
    pub fn new(node: NodeIdentity, settings: CoreSettings, export_interval: Duration) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let boot_id = boot_id.map(|id| id.trim().to_owned());
        Self {
            plumbline_recording: FORMAT,
            node,
            settings,
            export_interval,
            boot_id,
        }
    }
}

/// A recording that cannot be written where it was asked for, or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadRecording(String);

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder {
    file: BufWriter<File>,
    bytes: u64,
    lost: u64,
}

impl Recorder {
    /// Creates the file, readable by its owner only: addresses, process paths and declarations are in it.
    ///
    /// # Errors
    ///
    /// The file cannot be created or written.
    pub fn create(path: &Path, header: &Header) -> anyhow::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let context = || BadRecording(format!("create the recording {}", path.display()));
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .with_context(context)?;
        let mut recorder = Self {
            file: BufWriter::new(file),
            bytes: 0,
            lost: 0,
        };
        recorder.line(header).with_context(context)?;
        Ok(recorder)
    }

    /// Writes one observation; what cannot be written is counted, and said once.
    pub fn write(&mut self, observation: &Observation) {
        // After a gap or a broken line nothing that follows would replay as it was.
        if self.lost > 0 {
            self.lost += 1;
            return;
        }
        let written = if self.bytes < RECORDING_BYTES_MAX {
            self.line(observation)
        } else {
            Err(anyhow::anyhow!(
                "the recording has reached {RECORDING_BYTES_MAX} bytes"
            ))
        };
        if let Err(error) = written {
            tracing::error!(error = %format!("{error:#}"), "observations are no longer recorded");
            self.lost = 1;
        }
    }

    /// Observations that could not be written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Hands everything to the kernel.
    pub fn flush(&mut self) {
        if let Err(error) = self.file.flush() {
            tracing::error!(%error, "the end of the recording could not be written");
        }
    }

    fn line(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let line = serde_json::to_vec(value)?;
        self.file.write_all(&line)?;
        self.file.write_all(b"\n")?;
        self.bytes += line.len() as u64 + 1;
        Ok(())
    }
}

/// Runs the core on a recording. Each evaluation goes to `each`; the engine as it is at the end comes back, with the time
/// of the last observation in it.
///
/// # Errors
///
/// The file cannot be read, or is no recording of this format: with the line.
pub fn replay(
    path: &Path,
    mut each: impl FnMut(&Evaluation) -> anyhow::Result<()>,
) -> anyhow::Result<Replayed> {
    let file = File::open(path)
        .with_context(|| BadRecording(format!("open the recording {}", path.display())))?;
    let mut lines = BufReader::new(file).lines().peekable();
    let first = lines
        .next()
        .transpose()
        .context("read the recording")?
        .unwrap_or_default();
    let header: Header = serde_json::from_str(&first).with_context(|| {
        let path = path.display();
        BadRecording(format!(
            "{path}: line 1 is not the header of a plumbline recording"
        ))
    })?;
    if header.plumbline_recording != FORMAT {
        let found = header.plumbline_recording;
        let path = path.display();
        bail!(BadRecording(format!(
            "{path}: format {found}; this agent replays format {FORMAT}"
        )));
    }
    let mut engine = Engine::new(&header, None);
    let mut last = plumbline_core::time::Timestamp::default();
    let mut number = 1_u64;
    while let Some(line) = lines.next() {
        number += 1;
        let line = line.context("read the recording")?;
        let observation: Observation = match serde_json::from_str(&line) {
            Ok(observation) => observation,
            // The agent was killed while it wrote.
            Err(error) if error.is_eof() && lines.peek().is_none() => break,
            Err(error) => {
                let path = path.display();
                let what = format!("{path}: line {number} is not an observation");
                return Err(error).context(BadRecording(what));
            }
        };
        last = last.max(observation.at);
        if let Some(evaluation) = engine.take(observation) {
            each(&evaluation)?;
        }
    }
    // The live node evaluates as it ends.
    if let Some(evaluation) = engine.catch_up() {
        each(&evaluation)?;
    }
    Ok(Replayed { engine, last })
}

/// Where a replay ended.
#[derive(Debug)]
pub struct Replayed {
    /// The engine after the last line.
    pub engine: Engine,
    /// Time of the latest observation.
    pub last: plumbline_core::time::Timestamp,
}
