//! Ctrl-C and SIGTERM end a long command in order: they set a flag, waiting looks at it, and everything started is stopped on the way out.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on the signals set the flag. The second one ends the process at once.
pub(crate) fn watch() -> Result<()> {
    let flag = Arc::clone(INTERRUPTED.get_or_init(Arc::default));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let second =
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag));
        second.context("watch for signals")?;
        signal_hook::flag::register(signal, Arc::clone(&flag)).context("watch for signals")?;
    }
    Ok(())
}

/// Whether a signal came.
pub(crate) fn came() -> bool {
    INTERRUPTED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// An error once a signal came.
pub(crate) fn check() -> Result<()> {
    if came() {
        bail!("interrupted");
    }
    Ok(())
}
