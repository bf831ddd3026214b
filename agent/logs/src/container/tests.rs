use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use flate2::{Compression, write::GzEncoder};

use super::{Container, Scan};
use crate::batch::SourceId;
use crate::guard::Root;
use crate::source::Source;

fn append(path: &Path, line: &str) {
    let mut options = File::options();
    let mut file = options.create(true).append(true).open(path).unwrap();
    writeln!(file, "2026-11-25T10:00:00.000000000Z stdout F {line}").unwrap();
}

/// Between two looks: renamed with a line that was not read, replaced, replaced again, and compressed.
#[test]
fn a_file_that_was_compressed_unread_stays_older_than_what_came_after() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("shop_web-0_uid-0/app");
    fs::create_dir_all(&logs).unwrap();
    let root = Root::open(directory.path()).unwrap();
    let source = Source::parse(b"shop_web-0_uid-0", b"app").unwrap();
    let mut container = Container::new(SourceId(1), source, Vec::new());
    let look = |container: &mut Container| {
        let mut refused = BTreeMap::new();
        container.scan(&mut Scan {
            root: &root,
            now: Duration::ZERO,
            refused: &mut refused,
        });
        assert_eq!(refused, BTreeMap::new());
    };
    let (live, first) = (logs.join("0.log"), logs.join("0.log.20261125-100000"));
    append(&live, "one");
    look(&mut container);
    let oldest = container.files.first().unwrap().id;

    append(&live, "two");
    fs::rename(&live, &first).unwrap();
    append(&live, "three");
    fs::rename(&live, logs.join("0.log.20261125-100010")).unwrap();
    append(&live, "four");
    let compressed = File::create(logs.join("0.log.20261125-100000.gz")).unwrap();
    let mut encoder = GzEncoder::new(compressed, Compression::fast());
    encoder.write_all(&fs::read(&first).unwrap()).unwrap();
    encoder.finish().unwrap();
    fs::remove_file(&first).unwrap();
    look(&mut container);
    assert_eq!(container.files.len(), 3);
    let next = container.next_readable(Duration::ZERO).unwrap();
    assert_eq!(container.files.get(next).unwrap().id, oldest);
}
