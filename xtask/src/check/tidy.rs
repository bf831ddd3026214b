//! The workspace's own rules about files: short sources, dashboards that parse. Functions are measured by clippy.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Lines of a source file, tests included.
const FILE_LINES_MAX: usize = 500;
/// Folders that hold our sources.
const FOLDERS: [&str; 5] = ["agent", "agent-ebpf", "tests", "xtask", "dashboards"];

/// Reads every file once and names all that break a rule.
pub(crate) fn run() -> Result<()> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&shell::root().join(folder), &mut files)?;
    }
    let problems: Vec<String> = files
        .iter()
        .filter_map(|file| problem(file).transpose())
        .collect::<Result<_>>()?;
    if !problems.is_empty() {
        bail!("\n  {}", problems.join("\n  "));
    }
    Ok(())
}

/// What is wrong with one file, if anything.
fn problem(file: &Path) -> Result<Option<String>> {
    let read = || fs::read_to_string(file).with_context(|| format!("read {}", file.display()));
    let said = match file.extension().and_then(|e| e.to_str()) {
        Some("rs") => too_long(&read()?),
        Some("json") => serde_json::from_str::<serde::de::IgnoredAny>(&read()?)
            .err()
            .map(|e| e.to_string()),
        _ => None,
    };
    Ok(said.map(|said| format!("{}: {said}", shell::relative(file))))
}

fn too_long(text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > FILE_LINES_MAX).then(|| format!("{lines} lines, more than {FILE_LINES_MAX}: split it"))
}

/// All files below `dir`, which need not exist; build output and hidden folders left out.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("list {}", dir.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        let name = entry.file_name();
        if name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        if entry
            .file_type()
            .with_context(|| format!("look at {}", entry.path().display()))?
            .is_dir()
        {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{FILE_LINES_MAX, too_long};

    #[test]
    fn length_of_a_file() {
        assert_eq!(too_long(&"x\n".repeat(FILE_LINES_MAX)), None);
        assert!(too_long(&"x\n".repeat(FILE_LINES_MAX + 1)).is_some());
    }
}
