//! Runs a test command, passes its output on and adds up what it counted: nextest's summary or libtest's results.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::shell;

/// Tests by outcome.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// Ran and held.
    pub(crate) passed: u64,
    /// Ran and did not hold; also a group that could not be built or started.
    pub(crate) failed: u64,
    /// Did not run: this machine cannot, or the test says so itself.
    pub(crate) skipped: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs the command to its end. A command that fails without a failed test counts as one.
pub(crate) fn run(command: &mut Command) -> Result<Count> {
    let (reader, writer) = std::io::pipe().context("make a pipe for the output of the tests")?;
    let copy = writer.try_clone().context("share that pipe")?;
    let child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(copy)
        .spawn();
    let mut child = child.with_context(|| format!("start {}", shell::shown(command)))?;
    // Else the writing ends in `command` would keep the pipe open for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut seen = Seen::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("read the output of the tests")?;
        let line = String::from_utf8_lossy(&line);
        shell::pass_on(&line);
        seen.line(&line);
    }
    let status = child.wait().context("wait for the tests")?;
    Ok(seen.count(status.success()))
}

/// What the lines read so far say.
#[derive(Default)]
struct Seen {
    harness: Count,
    skipped_themselves: u64,
}

impl Seen {
    fn line(&mut self, line: &str) {
        if let Some(count) = libtest(line).or_else(|| nextest(line)) {
            self.harness += count;
        } else if skipped_itself(line) {
            self.skipped_themselves += 1;
        }
    }

    fn count(&self, success: bool) -> Count {
        let mut count = self.harness;
        // A test that skips itself returns early, which the harness takes for passed.
        let returned = self.skipped_themselves.min(count.passed);
        count.passed -= returned;
        count.skipped += returned;
        if !success && count.failed == 0 {
            count.failed = 1;
        }
        count
    }
}

/// How `plumbline_tests::skip` says that a test cannot run here.
const SKIPPED_ITSELF: &str = "skipped: ";

/// Whether a test says so. With one thread the harness has written the test's name into the line before.
fn skipped_itself(line: &str) -> bool {
    line.starts_with(SKIPPED_ITSELF)
        || line.strip_prefix("test ").is_some_and(|rest| {
            rest.split_once(" ... ")
                .is_some_and(|(_, said)| said.starts_with(SKIPPED_ITSELF))
        })
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; ...`
fn libtest(line: &str) -> Option<Count> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    Some(Count {
        passed: before(numbers, " passed")?,
        failed: before(numbers, " failed")?,
        skipped: before(numbers, " ignored")?,
    })
}

/// `     Summary [   0.1s] 9 tests run: 8 passed, 1 failed, 2 skipped`, of which skipped also counts what the filter left out;
/// ignored tests are not told apart, so none count.
fn nextest(line: &str) -> Option<Count> {
    let (_, numbers) = line
        .trim_start()
        .strip_prefix("Summary [")?
        .split_once(" run: ")?;
    let failed =
        before(numbers, " failed").unwrap_or(0) + before(numbers, " timed out").unwrap_or(0);
    Some(Count {
        passed: before(numbers, " passed").unwrap_or(0),
        failed,
        skipped: 0,
    })
}

/// The number that stands right before `word`.
fn before(text: &str, word: &str) -> Option<u64> {
    let head = text.split_once(word)?.0;
    head.rsplit(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::{Count, Seen, libtest, nextest};

    fn count(passed: u64, failed: u64, skipped: u64) -> Count {
        Count {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn lines_of_the_harnesses() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.05s";
        assert_eq!(libtest(line), Some(count(3, 2, 1)));
        assert_eq!(libtest("test result_is_good ... ok"), None);
        let line =
            "     Summary [   0.071s] 19/20 tests run: 17 passed, 1 failed, 1 timed out, 5 skipped";
        assert_eq!(nextest(line), Some(count(17, 2, 0)));
        assert_eq!(
            nextest("     Summary [   0.000s] 0 tests run: 0 passed, 0 skipped"),
            Some(count(0, 0, 0))
        );
    }

    #[test]
    fn what_a_run_adds_up_to() {
        let mut seen = Seen::default();
        for line in [
            "skipped: needs root",
            "test a::b ... skipped: no such sockets",
            "test c ... ok",
            "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
        ] {
            seen.line(line);
        }
        assert_eq!(
            seen.count(true),
            count(2, 0, 3),
            "a test that skipped itself has not passed"
        );
        assert_eq!(
            seen.count(false),
            count(2, 1, 3),
            "a failure is never counted as none"
        );
        assert_eq!(
            Seen::default().count(false),
            count(0, 1, 0),
            "nor is a build that broke"
        );
    }
}
