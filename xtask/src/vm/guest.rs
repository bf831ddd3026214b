//! What goes into the virtual machine, and what comes out of it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{setup, shell};

/// Modules that pods' networks and the reading of sockets need; those that are built in are reported and left out.
const MODULES: &str = "veth,bridge,sch_tbf,inet_diag,tcp_diag,udp_diag";

/// Programs of this machine that the tests call, in place of busybox's.
const TOOLS: [&str; 3] = ["ip", "tc", "sleep"];

/// Where programs lie in the guest; before busybox's applets.
const BIN: &str = "/usr/local/bin";

/// Tests of one binary.
pub(super) struct Suite {
    /// Integration test of the `tests` package.
    pub(super) test: &'static str,
    /// Whether it plays pods with networks of their own.
    pub(super) pod_network: bool,
    /// Only tests whose name contains one of these; all when empty.
    filters: Vec<String>,
}

impl Suite {
    fn new(test: &'static str, pod_network: bool, filters: &[&str]) -> Self {
        Self {
            test,
            pod_network,
            filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        }
    }

    /// Everything that makes sense in a guest.
    pub(super) fn all(filter: Option<&str>) -> Vec<Self> {
        let filters: Vec<&str> = filter.into_iter().collect();
        vec![
            Self::new("ebpf", true, &filters),
            Self::new("kernel_smoke", false, &filters),
            Self::new("agent", true, &filters),
            // Floods prove nothing on an emulated machine.
            Self::new(
                "load",
                true,
                filter.map_or(&["churn::"][..], |_| &filters[..]),
            ),
        ]
    }

    /// What tells most about a kernel in two minutes: each program loads, each probe says what is expected, and one exact
    /// test of each kind.
    pub(super) fn quick() -> Vec<Self> {
        let filters = [
            "verifier::",
            "matrix::",
            "flows::many_connections",
            "listeners::events_tell",
            "attribution::a_preforked",
            "cpu::usage_of",
            "quota::",
        ];
        vec![Self::new("ebpf", true, &filters)]
    }
}

/// Programs for the guest, without what only a debugger needs.
pub(super) struct Files {
    folder: PathBuf,
}

impl Files {
    /// Builds the tests and what they start, exactly as for the tests on this machine.
    pub(super) fn build(cargo: &setup::Cargo, suites: &[Suite]) -> Result<Self> {
        shell::run(
            cargo
                .command()
                .args(["build", "--workspace", "--bins", "--quiet"]),
        )?;
        let mut command = cargo.command();
        command.args(["test", "--workspace", "--no-run", "--quiet"]);
        command.args(["--message-format", "json-render-diagnostics"]);
        for suite in suites {
            command.args(["--test", suite.test]);
        }
        let mut programs = executables(&shell::stdout_of(&mut command)?);
        for name in ["plumbline", "plumbline-traffic"] {
            programs.insert(name.to_owned(), shell::target().join("debug").join(name));
        }
        let folder = cache().join("programs");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        for suite in suites {
            ensure!(
                programs.contains_key(suite.test),
                "cargo built no test {}",
                suite.test
            );
        }
        for (name, program) in &programs {
            lean_copy(program, &folder.join(name))?;
        }
        Ok(Self { folder })
    }
}

/// Test programs by name in what cargo says with `--message-format json`.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let artifact = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let executable = message["executable"].as_str()?;
        let is_test = message["target"]["kind"] == serde_json::json!(["test"]);
        let name = message["target"]["name"].as_str()?;
        is_test.then(|| (name.to_owned(), PathBuf::from(executable)))
    };
    messages.lines().filter_map(artifact).collect()
}

/// Copies a program, stripped where there is a `strip`: the guest keeps all its files in memory.
fn lean_copy(from: &Path, to: &Path) -> Result<()> {
    if shell::which("strip", &shell::path()).is_some() {
        return shell::run(Command::new("strip").arg("-o").arg(to).arg(from));
    }
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copy {}", from.display()))
}

/// Kernels, programs and results.
pub(super) fn cache() -> PathBuf {
    shell::target().join("vm")
}

/// What a kernel's run left.
pub(super) fn artifacts(kernel: &str) -> PathBuf {
    cache().join(kernel)
}

/// The script that fetches kernels and runs machines.
pub(super) fn script() -> Command {
    let mut command = Command::new("bash");
    command
        .arg(shell::root().join("tests/vm/run"))
        .env("VM_CACHE", cache())
        .current_dir(shell::root());
    command
}

