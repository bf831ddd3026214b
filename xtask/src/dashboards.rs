//! The Grafana dashboard and the alert rules in `dashboards/`: held against the metric catalogue, against promtool, and
//! against a live store.

mod alerts;
mod board;
mod catalogue;
mod lint;
mod live;
mod promql;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{debian::Bundle, receivers, shell};
use board::Board;
use catalogue::Catalogue;

/// promtool, for its two commands that need no server.
const PROMTOOL: Bundle = Bundle {
    name: "promtool",
    suite: "trixie",
    packages: &["promtool=2.53.*"],
    files: &["usr/bin/promtool"],
};

/// What to hold the dashboard and the rules against.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also run every query of the dashboard against this store
    #[arg(long, value_name = "URL")]
    live: Option<String>,
}

/// The command.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    lint()?;
    rules()?;
    if let Some(store) = &arguments.live {
        check_live(store)?;
    }
    shell::note("dashboards: all is well");
    Ok(())
}

/// What can be judged by reading: the dashboard's form, and that every metric and label of its queries and of the alert
/// rules is in the catalogue. A part of `cargo xtask check`.
///
/// # Errors
/// With every problem.
pub(crate) fn lint() -> Result<()> {
    let catalogue = Catalogue::parse(&read("METRICS.md")?).context("METRICS.md")?;
    let board = Board::parse(&read("plumbline.json")?)?;
    let alerts = alerts::parse(&read("alerts.yaml")?);
    let mut problems = lint::board(&board, &catalogue);
    problems.extend(alerts::problems(&alerts, &catalogue, &read("RUNBOOK.md")?));
    problems.extend(lint::exceptions(&exceptions()?, &board, &alerts));
    fail("dashboards", &problems)
}

/// Runs every query of the dashboard, and the expressions of the alert rules, against a store of the Prometheus family that agents have fed for at least a minute,
/// such as `http://127.0.0.1:8428`.
///
/// # Errors
/// Naming each query that fails, or that returns nothing although `live-exceptions.json` does not excuse it.
pub(crate) fn check_live(store: &str) -> Result<()> {
    let asked = live::Asked {
        board: Board::parse(&read("plumbline.json")?)?,
        alerts: alerts::parse(&read("alerts.yaml")?),
        exceptions: exceptions()?,
    };
    let (problems, summary) = live::check(&asked, store, live::PATIENCE)?;
    shell::note(format_args!("dashboards: {summary}"));
    fail("queries against the live store", &problems)
}

/// Checks the alert rules and runs their unit tests with promtool, fetched into `target/receivers` if it is not there.
///
/// # Errors
/// With what promtool says.
pub(crate) fn rules() -> Result<()> {
    let program = PROMTOOL
        .ensure(&receivers::cache()?)?
        .join(PROMTOOL.files[0]);
    for (log, arguments) in [
        (
            "promtool-check",
            [
                "check",
                "rules",
                "--lint=all",
                "--lint-fatal",
                "alerts.yaml",
            ]
            .as_slice(),
        ),
        ("promtool-test", &["test", "rules", "alerts.test.yaml"]),
    ] {
        let mut promtool = Command::new(&program);
        promtool.args(arguments).current_dir(folder());
        shell::run_logged(&format!("promtool {}", arguments[0]), log, &mut promtool)?;
    }
    Ok(())
}

/// Queries, and alerts by name, that a live store may have nothing for, each with the reason.
fn exceptions() -> Result<BTreeMap<String, String>> {
    serde_json::from_str(&read("live-exceptions.json")?).context("live-exceptions.json")
}

fn folder() -> PathBuf {
    shell::root().join("dashboards")
}

fn read(file: impl AsRef<Path>) -> Result<String> {
    let path = folder().join(file);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn fail(what: &str, problems: &[String]) -> Result<()> {
    if !problems.is_empty() {
        bail!("{what}:\n  {}", problems.join("\n  "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_committed_has_no_problem() {
        super::lint().unwrap();
    }
}
