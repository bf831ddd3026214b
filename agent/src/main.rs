//! `plumbline`: arguments in, exit code out.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use plumbline::cli::{
    CheckArgs, Cli, Command, ConfigArgs, ConfigCommand, ExplainArgs, NodeArgs, Output, ReplayArgs,
    RunArgs,
};
use plumbline::config::{self, Config, File, Problem};
use plumbline::record::BadRecording;
use plumbline::sources::cgroups::RootError;
use plumbline::sources::manifests::LoadError;
use plumbline::{check, cli, clock, explain, logging, present, record, run, status};
use plumbline_core::finding::Severity;
use plumbline_core::time::UnixNanos;

/// Bad usage or input.
const USAGE: u8 = 2;
/// Findings at or above `--fail-on`.
const FINDINGS: u8 = 3;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run_node(&args),
        Command::Check(args) => check_node(&args),
        Command::Replay(args) => replay(&args),
        Command::Status(args) => {
            status::print(&args.socket, args.output == Output::Json, args.ready)
        }
        Command::Explain(args) => explain_one(&args),
        Command::Config(args) => config_command(&args),
    };
    result.unwrap_or_else(|error| {
        say(&format!("plumbline: {error:#}"));
        ExitCode::FAILURE
    })
}

/// The configuration of a node, or all that is wrong with it, already printed.
fn configure(args: &NodeArgs) -> Result<(Config, File), ExitCode> {
    let file = args.config.as_deref().map(config::read_file).transpose();
    let (file, mut problems) = match file {
        Ok(file) => (file.unwrap_or_default(), Vec::new()),
        // What flags and variables have wrong is told all the same.
        Err(problems) => (File::default(), problems),
    };
    match config::resolve(args, file.clone(), |name| std::env::var(name).ok()) {
        Ok(config) if problems.is_empty() => Ok((config, file)),
        Ok(_) => Err(refuse(&problems)),
        Err(more) => {
            problems.extend(more);
            Err(refuse(&problems))
        }
    }
}

/// What of the configuration has no effect.
fn warnings(config: &Config) -> Vec<Problem> {
    config::warnings(&config.core.rulebook, UnixNanos(clock::unix_ns()))
}

fn config_command(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let (ConfigCommand::Check(node) | ConfigCommand::Print(node)) = &args.command;
    let config = match configure(node) {
        Ok((config, _)) => config,
        Err(code) => return Ok(code),
    };
    let warnings = warnings(&config);
    match &args.command {
        ConfigCommand::Check(_) if warnings.is_empty() => Ok(ExitCode::SUCCESS),
        ConfigCommand::Check(_) => Ok(refuse(&warnings)),
        ConfigCommand::Print(_) => {
            for warning in &warnings {
                say(&format!(
                    "plumbline: {}",
                    present::plain(&warning.to_string())
                ));
            }
            print(&config::print::print(&config))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn explain_one(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    match explain::explain(args)? {
        Some(text) => {
            print(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let what = present::plain(args.what.as_deref().unwrap_or_default());
            say(&format!(
                "plumbline: {what} is neither the id of a rule nor the fingerprint of an open or hidden finding"
            ));
            Ok(ExitCode::from(USAGE))
        }
    }
}

fn refuse(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        say(&format!(
            "plumbline: {}",
            present::plain(&problem.to_string())
        ));
    }
    ExitCode::from(USAGE)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn run_node(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let mut config = match configure(&args.node) {
        Ok((config, _)) => config,
        Err(code) => return Ok(code),
    };
    logging::start(config.log_format);
    for problem in warnings(&config) {
        tracing::warn!(%problem, "no effect");
    }
    config
        .socket
        .get_or_insert_with(|| cli::DEFAULT_SOCKET.into());
    let runtime = runtime()?;
    let ran = runtime.block_on(run::run(config, &args.node, args.record.as_deref()));
    // A resolver or connection that hangs must not keep the process.
    runtime.shutdown_background();
    ran.map_or_else(bad_input, |()| Ok(ExitCode::SUCCESS))
}

fn check_node(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let config = configure(&args.node).and_then(|(mut config, file)| {
        check::adapt(&mut config, args, &file).map_err(|problems| refuse(&problems))?;
        Ok(config)
    });
    let config = match config {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    logging::start(config.log_format);
    let duration = args.duration.0;
    let checked = runtime()?.block_on(check::check(&config, duration, args.record.as_deref()));
    let checked = match checked {
        Ok(checked) => checked,
        Err(error) => return bad_input(error),
    };
    print(&match args.output {
        Output::Table => present::findings(&checked.findings),
        Output::Json => serde_json::to_string_pretty(&checked.findings)? + "\n",
    })?;
    for hidden in &checked.suppressed {
        let by = hidden.suppression.as_ref();
        let until = by.map(|by| by.until.to_string()).unwrap_or_default();
        let (rule, fingerprint) = (hidden.rule_id, &hidden.fingerprint);
        say(&format!(
            "plumbline: hidden until {until}: {rule} {fingerprint}"
        ));
    }
    for line in checked.unused.iter().chain(&checked.missing) {
        say(&format!("plumbline: {}", present::plain(line)));
    }
    let limit = Severity::from(args.fail_on);
    Ok(if !checked.missing.is_empty() {
        ExitCode::FAILURE
    } else if checked
        .findings
        .iter()
        .any(|finding| finding.severity >= limit)
    {
        ExitCode::from(FINDINGS)
    } else {
        ExitCode::SUCCESS
    })
}

/// What came of paths and files that were given is bad input; all else is a failure.
fn bad_input(error: anyhow::Error) -> anyhow::Result<ExitCode> {
    let given = error.is::<LoadError>() || error.is::<RootError>() || error.is::<BadRecording>();
    if !given {
        return Err(error);
    }
    say(&format!("plumbline: {error:#}"));
    Ok(ExitCode::from(USAGE))
}

fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let replayed = record::replay(&args.file, |evaluation| {
        for finding in &evaluation.transitions {
            print(&(serde_json::to_string(finding)? + "\n"))?;
        }
        Ok(())
    });
    let mut replayed = match replayed {
        Ok(replayed) => replayed,
        Err(error) => return bad_input(error),
    };
    let report = replayed.engine.last_report(replayed.last);
    print(&(serde_json::to_string(&report)? + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Data, to stdout.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("write to stdout")
}

/// A message, to stderr.
#[expect(
    clippy::print_stderr,
    reason = "what a command line tool says before and after its log"
)]
fn say(text: &str) {
    eprintln!("{text}");
}
