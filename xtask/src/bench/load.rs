//! The load: nginx and wrk from Debian's packages, and a pair of threads that do nothing but switch.

use std::{
    fs,
    io::{PipeReader, PipeWriter, Read as _, Write as _, pipe},
    net::IpAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use plumbline_tests::wait::process_cpu_ns;
use serde::{Deserialize, Serialize};

use super::datagrams::{self, Cgroups, Other};
use crate::{debian::Bundle, shell};

/// nginx, wrk and the libraries that a small machine may lack. All else they need is in every Debian since 12.
const PACKAGES: Bundle = Bundle {
    name: "load",
    suite: "bookworm",
    packages: &[
        "nginx",
        "wrk",
        "libluajit-5.1-2",
        "libpcre2-8-0",
        "libssl3",
        "libcrypt1",
        "zlib1g",
    ],
    files: &["usr/sbin/nginx", "usr/bin/wrk", "usr/lib", "lib"],
};

/// Where the web server listens.
pub(super) const PORT: u16 = 8080;
/// Connections that wrk keeps busy.
pub(super) const CONNECTIONS: u32 = 16;
/// Where the collector that only counts listens, in the node's namespace.
pub(super) const COLLECTOR_PORT: u16 = 4318;

/// The unpacked programs.
pub(super) struct Programs {
    root: PathBuf,
}

impl Programs {
    /// Fetches them if they are not there.
    ///
    /// # Errors
    /// Without apt or network at the first time.
    pub(super) fn ensure() -> Result<Self> {
        let cache = shell::target().join("bench");
        fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
        Ok(Self {
            root: PACKAGES.ensure(&cache)?,
        })
    }

    fn command(&self, program: &str) -> Result<Command> {
        let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
        let libraries = ["usr/lib", "lib"].map(|lib| self.root.join(lib).join(&multiarch));
        let mut command = Command::new(self.root.join(program));
        command.env(
            "LD_LIBRARY_PATH",
            std::env::join_paths(libraries).context("join library folders")?,
        );
        Ok(command)
    }

    /// nginx in the foreground with that configuration of `http`, its state in `dir`.
    ///
    /// # Errors
    /// When `dir` cannot be written.
    pub(super) fn nginx(&self, dir: &Path, http: &str) -> Result<Command> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("  {kind}_temp_path {}/{kind};\n", dir.display()))
            .collect();
        let configuration = dir.join("nginx.conf");
        let text = format!(
            "user root;\ndaemon off;\nworker_processes 1;\npid {}/nginx.pid;\nerror_log stderr;\n\
             events {{ worker_connections 1024; }}\nhttp {{\n  access_log off;\n{temporary}{http}}}\n",
            dir.display()
        );
        fs::write(&configuration, text)
            .with_context(|| format!("write {}", configuration.display()))?;
        let mut command = self.command("usr/sbin/nginx")?;
        command
            .args(["-e", "stderr", "-p"])
            .arg(dir)
            .arg("-c")
            .arg(configuration);
        Ok(command)
    }

    /// wrk against that address.
    ///
    /// # Errors
    /// When the folder of its libraries cannot be named.
    pub(super) fn wrk(&self, kind: Kind, seconds: u32, url: &str) -> Result<Command> {
        let mut command = self.command("usr/bin/wrk")?;
        command.arg("-t1").arg(format!("-c{CONNECTIONS}"));
        command.arg(format!("-d{seconds}s"));
        if kind == Kind::Short {
            command.args(["-H", "Connection: close"]);
        }
        command
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

/// The web server: a short answer, any number of requests on a connection.
pub(super) fn web_server() -> String {
    format!(
        "  keepalive_requests 1000000000;\n  keepalive_timeout 3600;\n  default_type text/plain;\n  \
         server {{ listen {PORT} backlog=1024; location / {{ return 200 \"plumbline bench\\n\"; }} }}\n"
    )
}

/// A collector that takes everything: an empty answer is an empty message of OTLP.
pub(super) fn collector() -> String {
    format!(
        "  client_max_body_size 64m;\n  default_type application/x-protobuf;\n  \
         server {{ listen {COLLECTOR_PORT}; location / {{ return 200; }} }}\n"
    )
}

/// How wrk uses connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A new connection for each request.
    Short,
    /// The same connections all the time.
    KeptAlive,
}

/// What wrk counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Counted {
    /// Requests that were answered.
    pub(super) requests: u64,
    /// Per second.
    pub(super) per_second: f64,
}

/// Reads what wrk printed.
///
/// # Errors
/// When it saw an error, or printed something else.
pub(super) fn counted(output: &str) -> Result<Counted> {
    for line in output.lines().map(str::trim) {
        if line.starts_with("Socket errors:") || line.starts_with("Non-2xx or 3xx responses:") {
            bail!("wrk saw errors: {line}");
        }
    }
    let requests = output
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .and_then(|(count, _)| count.parse().ok());
    let rate = output
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"))
        .and_then(|rate| rate.trim().parse().ok());
    match (requests, rate) {
        (Some(requests @ 1..), Some(per_second)) => Ok(Counted {
            requests,
            per_second,
        }),
        _ => Err(anyhow!("wrk printed no figures:\n{output}")),
    }
}

