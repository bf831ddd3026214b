//! What other tools on a node may do to the agent's programs: detach one, or attach a program that takes away callbacks.

use std::fs::{self, File};
use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};

const BPF_PROG_LOAD: i32 = 5;
const BPF_LINK_CREATE: i32 = 28;
const BPF_LINK_GET_FD_BY_ID: i32 = 30;
const BPF_LINK_DETACH: i32 = 34;

const BPF_PROG_TYPE_SOCK_OPS: u32 = 13;
const BPF_CGROUP_SOCK_OPS: u32 = 3;

/// Name of the program, as the kernel tells it.
pub const NAME: &str = "foreign_flags";

/// `return bpf_sock_ops_cb_flags_set(ctx, 0), 1`: what a tool does that thinks itself alone.
const NO_FLAGS: [[u8; 8]; 4] = [
    [0xb7, 2, 0, 0, 0, 0, 0, 0],
    [0x85, 0, 0, 0, 59, 0, 0, 0],
    [0xb7, 0, 0, 0, 1, 0, 0, 0],
    [0x95, 0, 0, 0, 0, 0, 0, 0],
];

/// `union bpf_attr` as words of eight bytes.
type Attributes = [u64; 16];

/// A `sock_ops` program of someone else's, attached while this lives.
#[derive(Debug)]
pub struct Foreign {
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Foreign {
    /// Attaches a program to a cgroup that replaces the callback flags of each socket in it and below by none.
    ///
    /// # Errors
    /// Without root, or when the kernel refuses.
    pub fn attach(cgroup: &Path) -> Result<Self> {
        let mut name = [0; 16];
        name[..NAME.len()].copy_from_slice(NAME.as_bytes());
        let (first, second) = name.split_at(8);
        let mut attributes: Attributes = [0; 16];
        attributes[0] = pair(BPF_PROG_TYPE_SOCK_OPS, 4);
        attributes[1] = NO_FLAGS.as_ptr() as u64;
        attributes[2] = c"GPL".as_ptr() as u64;
        attributes[6] = u64::from_ne_bytes(first.try_into().context("eight bytes")?);
        attributes[7] = u64::from_ne_bytes(second.try_into().context("eight bytes")?);
        let program = descriptor(BPF_PROG_LOAD, &mut attributes).context("load a program")?;
        let directory = File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))?;
        let mut attributes: Attributes = [0; 16];
        attributes[0] = pair(number(&program)?, number(&directory)?);
        attributes[1] = pair(BPF_CGROUP_SOCK_OPS, 0);
        let link = descriptor(BPF_LINK_CREATE, &mut attributes).context("attach it")?;
        Ok(Self {
            _program: program,
            _link: link,
        })
    }
}

/// `BPF_CGROUP_SOCK_OPS` of the kernel's `enum bpf_attach_type`.
pub const SOCK_OPS: u64 = 3;
/// `BPF_CGROUP_UDP4_SENDMSG`.
pub const UDP4_SENDMSG: u64 = 14;
/// `BPF_CGROUP_UDP4_RECVMSG`.
pub const UDP4_RECVMSG: u64 = 19;
/// `BPF_CGROUP_UDP6_RECVMSG`.
pub const UDP6_RECVMSG: u64 = 20;

/// Ids of the links of a process that hold a program of a type to the cgroup.
#[must_use]
pub fn links_of(pid: u32, cgroup: u64, attach_type: u64) -> Vec<u32> {
    let mut links = Vec::new();
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    for entry in entries.into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        if field("cgroup_id:") == Some(cgroup) && field("attach_type:") == Some(attach_type) {
            links.extend(field("link_id:").and_then(|id| u32::try_from(id).ok()));
        }
    }
    links
}

/// Detaches a link of another process, as `bpftool link detach id` does.
///
/// # Errors
/// Without root, or when there is no such link.
pub fn detach_link(id: u32) -> Result<()> {
    let mut attributes: Attributes = [0; 16];
    attributes[0] = pair(id, 0);
    let link = descriptor(BPF_LINK_GET_FD_BY_ID, &mut attributes).context("find the link")?;
    let mut attributes: Attributes = [0; 16];
    attributes[0] = pair(number(&link)?, 0);
    call(BPF_LINK_DETACH, &mut attributes).context("detach the link")?;
    Ok(())
}

/// Two words of four bytes in the order of memory.
fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn number(descriptor: &impl AsRawFd) -> Result<u32> {
    u32::try_from(descriptor.as_raw_fd()).context("a descriptor is not negative")
}

fn descriptor(command: i32, attributes: &mut Attributes) -> io::Result<OwnedFd> {
    let descriptor = call(command, attributes)?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn call(command: i32, attributes: &mut Attributes) -> io::Result<i32> {
    // SAFETY: the pointers in the attributes are to statics, and the length is that of the attributes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
