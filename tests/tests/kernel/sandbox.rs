//! Pod-shaped cgroups below a directory of our own, and this process inside them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plumbline::sources::cgroups::{CgroupRoot, v2_path};
use plumbline_core::id::CgroupId;

/// The process is in one cgroup at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A directory of our own in the cgroup2 mount; removed in the end, with all that is in it.
pub(crate) struct Sandbox {
    directory: PathBuf,
    _lock: MutexGuard<'static, ()>,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mount = CgroupRoot::find(None).expect("cgroup v2").directory;
        let directory = mount.join(format!("plumbline-test-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("root");
        Self {
            directory,
            _lock: lock,
        }
    }

    /// Where the agent looks for pods.
    pub(crate) fn root(&self) -> CgroupRoot {
        CgroupRoot::find(Some(&self.directory)).unwrap()
    }

    /// A container as containerd and systemd lay it out.
    pub(crate) fn container(&self, pod: u32, container: u32) -> Cgroup {
        let path = format!(
            "kubepods.slice/kubepods-burstable.slice/\
             kubepods-burstable-pod{pod:08x}_0000_4000_8000_000000000000.slice/cri-containerd-{container:064x}.scope"
        );
        Cgroup::make(self.directory.join(path))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        remove(&self.directory)
            .unwrap_or_else(|error| println!("{}: {error}", self.directory.display()));
    }
}

/// Removes a cgroup and those in it; the processes in it must have ended, which takes the kernel a moment.
fn remove(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    let mut result = Ok(());
    for _ in 0..200 {
        result = fs::remove_dir(directory);
        if result.is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    result
}

/// A cgroup.
pub(crate) struct Cgroup {
    pub(crate) directory: PathBuf,
    pub(crate) id: CgroupId,
}

impl Cgroup {
    fn make(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).unwrap();
        let id = CgroupId(fs::metadata(&directory).unwrap().ino());
        Self { directory, id }
    }

    /// A cgroup below it, as a container that runs systemd makes them.
    pub(crate) fn nested(&self, name: &str) -> Self {
        Self::make(self.directory.join(name))
    }

    pub(crate) fn remove(&self) {
        fs::remove_dir(&self.directory).unwrap();
    }

    /// Runs the closure with this process in the cgroup: sockets that it makes are the cgroup's.
    pub(crate) fn inside<T>(&self, run: impl FnOnce() -> T) -> T {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap();
        let mount = CgroupRoot::find(None).unwrap();
        let home = mount.directory_of(v2_path(&text).unwrap());
        self.join("0");
        let result = run();
        fs::write(home.join("cgroup.procs"), "0").unwrap();
        result
    }

    fn join(&self, pid: &str) {
        fs::write(self.directory.join("cgroup.procs"), pid).unwrap();
    }
}

/// One busy process in each of the cgroups, for a while.
pub(crate) fn burn(cgroups: &[&Cgroup], span: Duration) {
    let mut children: Vec<Child> = Vec::new();
    for cgroup in cgroups {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "read go; while :; do :; done"])
            .stdin(Stdio::piped());
        let child = shell.spawn().unwrap();
        cgroup.join(&child.id().to_string());
        children.push(child);
    }
    for child in &mut children {
        // Now that it is where it belongs.
        drop(child.stdin.take());
    }
    std::thread::sleep(span);
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// `usage_usec` of the cgroup, with those below it.
pub(crate) fn usage_us(cgroup: &Cgroup) -> u64 {
    let stat = fs::read_to_string(cgroup.directory.join("cpu.stat")).unwrap();
    stat.lines()
        .find_map(|line| line.strip_prefix("usage_usec "))
        .unwrap()
        .parse()
        .unwrap()
}

/// Time that the hypervisor took from this machine, in all.
pub(crate) fn steal_us() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let ticks: u64 = stat
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .nth(8)
        .unwrap()
        .parse()
        .unwrap();
    ticks * 10_000
}
