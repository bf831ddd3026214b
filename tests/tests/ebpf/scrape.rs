//! What one reading of the cgroups' CPU files costs. Not a test of anything: run by hand with `--ignored`.

use std::time::Duration;

use plumbline::sources::cgroups::CgroupRoot;
use plumbline::sources::{Sink, cpu};
use plumbline_core::id::CgroupId;
use plumbline_core::observation::CgroupRow;
use plumbline_tests::cgroup::create;
use plumbline_tests::wait::thread_cpu_ns;

use super::observer::sandbox;

const PODS: u64 = 110;
const CONTAINERS: u64 = 3;
const READINGS: u32 = 30;

#[test]
#[ignore = "measures, asserts nothing"]
fn a_reading_of_330_containers() {
    let Some(sandbox) = sandbox() else { return };
    let mut rows = Vec::new();
    for pod in 0..PODS {
        for container in 0..CONTAINERS {
            let path = format!(
                "/kubepods/burstable/pod{pod:08x}-0000-4000-8000-000000000000/{container:064x}"
            );
            let directory = sandbox.root().join(path.trim_start_matches('/'));
            rows.push(CgroupRow {
                cgroup: CgroupId(create(&directory).unwrap()),
                path,
            });
        }
    }
    let root = CgroupRoot::find(Some(sandbox.root())).unwrap();
    let (sink, mut receiver) = Sink::new();
    let mut reader = cpu::Reader::new(root, "/proc".into());
    let mut spent = Vec::new();
    for _ in 0..READINGS {
        let begun = thread_cpu_ns();
        let status = reader.read(&rows, &sink);
        spent.push(Duration::from_nanos(thread_cpu_ns() - begun));
        assert_eq!(status.reason, None);
        while receiver.try_recv().is_ok() {}
    }
    let first = spent.remove(0);
    spent.sort_unstable();
    println!(
        "{} containers of {PODS} pods: the first reading {first:?} of CPU time, then {:?} (median), {:?} (most)",
        rows.len(),
        spent[spent.len() / 2],
        spent[spent.len() - 1]
    );
}
