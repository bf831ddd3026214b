use std::fs;
use std::path::Path;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{CgroupRow, CpuMax, CpuPressure, CpuStatRow};

use super::Reader;
use crate::sources::cgroups::CgroupRoot;

const POD: &str = "/kubepods/pod1";

/// A tree of files in place of a cgroup v2 with its controllers.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, files: &[(&str, &str)]) {
        let directory = self.0.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(&directory).unwrap();
        for (file, text) in files {
            fs::write(directory.join(file), text).unwrap();
        }
    }

    fn reader(&self) -> Reader {
        let root = CgroupRoot {
            directory: self.0.path().to_path_buf(),
            kernel_path: None,
        };
        Reader::new(root, Path::new("/nowhere").to_path_buf())
    }
}

fn container(id: u64) -> CgroupRow {
    CgroupRow {
        cgroup: CgroupId(id),
        path: format!("{POD}/c{id}"),
    }
}

fn read(reader: &mut Reader, containers: &[CgroupRow]) -> (Vec<CpuStatRow>, Vec<CpuStatRow>) {
    let mut unreadable = None;
    let rows = reader.rows(containers, &mut unreadable);
    assert_eq!(unreadable, None);
    rows
}

#[test]
fn every_file_of_a_container_is_read_and_the_time_of_its_pod() {
    let tree = Tree::new();
    let pressure = "some avg10=0.00 total=7\nfull avg10=0.00 total=7\n";
    let of_pod = [
        ("cpu.stat", "usage_usec 900\n"),
        ("cpu.weight", "3\n"),
        ("cpu.pressure", pressure),
    ];
    tree.write(POD, &of_pod);
    tree.write(
        &container(1).path,
        &[
            (
                "cpu.stat",
                "usage_usec 5\nnr_periods 3\nnr_throttled 1\nthrottled_usec 9\n",
            ),
            ("cpu.max", "50000 100000\n"),
            ("cpu.max.burst", "700\n"),
            ("cpu.weight", "39\n"),
            (
                "cpu.pressure",
                "some avg10=0.00 total=11\nfull avg10=0.00 total=4\n",
            ),
        ],
    );
    tree.write(&container(2).path, &[("cpu.stat", "usage_usec 6\n")]);
    let (rows, pods) = read(&mut tree.reader(), &[container(1), container(2)]);
    let expected = [
        CpuStatRow {
            cgroup: CgroupId(1),
            usage_us: 5,
            periods: Some(3),
            throttled_periods: Some(1),
            throttled_us: Some(9),
            max: Some(CpuMax {
                quota_us: Some(50_000),
                period_us: 100_000,
                burst_us: 700,
            }),
            weight: Some(39),
            pressure: Some(CpuPressure {
                some_us: 11,
                full_us: Some(4),
            }),
            ..CpuStatRow::default()
        },
        CpuStatRow {
            cgroup: CgroupId(2),
            usage_us: 6,
            ..CpuStatRow::default()
        },
    ];
    assert_eq!(rows, expected);
    assert_eq!(pods.len(), 1, "two containers of one pod");
    let time_alone = CpuStatRow {
        cgroup: pods[0].cgroup,
        usage_us: 900,
        ..CpuStatRow::default()
    };
    assert_eq!(pods[0], time_alone);
    assert!(pods[0].cgroup.0 > 2, "the directory's own inode");
}

#[test]
fn figures_are_read_again_and_settings_within_a_round() {
    let tree = Tree::new();
    let files = [("cpu.stat", "usage_usec 5\n"), ("cpu.weight", "1\n")];
    tree.write(POD, &[("cpu.stat", "usage_usec 1\n")]);
    tree.write(&container(1).path, &files);
    let mut reader = tree.reader();
    read(&mut reader, &[container(1)]);
    tree.write(
        &container(1).path,
        &[("cpu.stat", "usage_usec 8\n"), ("cpu.weight", "2\n")],
    );
    let mut weights = Vec::new();
    for _ in 0..=super::SETTINGS_ROUND {
        let (rows, _) = read(&mut reader, &[container(1)]);
        assert_eq!(rows[0].usage_us, 8);
        weights.push(rows[0].weight);
    }
    assert_eq!(weights.last(), Some(&Some(2)));
}

#[test]
fn what_ended_is_closed_and_what_took_its_place_is_opened() {
    let tree = Tree::new();
    tree.write(POD, &[("cpu.stat", "usage_usec 1\n")]);
    tree.write(&container(1).path, &[("cpu.stat", "usage_usec 5\n")]);
    let mut reader = tree.reader();
    read(&mut reader, &[container(1)]);
    assert_eq!(reader.open.len(), 2);
    let successor = CgroupRow {
        cgroup: CgroupId(9),
        ..container(1)
    };
    fs::remove_file(tree.0.path().join("kubepods/pod1/c1/cpu.stat")).unwrap();
    tree.write(&container(1).path, &[("cpu.stat", "usage_usec 3\n")]);
    let (rows, _) = read(&mut reader, &[successor]);
    assert_eq!((rows[0].cgroup, rows[0].usage_us), (CgroupId(9), 3));
    let (rows, pods) = read(&mut reader, &[container(7)]);
    assert_eq!((rows.len(), pods.len()), (0, 1), "never made");
    read(&mut reader, &[]);
    assert!(reader.open.is_empty());
}

#[test]
fn what_cannot_be_read_is_told() {
    let tree = Tree::new();
    fs::create_dir_all(tree.0.path().join("kubepods/pod1/c1/cpu.stat")).unwrap();
    let mut unreadable = None;
    let (rows, _) = tree.reader().rows(&[container(1)], &mut unreadable);
    assert!(rows.is_empty());
    assert!(unreadable.unwrap().contains("c1/cpu.stat"));
}
