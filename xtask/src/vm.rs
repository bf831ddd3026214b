//! `cargo xtask vm`: the tests with real eBPF under other kernels, each in a virtual machine that is thrown away.

mod guest;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    setup, shell,
    test::{Count, run_counted},
};
use guest::{Files, Suite};

/// The matrix: the oldest kernel that is supported, Debian's stable ones, and the newest.
const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7.3"];

/// Those that `cargo xtask test` runs, with a few tests each.
const QUICK: [&str; 2] = ["6.1", "7.3"];

/// Emulated machines are about twenty times slower than real ones, and this one may be busy.
const LIMIT: Duration = Duration::from_secs(2400);

/// A minute where nothing else runs.
const QUICK_LIMIT: Duration = Duration::from_secs(900);

/// Which kernels, and which tests.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Series such as `6.1`; all of the matrix when none is named
    kernels: Vec<String>,
    /// Only tests whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Where the verifier's logs go, in a folder for each kernel [default: target/vm/<KERNEL>/verifier]
    #[arg(long, value_name = "DIR")]
    verifier_logs: Option<PathBuf>,
}

/// The command; the last line on stdout is the count.
pub(crate) fn command(arguments: &Arguments) -> Result<()> {
    ensure_possible()?;
    let cargo = setup::Cargo::find();
    if let setup::Cargo::HostOnly(reason) = &cargo {
        bail!("the eBPF object cannot be built here: {reason}");
    }
    let kernels: Vec<&str> = if arguments.kernels.is_empty() {
        KERNELS.to_vec()
    } else {
        arguments.kernels.iter().map(String::as_str).collect()
    };
    let suites = Suite::all(arguments.filter.as_deref());
    let files = Files::build(&cargo, &suites)?;
    let mut table = vec![Row::head()];
    let mut total = Count::default();
    for kernel in kernels {
        let row = Row::of(kernel, &files, &suites, LIMIT);
        if let Some(logs) = &arguments.verifier_logs
            && let Err(error) = guest::copy_logs(&guest::artifacts(kernel), &logs.join(kernel))
        {
            shell::note(format_args!("the verifier's logs: {error:#}"));
        }
        total += row.count;
        table.push(row);
    }
    table.iter().for_each(|row| shell::out(row.line()));
    shell::out(total);
    if total.failed > 0 {
        bail!("not all is well");
    }
    Ok(())
}

/// The quick part, for `cargo xtask test`: what cannot be had here is counted as skipped, and said.
pub(crate) fn quick(cargo: &setup::Cargo) -> Result<Count> {
    let suites = Suite::quick();
    let mut total = Count::default();
    let mut kernels = Vec::new();
    for kernel in QUICK {
        match ensure_possible().and_then(|()| fetch(kernel)) {
            Ok(_) => kernels.push(kernel),
            Err(error) => {
                shell::note(format_args!("tests on Linux {kernel} skipped: {error:#}"));
                total.skipped += 1;
            }
        }
    }
    if kernels.is_empty() {
        return Ok(total);
    }
    let files = Files::build(cargo, &suites)?;
    for kernel in kernels {
        let row = Row::of(kernel, &files, &suites, QUICK_LIMIT);
        shell::note(row.line());
        total += row.count;
    }
    Ok(total)
}

/// Whether virtual machines of this processor can be had at all.
fn ensure_possible() -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the virtual machines are x86-64, and this machine is not"
    );
    Ok(())
}

/// Gets the kernel, qemu and busybox, if they are not there. The kernel's full name.
fn fetch(kernel: &str) -> Result<String> {
    shell::run_logged(
        &format!("fetching Linux {kernel} and what runs it"),
        &format!("vm-fetch-{kernel}"),
        guest::script().args(["--fetch", kernel]),
    )?;
    let name = guest::cache().join(format!("kernel-{kernel}/name"));
    let text = fs::read_to_string(&name).with_context(|| format!("read {}", name.display()))?;
    Ok(text.trim().to_owned())
}

/// What one kernel came to.
struct Row {
    kernel: String,
    release: String,
    count: Count,
    seconds: String,
    verified: String,
}

impl Row {
    fn head() -> Self {
        Self {
            kernel: "KERNEL".into(),
            release: "RELEASE".into(),
            count: Count::default(),
            seconds: "SECONDS".into(),
            verified: "MOST INSTRUCTIONS VERIFIED".into(),
        }
    }

    /// Runs the suites. A kernel that cannot be had, or that dies, counts as one failure.
    fn of(kernel: &str, files: &Files, suites: &[Suite], limit: Duration) -> Self {
        let started = shell::now();
        let failed = |error: &anyhow::Error| {
            shell::note(format_args!("Linux {kernel}: {error:#}"));
            Count {
                failed: 1,
                ..Count::default()
            }
        };
        let out = guest::artifacts(kernel);
        let (release, count) = match fetch(kernel) {
            Ok(release) => {
                shell::note(format_args!("Linux {release}"));
                let count =
                    run(kernel, files, suites, limit).unwrap_or_else(|error| failed(&error));
                (release, count)
            }
            Err(error) => ("-".into(), failed(&error)),
        };
        let verified = guest::most_verified(&out).unwrap_or_else(|| "-".into());
        Self {
            kernel: kernel.to_owned(),
            release,
            count,
            seconds: started.elapsed().as_secs().to_string(),
            verified,
        }
    }

    fn line(&self) -> String {
        let count = if self.seconds == "SECONDS" {
            "TESTS".to_owned()
        } else {
            self.count.to_string()
        };
        format!(
            "{:<7} {:<28} {:<32} {:>7}  {}",
            self.kernel, self.release, count, self.seconds, self.verified
        )
    }
}

fn run(kernel: &str, files: &Files, suites: &[Suite], limit: Duration) -> Result<Count> {
    let mut total = Count::default();
    let mut suites: Vec<&Suite> = suites.iter().collect();
    if !guest::has_pod_network(kernel) {
        let (here, elsewhere) = suites.into_iter().partition(|suite| !suite.pod_network);
        suites = here;
        let elsewhere: Vec<&Suite> = elsewhere;
        for suite in elsewhere {
            shell::note(format_args!(
                "Linux {kernel} has no module veth here: {} skipped",
                suite.test
            ));
            total.skipped += 1;
        }
    }
    let (mut count, mut alive) = boot(kernel, files, &suites, limit)?;
    if !alive {
        // Emulation was seen to hang Linux 6.1 in its allocator. A fault of ours does it twice.
        shell::note(format_args!(
            "Linux {kernel} died or stood still, see its last lines above: all of its tests once more"
        ));
        (count, alive) = boot(kernel, files, &suites, limit)?;
    }
    ensure!(alive, "the machine died twice");
    ensure!(
        count.passed + count.failed > 0,
        "no test ran: is there one of that name?"
    );
    total += count;
    Ok(total)
}

/// One machine's life: what its tests came to, and whether it lived to their end.
fn boot(kernel: &str, files: &Files, suites: &[&Suite], limit: Duration) -> Result<(Count, bool)> {
    let out = guest::artifacts(kernel);
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("remove {}", out.display()))?;
    }
    let count = run_counted(&mut guest::machine(kernel, files, suites, &out, limit)?)?;
    Ok((count, out.exists()))
}