/// What one process of the benchmark does.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["round_trips", "datagrams"]))]
pub(crate) struct Arguments {
    /// Round trips between two threads on one CPU; prints [`Switched`]
    #[arg(long)]
    round_trips: Option<u64>,
    /// UDP datagrams, binds and connects on one CPU; prints [`datagrams::Datagrams`]
    #[arg(long, requires_all = ["namespace", "bridged", "routed", "container", "beside"])]
    datagrams: Option<u64>,
    /// Network namespace of the pod that datagrams go to
    #[arg(long, value_name = "PATH")]
    namespace: Option<PathBuf>,
    /// Its address that the node's bridge leads to
    #[arg(long, value_name = "IP")]
    bridged: Option<IpAddr>,
    /// Its address that the node routes to
    #[arg(long, value_name = "IP")]
    routed: Option<IpAddr>,
    /// Cgroup of its own container
    #[arg(long, value_name = "DIRECTORY")]
    container: Option<PathBuf>,
    /// Cgroup that nobody watches, for the sockets to compare with
    #[arg(long, value_name = "DIRECTORY")]
    beside: Option<PathBuf>,
    /// Measure also what hooks of another cgroup cost: where no agent runs
    #[arg(long)]
    hooks: bool,
}

/// What the pair of threads did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Switched {
    /// Context switches of the two threads, as the kernel counts them.
    pub(super) switches: u64,
    /// CPU time of both.
    pub(super) cpu_ns: u64,
}

/// The command: does it, and prints what it did as JSON.
///
/// # Errors
/// When pipes, threads or sockets cannot be had.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    if let (
        Some(count),
        Some(namespace),
        Some(bridged),
        Some(routed),
        Some(container),
        Some(beside),
    ) = (
        arguments.datagrams,
        &arguments.namespace,
        arguments.bridged,
        arguments.routed,
        &arguments.container,
        &arguments.beside,
    ) {
        pin_to_this_cpu()?;
        let done = datagrams::run(
            count,
            Other {
                namespace,
                bridged,
                routed,
            },
            Cgroups { container, beside },
            arguments.hooks,
        )?;
        shell::out(serde_json::to_string(&done).context("write JSON")?);
    }
    if let Some(round_trips) = arguments.round_trips {
        let switched = ping_pong(round_trips)?;
        shell::out(serde_json::to_string(&switched).context("write JSON")?);
    }
    Ok(())
}

fn ping_pong(round_trips: u64) -> Result<Switched> {
    pin_to_this_cpu()?;
    let ((there, ping), (back, pong)) = (
        pipe().context("make a pipe")?,
        pipe().context("make a pipe")?,
    );
    let other = thread::spawn(move || pass_on(there, pong, round_trips));
    // The other thread is up when it blocks on the pipe.
    thread::sleep(Duration::from_millis(20));
    let (switches, cpu) = (own_switches()?, process_cpu_ns());
    serve(ping, back, round_trips)?;
    let done = Switched {
        switches: own_switches()? - switches,
        cpu_ns: process_cpu_ns() - cpu,
    };
    other
        .join()
        .map_err(|_panic| anyhow!("the other thread panicked"))??;
    Ok(done)
}

fn serve(mut to: PipeWriter, mut from: PipeReader, times: u64) -> Result<()> {
    let mut byte = [0];
    for _ in 0..times {
        to.write_all(&byte).context("write to the other thread")?;
        from.read_exact(&mut byte)
            .context("read from the other thread")?;
    }
    Ok(())
}

fn pass_on(mut from: PipeReader, mut to: PipeWriter, times: u64) -> Result<()> {
    let mut byte = [0];
    for _ in 0..times {
        from.read_exact(&mut byte)
            .context("read from the other thread")?;
        to.write_all(&byte).context("write to the other thread")?;
    }
    Ok(())
}

/// Has the command stay on one CPU, the `nth` of the machine. Where server and client are moved about, kept-alive requests
/// per second have two modes that lie 20 % apart, whatever else runs.
pub(super) fn stay(command: &mut Command, nth: usize) -> &mut Command {
    let cpu = nth % thread::available_parallelism().map_or(1, usize::from);
    // SAFETY: between fork and exec only a system call is made, on memory of the stack.
    unsafe { command.pre_exec(move || pin(cpu)) }
}

fn pin_to_this_cpu() -> Result<()> {
    // SAFETY: no arguments, no memory.
    let cpu = unsafe { libc::sched_getcpu() };
    pin(usize::try_from(cpu).context("this CPU")?).context("stay on one CPU")
}

/// Threads and processes that are made later inherit it.
fn pin(cpu: usize) -> std::io::Result<()> {
    // SAFETY: a set of bits; all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: sets a bit of the set, or none if the CPU's number is too large for it.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads as many bytes as the set has.
    let result =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

fn own_switches() -> Result<u64> {
    // SAFETY: a structure of numbers; all zero is a value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in the structure that the pointer points to.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context("count own context switches");
    }
    u64::try_from(usage.ru_nvcsw + usage.ru_nivcsw).context("a negative count")
}

#[cfg(test)]
mod tests {
    use super::{Counted, counted, ping_pong};

    const OUTPUT: &str = "Running 1s test @ http://10.244.0.2:8080/\n  1 threads and 16 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.21ms  305.83us  11.81ms   93.56%\n    Req/Sec    12.96k     1.02k   14.85k    80.00%\n  12902 requests in 1.00s, 2.11MB read\nRequests/sec:  12894.31\nTransfer/sec:      2.10MB\n";

    #[test]
    fn what_wrk_prints_is_read_and_errors_are_not_overlooked() {
        let expected = Counted {
            requests: 12_902,
            per_second: 12_894.31,
        };
        assert_eq!(counted(OUTPUT).unwrap(), expected);
        let failed = format!("{OUTPUT}  Socket errors: connect 0, read 3, write 0, timeout 0\n");
        assert!(counted(&failed).unwrap_err().to_string().contains("read 3"));
        assert!(counted("").is_err());
    }

    #[test]
    fn each_round_trip_is_two_switches() {
        let switched = ping_pong(500).unwrap();
        // One less where the other thread's last switch is its exit, which the kernel counts for nobody.
        assert!(switched.switches >= 2 * 500 - 1, "{switched:?}");
        assert!(switched.cpu_ns > 0);
    }
}
