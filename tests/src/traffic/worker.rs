//! Starts `plumbline-traffic` in a container and reads what it says.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Plan;
use crate::agent::{binary, wait};
use crate::pods::Place;
use crate::scale::scale;

/// How long a line may take: plans last up to half a minute, and machines stall.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that carries out a plan.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Worker {
    /// Starts `plumbline-traffic` (`$PLUMBLINE_TRAFFIC_BIN`, or beside the running program) with a plan.
    ///
    /// # Errors
    /// When it was not built or cannot be started.
    pub fn start(place: &Place, plan: &Plan) -> Result<Self> {
        let program = binary("plumbline-traffic", "PLUMBLINE_TRAFFIC_BIN")?;
        let mut command = Command::new(program);
        command.arg(serde_json::to_string(plan).context("write the plan")?);
        let mut child = place.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("stdout was asked for")?;
        let (sender, lines) = sync_channel(64);
        thread::spawn(move || {
            // Ends with the process, or when the worker is dropped and nobody listens.
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
                .ok();
        });
        Ok(Self {
            child,
            input,
            lines,
        })
    }

    /// As [`Worker::start`], for plans that say when they are ready.
    ///
    /// # Errors
    /// As there, and when it ends instead.
    pub fn ready(place: &Place, plan: &Plan) -> Result<Self> {
        let worker = Self::start(place, plan)?;
        let said = worker.line()?;
        ensure!(said == "ready", "said {said:?} instead of ready");
        Ok(worker)
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// When it ends instead, or says nothing for two minutes.
    pub fn line(&self) -> Result<String> {
        self.lines
            .recv_timeout(scale().patience(PATIENCE))
            .context("plumbline-traffic said nothing: see its stderr above")
    }

    /// Sends a command and waits for the answer.
    ///
    /// # Errors
    /// When it is gone.
    pub fn command(&mut self, command: &str) -> Result<String> {
        let input = self.input.as_mut().context("stdin is closed")?;
        writeln!(input, "{command}").context("send a command")?;
        self.line()
    }

    /// Closes its stdin, which ends plans that serve until then, and reads the result.
    ///
    /// # Errors
    /// When it fails.
    pub fn finish<T: DeserializeOwned>(mut self) -> Result<T> {
        drop(self.input.take());
        let result = serde_json::from_str(&self.line()?)
            .context("the result is not what the plan promises")?;
        let status = wait(&mut self.child, PATIENCE).context("plumbline-traffic does not end")?;
        ensure!(status.success(), "plumbline-traffic: {status}");
        Ok(result)
    }

    /// Closes its stdin and waits until it ends.
    ///
    /// # Errors
    /// When it fails.
    pub fn end(mut self) -> Result<()> {
        drop(self.input.take());
        let status = wait(&mut self.child, PATIENCE).context("plumbline-traffic does not end")?;
        ensure!(status.success(), "plumbline-traffic: {status}");
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Gone already is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Prints a word for the other end of stdout.
pub(super) fn say(word: &str) {
    // Whoever started this process is gone, and so will it be.
    writeln!(std::io::stdout(), "{word}").ok();
}

/// Prints the result as one line of JSON.
pub(super) fn print<T: Serialize>(result: &T) -> Result<()> {
    writeln!(
        std::io::stdout(),
        "{}",
        serde_json::to_string(result).context("write the result")?
    )
    .context("print the result")
}
