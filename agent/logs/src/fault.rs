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
/// [`FAIL`] makes each point fail whose name contains it.
#[cfg(test)]
pub(crate) fn point(name: &str) -> std::io::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let passed = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
    let kill_at = std::env::var("PLUMBLINE_KILL_AT").ok();
    if kill_at.and_then(|at| at.parse().ok()) == Some(passed) {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    }
    let fail = FAIL.with_borrow(|fail| fail.is_some_and(|fail| name.contains(fail)));
    if fail {
        return Err(rustix::io::Errno::NOSPC.into());
    }
    Ok(())
}

#[cfg(test)]
std::thread_local! {
    /// Steps to fail, by a part of their names, on this thread.
    pub(crate) static FAIL: std::cell::RefCell<Option<&'static str>> = const { std::cell::RefCell::new(None) };
}
