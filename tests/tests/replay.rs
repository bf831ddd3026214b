//! Recordings of real nodes say the same again: no root, no kernel, the same bytes each time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use plumbline_tests::agent::built;
use serde_json::Value;

fn replay(recording: &Path) -> String {
    let output = Command::new(built().expect("the agent builds"))
        .arg("replay")
        .arg(recording)
        .output();
    let output = output.expect("the replay runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("JSON is text")
}

/// The lines that are findings; the others are reports, whose metrics may grow.
fn findings(output: &str) -> String {
    let is_finding = |line: &&str| -> bool {
        let value: Value = serde_json::from_str(line).expect("each line is JSON");
        value.get("rule_id").is_some()
    };
    output
        .lines()
        .filter(is_finding)
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[test]
fn every_recording_says_the_same_again() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("replay");
    let mut folders: Vec<PathBuf> = fs::read_dir(cases)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    assert!(!folders.is_empty());
    for folder in folders {
        let recording = folder.join("observations.jsonl");
        let (first, second) = (replay(&recording), replay(&recording));
        assert_eq!(first, second, "{}", folder.display());
        let expected = folder.join("findings.jsonl");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&expected, findings(&first)).unwrap();
        }
        assert_eq!(
            findings(&first),
            fs::read_to_string(&expected).unwrap(),
            "{}",
            folder.display()
        );
    }
}
