//! Runs commands and talks to the person at the terminal: progress on stderr, results on stdout, long output in log files.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};

/// How many of a failed command's last lines are shown; the rest is in its log.
const TAIL_LINES: usize = 25;

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .expect("xtask lies in the workspace's root")
        .to_owned()
}

/// Where cargo builds: `CARGO_TARGET_DIR`, or `target` in the workspace.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Programs that `setup` built for this workspace alone.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// A progress line, on stderr.
#[expect(clippy::print_stderr, reason = "xtask talks to a person")]
pub(crate) fn note(text: impl std::fmt::Display) {
    eprintln!("xtask: {text}");
}

/// A line of a command's output, on stderr as it is.
#[expect(clippy::print_stderr, reason = "xtask talks to a person")]
pub(crate) fn pass_on(line: &str) {
    eprintln!("{line}");
}

/// A result line, on stdout.
#[expect(clippy::print_stdout, reason = "a command's result belongs on stdout")]
pub(crate) fn out(text: impl std::fmt::Display) {
    println!("{text}");
}

/// The monotonic clock, for deadlines and durations.
#[expect(
    clippy::disallowed_methods,
    reason = "xtask is no part of the agent: nothing here is replayed"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// This program's file. Cargo may have replaced it since we started; the new one does the same.
pub(crate) fn own_program() -> Result<PathBuf> {
    let path = env::current_exe().context("path of xtask")?;
    Ok(undeleted(&path))
}

/// The kernel marks the path of a program whose file was replaced.
fn undeleted(path: &Path) -> PathBuf {
    match path
        .to_str()
        .and_then(|text| text.strip_suffix(" (deleted)"))
    {
        Some(replaced) if !path.exists() => PathBuf::from(replaced),
        _ => path.to_owned(),
    }
}

/// Whether this process may do what only root may.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The first executable of that name in the folders of `path`.
pub(crate) fn which(name: &str, path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path)
        .map(|dir| dir.join(name))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// This process's search path.
pub(crate) fn path() -> std::ffi::OsString {
    env::var_os("PATH").unwrap_or_default()
}

/// `PATH` with `first` before all else.
pub(crate) fn path_with(first: &[PathBuf]) -> Result<std::ffi::OsString> {
    let path = path();
    let dirs = first.iter().cloned().chain(env::split_paths(&path));
    env::join_paths(dirs).context("join the folders of PATH")
}

/// Runs a short command and returns what it wrote to stdout.
pub(crate) fn stdout_of(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", shown(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} failed ({}): {}",
            shown(command),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command with the terminal as its own; an error unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a long command: one progress line before, its whole output in `target/xtask/<log>.log`, the last lines of it in the error.
pub(crate) fn run_logged(what: &str, log: &str, command: &mut Command) -> Result<()> {
    let file_path = log_file(log)?;
    note(format_args!("{what} (log: {})", relative(&file_path)));
    let started = now();
    let file =
        fs::File::create(&file_path).with_context(|| format!("create {}", file_path.display()))?;
    let copy = file
        .try_clone()
        .with_context(|| format!("share {}", file_path.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(copy)
        .status();
    let status: ExitStatus = status.with_context(|| format!("start {}", shown(command)))?;
    if status.success() {
        note(format_args!(
            "{what}: done in {} s",
            started.elapsed().as_secs()
        ));
        return Ok(());
    }
    let text = fs::read(&file_path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines
        .get(lines.len().saturating_sub(TAIL_LINES)..)
        .unwrap_or_default()
        .join("\n  ");
    Err(anyhow!(
        "{what} failed ({status}): {}\n  {tail}\n  (all of it: {})",
        shown(command),
        relative(&file_path)
    ))
}

/// `target/xtask/<name>.log`, its folder made.
pub(crate) fn log_file(name: &str) -> Result<PathBuf> {
    let dir = target().join("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir.join(format!("{name}.log")))
}

/// A path as seen from the workspace's root.
pub(crate) fn relative(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::undeleted;

    #[test]
    fn path_of_a_replaced_program() {
        let replaced = Path::new("/nowhere/xtask (deleted)");
        assert_eq!(undeleted(replaced), Path::new("/nowhere/xtask"));
        assert_eq!(
            undeleted(Path::new("/nowhere/xtask")),
            Path::new("/nowhere/xtask")
        );
    }
}
