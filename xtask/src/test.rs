//! `cargo xtask test`: check, then the tests that need nothing, then those that need root and eBPF, then the alert rules'
//! tests and the demo with every query of the dashboard; one count at the end.

mod count;
mod kernel;

use std::{process::Command, time::Duration};

use anyhow::{Result, bail};

use crate::{check, dashboards, setup, shell, vm};
pub(crate) use count::{Count, run as run_counted};

/// Which tests to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave `cargo xtask check` out
    #[arg(long)]
    no_check: bool,
    /// The loads and sizes that the product promises to stand, of which the usual run has a twentieth
    #[arg(long)]
    full: bool,
    /// Only tests whose name contains this; or the name of a file or directory of tests, for all in it
    filter: Option<String>,
}

/// The command; the last line on stdout is the count.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    let mut times = Times::default();
    let parts = parts(arguments, &mut times);
    times.tell();
    let (checked, count) = parts?;
    if let Err(error) = &checked {
        shell::note(format_args!("{error:#}"));
    }
    shell::out(count);
    if count.failed > 0 || checked.is_err() {
        bail!("not all is well");
    }
    Ok(())
}

/// All parts in turn: what the check came to, and the tests.
fn parts(arguments: &Arguments, times: &mut Times) -> Result<(Result<()>, Count)> {
    let cargo = times.of("setup", setup::Cargo::find);
    // Before the long parts: what is missing is best known at once.
    if !matches!(kernel::access(&cargo), kernel::Access::No(_)) {
        times.of("programs", kernel::programs)?;
    }
    let checked = if arguments.no_check {
        Ok(())
    } else {
        times.of("check", || check::run(&cargo, false))
    };
    let filter = arguments.filter.as_deref();
    let mut targets = kernel::integration_tests(true)?;
    targets.extend(kernel::integration_tests(false)?);
    let target = filter.filter(|name| targets.iter().any(|target| target == name));
    let runner = Runner {
        cargo: &cargo,
        filter: filter.filter(|_| target.is_none()),
        target,
        full: arguments.full,
    };
    let mut count = times.of("hosted", || runner.hosted())?;
    count += times.of("kernel", || runner.kernel())?;
    if arguments.filter.is_none() {
        count += times.of("guests", || guests(&cargo))?;
        count += times.of("whole", || whole(&cargo));
    }
    Ok((checked, count))
}

/// How long each part took.
#[derive(Default)]
struct Times(Vec<(&'static str, Duration)>);

impl Times {
    /// Does a part and remembers how long it took.
    fn of<T>(&mut self, part: &'static str, work: impl FnOnce() -> T) -> T {
        let started = shell::now();
        let result = work();
        self.0.push((part, started.elapsed()));
        result
    }

    /// On stderr, in one line.
    fn tell(&self) {
        let total: Duration = self.0.iter().map(|(_, time)| *time).sum();
        let each: Vec<String> = self
            .0
            .iter()
            .map(|(part, time)| format!("{part} {} s", time.as_secs()))
            .collect();
        shell::note(format_args!(
            "time: {}; together {} s",
            each.join(", "),
            total.as_secs()
        ));
    }
}

/// What is tested as a whole: the alert rules, by promtool; and the demo, with every query of the dashboard.
fn whole(cargo: &setup::Cargo) -> Count {
    let mut count = one("alert rules", dashboards::rules());
    if let kernel::Access::No(reason) = kernel::access(cargo) {
        shell::note(format_args!("demo skipped: {reason}"));
        count.skipped += 1;
        return count;
    }
    let demo = shell::own_program()
        .and_then(|xtask| shell::run(Command::new(xtask).args(["demo", "--dashboards"])));
    count += one("demo", demo);
    count
}

/// A few of the kernel tests under two other kernels.
fn guests(cargo: &setup::Cargo) -> Result<Count> {
    if let setup::Cargo::HostOnly(reason) = cargo {
        shell::note(format_args!("tests on other kernels skipped: {reason}"));
        return Ok(Count {
            skipped: 1,
            ..Count::default()
        });
    }
    vm::quick(cargo)
}

/// Counts one test, and says why it failed.
fn one(name: &str, result: Result<()>) -> Count {
    let mut count = Count::default();
    match result {
        Ok(()) => count.passed += 1,
        Err(error) => {
            shell::note(format_args!("{name}: {error:#}"));
            count.failed += 1;
        }
    }
    count
}

/// Runs groups of tests. Always with `--workspace`, so that all of them share one build.
struct Runner<'a> {
    cargo: &'a setup::Cargo,
    filter: Option<&'a str>,
    /// The one target that is meant.
    target: Option<&'a str>,
    full: bool,
}

impl Runner<'_> {
    /// Unit, property and replay tests: no root, no kernel, in parallel; by cargo-nextest where there is one.
    fn hosted(&self) -> Result<Count> {
        let integration = self.targets(kernel::integration_tests(true)?);
        if self.target.is_some() && integration.is_empty() {
            return Ok(Count::default());
        }
        let harness: &[&str] = if has_nextest() {
            &[
                "nextest",
                "run",
                "--no-tests",
                "pass",
                "--retries",
                "0",
                "--color",
                "never",
                "--status-level",
                "fail",
            ]
        } else {
            &["test"]
        };
        let mut command = self.command(harness);
        if self.target.is_some() {
            return count::run(command.args(integration));
        }
        let mut count = count::run(command.args(["--lib", "--bins"]).args(integration))?;
        count += count::run(&mut self.command(&["test", "--doc"]))?;
        Ok(count)
    }

    /// Tests with real eBPF: as root, one at a time, since they share one kernel.
    fn kernel(&self) -> Result<Count> {
        let integration = self.targets(kernel::integration_tests(false)?);
        if integration.is_empty() {
            return Ok(Count::default());
        }
        let mut command = self.command(&["test"]);
        command
            .args(integration)
            .args(["--", "--test-threads", "1", "--include-ignored"]);
        match kernel::access(self.cargo) {
            kernel::Access::Direct => {}
            kernel::Access::Sudo => drop(command.envs([kernel::sudo_runner()])),
            kernel::Access::No(reason) => {
                shell::note(format_args!("tests with real eBPF skipped: {reason}"));
                let text = shell::stdout_of(command.args(["--list", "--format", "terse"]))?;
                let skipped = text.lines().filter(|line| line.ends_with(": test")).count();
                return Ok(Count {
                    skipped: skipped as u64,
                    ..Count::default()
                });
            }
        }
        // The tests start the agent as a person would.
        shell::run(
            self.cargo
                .command()
                .args(["build", "--workspace", "--bins", "--quiet"]),
        )?;
        count::run(&mut command)
    }

    fn command(&self, harness: &[&str]) -> Command {
        let mut command = self.cargo.command();
        command
            .args(harness)
            .args(["--workspace", "--no-fail-fast"])
            .args(self.filter);
        if self.full {
            command.env("PLUMBLINE_TEST_TIER", "full");
        }
        command
    }

    /// `--test NAME` for each name that is meant.
    fn targets(&self, names: Vec<String>) -> Vec<String> {
        let meant = |name: &String| self.target.is_none_or(|target| target == name);
        let names = names.into_iter().filter(meant);
        names.flat_map(|name| ["--test".to_owned(), name]).collect()
    }
}

fn has_nextest() -> bool {
    shell::stdout_of(Command::new("cargo").args(["nextest", "--version"])).is_ok()
}
