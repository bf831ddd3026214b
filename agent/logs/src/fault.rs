//! Places where tests make this process die or a step fail. In a release they are nothing.

/// A step is about to be made.
///
/// # Errors
///
/// Only in tests: the step is said to fail.
#[cfg(not(test))]
#[inline]
#[expect(
    clippy::unnecessary_wraps,
    reason = "in tests it may fail, and callers must not differ"
)]
pub(crate) fn point(_name: &str) -> std::io::Result<()> {
    Ok(())
}

/// In tests: `PLUMBLINE_KILL_AT=N` kills the process at the Nth point that is passed, as SIGKILL would at that moment;
/// [`inject`] makes points fail or take long whose names contain a word.
#[cfg(test)]
pub(crate) fn point(name: &str) -> std::io::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let passed = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
    let kill_at = std::env::var("PLUMBLINE_KILL_AT").ok();
    if kill_at.and_then(|at| at.parse().ok()) == Some(passed) {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    }
    let Some(faults) = FAULTS.with_borrow(Clone::clone) else {
        return Ok(());
    };
    let fault = *faults
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    match fault.filter(|fault| name.contains(fault.step)) {
        None => Ok(()),
        Some(fault) => {
            std::thread::sleep(fault.delay);
            fault.error.map_or(Ok(()), |errno| Err(errno.into()))
        }
    }
}

/// What is wrong with the world, until it is changed.
#[cfg(test)]
pub(crate) type Faults = std::sync::Arc<std::sync::Mutex<Option<Fault>>>;

/// One thing that goes wrong.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// A part of the names of the steps that it is about.
    pub(crate) step: &'static str,
    pub(crate) error: Option<rustix::io::Errno>,
    pub(crate) delay: std::time::Duration,
}

#[cfg(test)]
std::thread_local! {
    static FAULTS: std::cell::RefCell<Option<Faults>> = const { std::cell::RefCell::new(None) };
}

/// Readers that this thread starts from now on live in this world.
#[cfg(test)]
pub(crate) fn inject(faults: &Faults) {
    FAULTS.set(Some(Faults::clone(faults)));
}

/// To be called in a thread that this one starts: it lives in the same world.
pub(crate) fn hand_on() -> impl FnOnce() + Send {
    #[cfg(test)]
    let faults = FAULTS.with_borrow(Clone::clone);
    move || {
        #[cfg(test)]
        FAULTS.set(faults);
    }
}
