//! Recordings of real nodes, replayed: each `tests/replay/<case>/observations.jsonl` gives exactly its `output.jsonl`.
//! `UPDATE_EXPECT=1` writes it anew. No root, no kernel.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fmt::Write as _;
use std::path::Path;

use expect_test::expect_file;
use plumbline::record;

/// What `plumbline replay` prints: transitions as they happen, then the last report.
fn replayed(recording: &Path) -> String {
    let mut output = String::new();
    let mut end = record::replay(recording, |evaluation| {
        for finding in &evaluation.transitions {
            writeln!(output, "{}", serde_json::to_string(finding)?)?;
        }
        Ok(())
    })
    .unwrap();
    let report = end.engine.last_report(end.last);
    writeln!(output, "{}", serde_json::to_string(&report).unwrap()).unwrap();
    output
}

#[test]
fn every_case_gives_what_it_gave() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("replay");
    let mut seen = 0;
    for case in std::fs::read_dir(cases).unwrap() {
        let case = case.unwrap().path();
        if !case.is_dir() {
            continue;
        }
        let recording = case.join("observations.jsonl");
        let output = replayed(&recording);
        assert_eq!(output, replayed(&recording), "{}", case.display());
        expect_file![case.join("output.jsonl")].assert_eq(&output);
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn a_damaged_recording_is_told_by_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.jsonl");
    let whole = include_str!("../replay/demo/observations.jsonl");
    let cut = whole.lines().take(3).collect::<Vec<_>>().join("\n");
    std::fs::write(
        &path,
        format!("{cut}\n{{\"at\":1,\"kind\":\"nonsense\"}}\n"),
    )
    .unwrap();
    let error = format!("{:#}", record::replay(&path, |_| Ok(())).unwrap_err());
    assert!(error.contains("line 4"), "{error}");
    std::fs::write(&path, "{}\n").unwrap();
    let error = format!("{:#}", record::replay(&path, |_| Ok(())).unwrap_err());
    assert!(error.contains("line 1"), "{error}");
}
