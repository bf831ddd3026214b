//! A process that runs beside xtask, writes to a log of its own, and is gone when xtask is.

use std::{
    fs::File,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{interrupt, shell};

/// How often waiting looks again.
const STEP: Duration = Duration::from_millis(50);
/// How long a process may take to end after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// Lines of a log shown when its process did not do what it should.
const TAIL_LINES: usize = 15;

/// The process. Stopped when dropped.
pub(crate) struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a command with stdout and stderr in `log`, bound to us by [`bind_to_us`].
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let copy = file
            .try_clone()
            .with_context(|| format!("share {}", log.display()))?;
        bind_to_us(command.stdin(Stdio::null()).stdout(file).stderr(copy));
        let child = command
            .spawn()
            .with_context(|| format!("start {name}: {}", shell::shown(command)))?;
        Ok(Self {
            name,
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub(crate) fn output(&self) -> Result<String> {
        let bytes =
            std::fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// When the process ended, the time is over, or the person interrupts; with the end of the log.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut ask: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let give_up = shell::now() + patience;
        loop {
            if let Some(answer) = ask() {
                return Ok(answer);
            }
            if let Some(status) = self.child.try_wait().context("look after a process")? {
                bail!(
                    "{} ended ({status}) before {what}:\n  {}",
                    self.name,
                    self.tail()
                );
            }
            interrupt::check()?;
            if shell::now() >= give_up {
                bail!(
                    "{}: not {what} after {} s:\n  {}",
                    self.name,
                    patience.as_secs(),
                    self.tail()
                );
            }
            thread::sleep(STEP);
        }
    }

    /// Ends it by SIGTERM, and by SIGKILL if that does not help.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait().context("look after a process")? {
            return Ok(status);
        }
        let pid = libc::pid_t::try_from(self.child.id()).context("pid out of range")?;
        // SAFETY: kill takes two numbers; the child has not been waited for, so its pid is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let give_up = shell::now() + STOP_PATIENCE;
        while shell::now() < give_up {
            if let Some(status) = self.child.try_wait().context("look after a process")? {
                return Ok(status);
            }
            thread::sleep(STEP);
        }
        shell::note(format_args!("{} does not end, killing it", self.name));
        self.child
            .kill()
            .with_context(|| format!("kill {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("wait for {}", self.name))
    }

    fn tail(&self) -> String {
        let text = self.output().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(TAIL_LINES)..)
            .unwrap_or_default()
            .join("\n  ")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            shell::note(format_args!("{error:#}"));
        }
    }
}

/// Gives the process a group of its own, so that Ctrl-C reaches only xtask, which then stops it in order; and has the
/// kernel stop it should xtask die without doing so.
pub(crate) fn bind_to_us(command: &mut Command) -> &mut Command {
    command.process_group(0);
    // SAFETY: prctl with these arguments only sets a flag of the calling process and is safe between fork and exec.
    unsafe { command.pre_exec(die_with_parent) }
}

/// Has the kernel end the calling process when its parent's thread ends.
fn die_with_parent() -> std::io::Result<()> {
    // SAFETY: as in `Daemon::start`.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
