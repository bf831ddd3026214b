//! Whether this machine and this person may run tests with real eBPF, and which tests those are.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use crate::{setup, shell};

/// Integration tests that need neither root nor eBPF, by file name without `.rs`.
const HOSTED: [&str; 1] = ["replay"];

/// Programs that tests with real eBPF call, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 4] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("kill", "procps"),
    ("openssl", "openssl"),
];

/// How tests with real eBPF can run.
pub(super) enum Access {
    /// By this process.
    Direct,
    /// By a sudo that asks no password.
    Sudo,
    /// Not at all, for this reason.
    No(String),
}

/// Finds out, without changing anything.
pub(super) fn access(cargo: &setup::Cargo) -> Access {
    if let setup::Cargo::HostOnly(reason) = cargo {
        return Access::No(format!("the eBPF object cannot be built here: {reason}"));
    }
    if shell::is_root() {
        return match make_map() {
            Ok(()) => Access::Direct,
            Err(error) => Access::No(format!("this kernel or container refuses eBPF: {error}")),
        };
    }
    match shell::stdout_of(Command::new("sudo").args(["-n", "true"])) {
        Ok(_) => Access::Sudo,
        Err(_) => Access::No("they need root".into()),
    }
}

/// Makes sure that what the tests call is there.
pub(super) fn programs() -> Result<()> {
    PROGRAMS
        .iter()
        .try_for_each(|(name, package)| setup::program(name, package))
}

/// Lets cargo start test binaries, and nothing else, by sudo.
pub(super) fn sudo_runner() -> (String, &'static str) {
    let arch = if cfg!(target_arch = "aarch64") {
        "AARCH64"
    } else {
        "X86_64"
    };
    (
        format!("CARGO_TARGET_{arch}_UNKNOWN_LINUX_GNU_RUNNER"),
        "sudo -n -E",
    )
}

/// Integration tests by name: those that need no kernel (all of the agent's own), or the others.
pub(super) fn integration_tests(hosted: bool) -> Result<Vec<String>> {
    let mut names = files("tests/tests")?;
    names.retain(|name| HOSTED.contains(&name.as_str()) == hosted);
    if hosted {
        names.extend(files("agent/tests")?);
    }
    names.sort();
    Ok(names)
}

/// Names without `.rs` of the Rust files and of the folders with a `main.rs` in a folder.
fn files(folder: &str) -> Result<Vec<String>> {
    let dir = shell::root().join(folder);
    let entries = fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("list {}", dir.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "rs")
            || path.join("main.rs").is_file()
        {
            let name = path.file_stem().and_then(|name| name.to_str());
            names.extend(name.map(str::to_owned));
        }
    }
    Ok(names)
}

/// Makes the smallest eBPF map and forgets it: what every probe needs first.
fn make_map() -> std::io::Result<()> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    // The head of `union bpf_attr` for BPF_MAP_CREATE: type, key size, value size, entries; the kernel takes the rest as zero.
    let attr: [u32; 4] = [BPF_MAP_TYPE_ARRAY, 4, 4, 1];
    // SAFETY: the kernel reads `size_of_val(&attr)` bytes at the pointer, which is what `attr` holds.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_CREATE,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(fd).map_err(std::io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us, nobody else knows it.
    unsafe { libc::close(fd) };
    Ok(())
}