/// Whether pods can have networks of their own: Debian keeps no modules of superseded kernels.
pub(super) fn has_pod_network(kernel: &str) -> bool {
    let modules = cache().join(format!("kernel-{kernel}/modules/drivers/net"));
    fs::read_dir(modules).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("veth.ko"))
    })
}

/// A guest that prints nothing for so long stands still: its longest test takes a minute. The kernel's own watchdogs do not see
/// every such state of emulation.
const SILENCE: Duration = Duration::from_secs(300);

/// The command that boots the kernel, runs the suites one after the other and leaves their artifacts in `out`, which stays
/// away if the machine dies or takes longer than `limit`.
pub(super) fn machine(
    kernel: &str,
    files: &Files,
    suites: &[&Suite],
    out: &Path,
    limit: Duration,
) -> Result<Command> {
    let todo = files.folder.join(format!("todo-{kernel}"));
    fs::write(&todo, steps(suites)).with_context(|| format!("write {}", todo.display()))?;
    let mut command = script();
    command.arg("-t").arg(limit.as_secs().to_string());
    command.arg("-s").arg(SILENCE.as_secs().to_string());
    command.args(["-m", MODULES]);
    command.arg("-o").arg(out);
    for tool in TOOLS {
        let mut path = shell::path();
        path.push(":/usr/sbin:/sbin");
        let from = shell::which(tool, &path).with_context(|| format!("no `{tool}` on PATH"))?;
        command
            .arg("-f")
            .arg(format!("{}:{BIN}/{tool}", from.display()));
    }
    let own = ["plumbline", "plumbline-traffic"];
    for name in own.into_iter().chain(suites.iter().map(|suite| suite.test)) {
        let from = files.folder.join(name);
        command
            .arg("-f")
            .arg(format!("{}:{BIN}/{name}", from.display()));
    }
    command.arg("-f").arg(format!("{}:/todo", todo.display()));
    for (name, value) in [
        ("PLUMBLINE_TEST_TIER", "guest"),
        ("PLUMBLINE_BIN", "/usr/local/bin/plumbline"),
        ("PLUMBLINE_TRAFFIC_BIN", "/usr/local/bin/plumbline-traffic"),
        ("PLUMBLINE_VERIFIER_LOGS", "/out/verifier"),
    ] {
        command.arg("-e").arg(format!("{name}={value}"));
    }
    command.args([kernel, "--", "sh", "/todo"]);
    Ok(command)
}

/// The script that runs in the guest.
fn steps(suites: &[&Suite]) -> String {
    let mut text = String::from("failed=0\n");
    for suite in suites {
        let filters: Vec<String> = suite
            .filters
            .iter()
            .map(|filter| format!("'{}'", filter.replace('\'', r"'\''")))
            .collect();
        text += &format!(
            "{BIN}/{} --test-threads=1 {} || failed=1\n",
            suite.test,
            filters.join(" ")
        );
    }
    text + "exit $failed\n"
}

/// The program of which the verifier looked at most instructions, with its limit.
pub(super) fn most_verified(out: &Path) -> Option<String> {
    let text = fs::read_to_string(out.join("verifier/instructions.tsv")).ok()?;
    let row = |line: &str| {
        let mut columns = line.split('\t');
        let name = columns.next()?.to_owned();
        let count: u64 = columns.next()?.parse().ok()?;
        Some((count, name, columns.next()?.to_owned()))
    };
    let (count, name, limit) = text.lines().filter_map(row).max()?;
    Some(format!("{count} of {limit} ({name})"))
}

/// Copies the verifier's logs to where they are wanted.
pub(super) fn copy_logs(out: &Path, to: &Path) -> Result<()> {
    let from = out.join("verifier");
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in fs::read_dir(&from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry.with_context(|| format!("list {}", from.display()))?;
        fs::copy(entry.path(), to.join(entry.file_name()))
            .with_context(|| format!("copy {}", entry.path().display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Suite, executables, steps};

    #[test]
    fn test_programs_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"ebpf"},"executable":"/t/ebpf-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"plumbline"},"executable":"/t/plumbline"}
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"x"},"executable":null}
{"reason":"build-finished","success":true}"#;
        let found: Vec<_> = executables(messages).into_iter().collect();
        assert_eq!(found, [("ebpf".to_owned(), "/t/ebpf-1".into())]);
    }

    #[test]
    fn the_guest_runs_each_suite_and_says_whether_one_failed() {
        let suites = Suite::all(Some("it's"));
        let suites: Vec<&Suite> = suites.iter().take(1).collect();
        assert_eq!(
            steps(&suites),
            "failed=0\n/usr/local/bin/ebpf --test-threads=1 'it'\\''s' || failed=1\nexit $failed\n"
        );
    }
}
