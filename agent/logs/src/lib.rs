//! Container logs, at least once: the kubelet's files are the buffer, and the checkpoint follows the receiver's answers.
//!
//! In the order in which a line meets them:
//!
//! - [`source`]: names of directories and files (pure).
//! - [`select`]: which of them are read (pure).
//! - [`guard`]: opening them without being led elsewhere.
//! - [`watch`]: inotify, a hint.
//! - `file`, `container`: which file is which, through renames, compression, truncation, deletion.
//! - [`fairness`]: whose turn it is (pure).
//! - [`line`], [`timestamp`]: a line to its parts (pure).
//! - [`partial`]: parts to a record (pure).
//! - [`join`]: lines that are one message to one record, where asked for (pure).
//! - [`process`], [`redact`], [`severity`], [`limit`]: what the operator wants done with records (pure).
//! - [`otlp`], [`batch`]: records to a request (pure).
//! - [`sink`]: where requests go.
//! - [`offsets`]: answers to offsets that may be committed (pure).
//! - [`checkpoint`], [`store`]: those, to disk.
//! - [`tailer`]: the thread that does all this.
//! - [`stats`]: what it counts.

pub mod batch;
pub mod checkpoint;
mod clock;
mod container;
pub mod fairness;
mod fault;
mod file;
#[cfg(test)]
mod fuzz;
pub mod guard;
pub mod join;
pub mod limit;
pub mod line;
pub mod offsets;
pub mod otlp;
pub mod partial;
pub mod process;
pub mod redact;
pub mod select;
pub mod severity;
pub mod sink;
pub mod source;
pub mod stats;
pub mod store;
pub mod tailer;
pub mod timestamp;
pub mod watch;
