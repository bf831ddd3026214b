//! Starts the agent's binary and talks to its local socket.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::scale::scale;
use crate::wait::poll;

/// How long the agent may take to answer a request on its socket.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Where a binary of this workspace is: `$<variable>` if set, else beside the running program (or one directory up, for
/// tests in `deps`).
///
/// # Errors
/// When there is no such file; the text says how to build it.
pub fn binary(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("path of the running program")?;
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no {name} beside {}: build it with cargo, or set {variable}",
            own.display()
        )
    })
}

/// Path of the agent: `$PLUMBLINE_BIN`, or `plumbline` beside the running program.
///
/// # Errors
/// When it was not built.
pub fn plumbline() -> Result<PathBuf> {
    binary("plumbline", "PLUMBLINE_BIN")
}

/// Path of the agent, built first unless `$PLUMBLINE_BIN` names one: for tests, which cargo runs without building the
/// binaries of other packages.
///
/// # Errors
/// With what cargo said.
pub fn built() -> Result<PathBuf> {
    static ONCE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    ONCE.get_or_init(|| build().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(Error::msg)
}

fn build() -> Result<PathBuf> {
    if std::env::var_os("PLUMBLINE_BIN").is_some() {
        return plumbline();
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--package", "plumbline"]);
    // What cargo tells this test about its own package would make build scripts of dependencies run again.
    let told = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_PRIMARY_",
        "CARGO_TARGET_TMPDIR",
    ];
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| told.iter().any(|prefix| name.starts_with(prefix)))
        {
            command.env_remove(name);
        }
    }
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command
        .stdout(Stdio::null())
        .status()
        .context("start cargo")?;
    ensure!(
        status.success(),
        "cargo build --package plumbline: {status}"
    );
    plumbline()
}

/// An agent that runs. Killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
}

impl Agent {
    /// Starts the binary with arguments. Output goes where the command says.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("start {:?}", command.get_program()))?;
        Ok(Self { child })
    }

    /// Starts `plumbline` with these arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<Self> {
        Self::start(Command::new(plumbline()?).args(arguments))
    }

    /// Its process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_process(&self.child, signal)
    }

    /// Waits until it ends; `None` when it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        wait(&mut self.child, patience)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a signal to a child.
///
/// # Errors
/// When it is gone.
pub fn signal_process(child: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("pid out of range")?;
    kill_process(pid, signal).context("send a signal")
}

/// Waits until a child ends; `None` when it still runs after `patience`.
pub fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    poll(patience, || child.try_wait().ok().flatten())
}

/// Body of the answer to `GET <path>` on a Unix socket.
///
/// # Errors
/// When nobody answers, or with another status than 200.
pub fn get(socket: &Path, path: &str) -> Result<String> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream
        .set_read_timeout(Some(scale().patience(ANSWER_PATIENCE)))
        .context("set a deadline")?;
    // HTTP/1.0: the answer is not chunked and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").context("send the request")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the answer")?;
    let answer = String::from_utf8(answer).context("the answer is not UTF-8")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no end of its head")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("GET {path}: {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// JSON answer to `GET <path>` on a Unix socket.
///
/// # Errors
/// As [`get`], and when the body is not JSON.
pub fn get_json(socket: &Path, path: &str) -> Result<Value> {
    serde_json::from_str(&get(socket, path)?).with_context(|| format!("GET {path}: not JSON"))
}
