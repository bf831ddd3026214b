//! `cargo xtask bench logs`: how much of the way of container logs a CPU second buys, from files to nowhere and to a collector
//! on loopback. No root, no network.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::{setup, shell};

/// How much to read.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Bytes of log files for each length of lines
    #[arg(long, value_name = "N", default_value_t = 2_000_000_000)]
    bytes: u64,
    /// Repetitions
    #[arg(long, value_name = "N", default_value_t = 3)]
    reps: u32,
}

/// Lengths of lines in the files: usual ones, and such as containerd cuts into parts.
const LINES: [(u64, &str); 2] = [
    (150, "lines of 150 B"),
    (60_000, "parts of 16 KiB, four a record"),
];

/// Where to, by which protocol, with which compression, and the megabytes per CPU second that are wanted of 150 B lines.
const ARMS: [(&str, &str, &str, Option<f64>); 5] = [
    ("null", "", "", Some(525.0)),
    ("OTLP/HTTP", "http", "none", Some(230.0)),
    ("OTLP/HTTP, gzip", "http", "gzip", None),
    ("OTLP/gRPC", "grpc", "none", None),
    ("OTLP/gRPC, gzip", "grpc", "gzip", None),
];
/// Peak of resident memory that is wanted.
const PEAK_KIB_MAX: u64 = 40 << 10;

/// What one reading cost.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Cost {
    bytes: u64,
    records: u64,
    cpu_ns: u64,
    peak_kib: u64,
}

/// What the collector got.
#[derive(Debug, Deserialize)]
struct Got {
    requests: u64,
    bytes: u64,
    records: u64,
}

/// The programs that are measured.
struct Programs {
    throughput: PathBuf,
    logs: PathBuf,
}

/// Builds, writes the files, reads them in each way, prints a line for each way.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    let programs = build()?;
    for (line, what) in LINES {
        let directory = tempfile::tempdir().context("make a folder for the log files")?;
        let (bytes, line) = (arguments.bytes.to_string(), line.to_string());
        let mut generate = Command::new(&programs.throughput);
        shell::run(
            generate
                .arg("generate")
                .arg(directory.path())
                .args([&bytes, &line]),
        )?;
        shell::out(format_args!("{what}:"));
        for (name, protocol, compression, target) in ARMS {
            let mut costs = Vec::new();
            let mut wire = None;
            for _ in 0..arguments.reps {
                if protocol.is_empty() {
                    costs.push(null(&programs, directory.path())?);
                } else {
                    let (cost, got) = sent(&programs, directory.path(), protocol, compression)?;
                    wire = Some(got.bytes);
                    costs.push(cost);
                }
            }
            let target = target.filter(|_| line == "150");
            shell::out(text(name, &mut costs, wire, target)?);
        }
    }
    Ok(())
}

fn build() -> Result<Programs> {
    for (package, example) in [("plumbline-logs", "throughput"), ("plumbline", "logs")] {
        let mut build = setup::Cargo::find().command();
        shell::run(build.args([
            "build",
            "--release",
            "--quiet",
            "--package",
            package,
            "--example",
            example,
        ]))?;
    }
    let examples = shell::target().join("release/examples");
    Ok(Programs {
        throughput: examples.join("throughput"),
        logs: examples.join("logs"),
    })
}

fn null(programs: &Programs, directory: &Path) -> Result<Cost> {
    let mut read = Command::new(&programs.throughput);
    let text = shell::stdout_of(read.arg("read").arg(directory))?;
    serde_json::from_str(&text).context("read what the reading cost")
}

/// A sender and a collector, which count alike in the end.
fn sent(
    programs: &Programs,
    directory: &Path,
    protocol: &str,
    compression: &str,
) -> Result<(Cost, Got)> {
    let sink = Sink::start(&programs.logs, protocol)?;
    let mut send = Command::new(&programs.logs);
    send.arg("send")
        .arg(directory)
        .args([&sink.address, protocol, compression]);
    let text = shell::stdout_of(&mut send)?;
    let cost: Cost = serde_json::from_str(&text).context("read what the sending cost")?;
    let got = sink.end()?;
    ensure!(
        got.records == cost.records && got.requests > 0,
        "{} records were sent and {} arrived: what was measured is not the whole way",
        cost.records,
        got.records
    );
    Ok((cost, got))
}

/// The collector, in a process of its own.
struct Sink {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: String,
}

impl Sink {
    fn start(program: &Path, protocol: &str) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["sink", protocol])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the collector")?;
        let Some(stdout) = child.stdout.take() else {
            bail!("the collector has no standard output");
        };
        let mut stdout = BufReader::new(stdout);
        let mut address = String::new();
        stdout
            .read_line(&mut address)
            .context("read the collector's address")?;
        Ok(Self {
            child,
            stdout,
            address: address.trim().to_owned(),
        })
    }

    fn end(mut self) -> Result<Got> {
        // The end of its input is its end.
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.stdout
            .read_to_string(&mut text)
            .context("read what the collector got")?;
        serde_json::from_str(&text).context("read what the collector got")
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Whatever went wrong: it must not outlive the benchmark.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn text(name: &str, costs: &mut [Cost], wire: Option<u64>, target: Option<f64>) -> Result<String> {
    costs.sort_by_key(|cost| cost.cpu_ns);
    let (Some(best), Some(cost), Some(worst)) =
        (costs.first(), costs.get(costs.len() / 2), costs.last())
    else {
        bail!("at least one repetition is needed");
    };
    let mb_per_second = |cost: &Cost| cost.bytes as f64 * 1e3 / cost.cpu_ns as f64;
    let rate = mb_per_second(cost);
    let million = cost.records as f64 * 1e3 / cost.cpu_ns as f64;
    let peak = costs.iter().map(|cost| cost.peak_kib).max().unwrap_or(0);
    let wire = wire.map_or(String::new(), |wire| {
        format!(
            ", {:.2} of the files' bytes on the wire",
            wire as f64 / cost.bytes as f64
        )
    });
    let met = |met: bool| if met { "met" } else { "missed" };
    let target = target.map_or(String::new(), |target| {
        format!(" (target {target:.0}: {})", met(rate >= target))
    });
    Ok(format!(
        "  {name}: {rate:.0} MB per CPU second [{:.0} to {:.0}]{target}, {million:.2} M records per CPU second, {:.2} CPU \
         seconds per GB, peak RSS {:.1} MiB (target 40: {}){wire}",
        mb_per_second(worst),
        mb_per_second(best),
        1e3 / rate,
        peak as f64 / 1024.0,
        met(peak <= PEAK_KIB_MAX),
    ))
}
