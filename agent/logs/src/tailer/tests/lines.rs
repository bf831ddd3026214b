//! Lines as they should not be: none stops a file, and what follows is whole.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Arrived, settings, start, until};

const TIME: &str = "2026-11-25T10:00:00.000000001Z";

fn read(bytes: &[u8], records: usize, change: impl FnOnce(&mut super::Settings)) -> Vec<String> {
    let (root, arrived) = (tempfile::tempdir().unwrap(), Arrived::default());
    let directory = root.path().join("shop_web_uid/app");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("0.log"), bytes).unwrap();
    let mut settings = settings(root.path());
    change(&mut settings);
    let reader = start(settings, &arrived);
    until("the records", || arrived.len() >= records);
    reader.join();
    arrived.bodies()
}

#[test]
fn odd_lines() {
    let mut file = Vec::new();
    for line in [
        b"\x00\xff\x1b[31mno line\r".as_slice(),
        b"",
        b"9999-11-25T10:00:00Z stdout F year",
        b"2026-11-25T10:00:00Z stdout F \xc3\x28 invalid",
        b"2026-11-25T10:00:00Z stdout F \x1b]0;title\x07\x00",
        b"2026-11-25T10:00:00Z stdout F {\"k8s.pod.name\":\"other\"}",
        b"2026-11-25T10:00:00Z stdout F",
        b"2026-11-25T10:00:00Z stdout F good\r",
    ] {
        file.extend_from_slice(line);
        file.push(b'\n');
    }
    // Not ended: it is not shipped while the file is written to.
    file.extend_from_slice(b"2026-11-25T10:00:00Z stdout F unfinished");
    let want = [
        "\\x00\\xff\\x1b[31mno line\\r (raw)",
        " (raw)",
        "9999-11-25T10:00:00Z stdout F year (raw)",
        "\\xc3( invalid",
        "\u{1b}]0;title\u{7}\0",
        "{\"k8s.pod.name\":\"other\"}",
        "",
        "good\r",
    ];
    assert_eq!(read(&file, want.len(), |_| {}), want);
}

#[test]
fn long_lines_around_each_bound() {
    for cap in [100, 4_096, 1 << 20] {
        for len in [cap - 1, cap, cap + 1, 3 * cap] {
            let long = "y".repeat(len);
            let file = format!("{TIME} stdout F {long}\n{TIME} stdout F next\n");
            let cut = if len > cap { " (cut)" } else { "" };
            let want = [
                format!("{}{cut}", "y".repeat(len.min(cap))),
                "next".to_owned(),
            ];
            assert!(
                read(file.as_bytes(), 2, |settings| settings.line_bytes_max = cap) == want,
                "{len} of {cap}"
            );
        }
    }
}

#[test]
fn an_endless_line_is_cut_and_the_next_is_whole() {
    // Neither parts of one line nor one line without an end may pass the cap.
    let part = format!("{TIME} stdout P {}\n", "z".repeat(16 << 10));
    let mut file = part.repeat(500).into_bytes();
    writeln!(file, "{TIME} stdout F end").unwrap();
    writeln!(file, "{TIME} stdout F next").unwrap();
    file.extend(vec![b'w'; 5 << 20]);
    writeln!(file, "\n{TIME} stdout F last").unwrap();
    let got = read(&file, 4, |_| {});
    let lens: Vec<_> = got
        .iter()
        .map(|body| (body.len(), &body[body.len().saturating_sub(12)..]))
        .collect();
    assert_eq!(got.len(), 4, "{lens:?}");
    assert!(
        got[0].starts_with("zzz") && got[0].ends_with("z (cut)") && got[0].len() == (1 << 20) + 6,
        "{lens:?}"
    );
    assert_eq!((got[1].as_str(), got[3].as_str()), ("next", "last"));
    assert!(got[2].ends_with("w (cut) (raw)"), "{lens:?}");
}

#[test]
fn a_long_line_in_a_compressed_file_is_whole() {
    let (root, arrived) = (tempfile::tempdir().unwrap(), Arrived::default());
    let directory = root.path().join("shop_web_uid/app");
    fs::create_dir_all(&directory).unwrap();
    // Longer than what is read at once.
    let long: String = (0..80_000).map(|number| format!("{number} ")).collect();
    let name = directory.join("0.log.20261125-100000.gz");
    let mut encoder = GzEncoder::new(fs::File::create(name).unwrap(), Compression::default());
    write!(
        encoder,
        "{TIME} stdout F a\n{TIME} stdout F {long}\n{TIME} stdout F next\n"
    )
    .unwrap();
    encoder.finish().unwrap();
    let reader = start(settings(root.path()), &arrived);
    until("the records", || arrived.len() >= 3);
    reader.join();
    assert!(arrived.bodies() == ["a", &long, "next"]);
}

#[test]
fn a_file_is_read_though_the_end_of_the_run_before_has_filled_the_batch() {
    let (root, arrived) = (tempfile::tempdir().unwrap(), Arrived::default());
    let directory = root.path().join("shop_web_uid/app");
    fs::create_dir_all(&directory).unwrap();
    let part = "p".repeat(20_000);
    append(
        &directory.join("0.log"),
        &format!("{TIME} stdout P {part}\n"),
    );
    append(&directory.join("1.log"), &format!("{TIME} stdout F next\n"));
    let mut settings = settings(root.path());
    // Full 32 KiB before this.
    settings.batch_bytes = (32 << 10) + 10_000;
    let reader = start(settings, &arrived);
    until("both", || arrived.len() >= 2);
    reader.join();
    assert!(arrived.bodies() == [format!("{part} (cut)"), "next".to_owned()]);
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_last_line_without_end_is_shipped_when_the_file_is_over() {
    let (root, arrived) = (tempfile::tempdir().unwrap(), Arrived::default());
    let directory = root.path().join("shop_web_uid/app");
    fs::create_dir_all(&directory).unwrap();
    append(
        &directory.join("0.log"),
        &format!("{TIME} stdout F a\n{TIME} stdout P b\n{TIME} stdout F cut o"),
    );
    let reader = start(settings(root.path()), &arrived);
    until("the first", || arrived.len() == 1);
    append(
        &directory.join("1.log"),
        &format!("{TIME} stdout F next run\n"),
    );
    until("all", || arrived.len() >= 3);
    let stats = reader.join();
    let mut bodies = arrived.bodies();
    bodies.sort();
    // The part and the unfinished line become one record: nobody will end either.
    assert!(
        bodies.contains(&"a".to_owned()) && bodies.contains(&"next run".to_owned()),
        "{bodies:?} {stats:?}"
    );
    assert!(
        bodies
            .iter()
            .any(|body| body.contains("cut o (cut)") || body == "b (cut)"),
        "{bodies:?}"
    );
}
