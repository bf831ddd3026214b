//! The kernel's own account of eBPF programs: switched on, read, and compared with empty programs on the same hooks.
//!
//! Plain system calls: xtask is compiled before anything else and does without a loader library.

use std::{
    fs::File,
    io,
    os::fd::{FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result};

/// Begins the name of each of the agent's programs.
const PREFIX: &str = "plumb_";

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_GET_NEXT_ID: i32 = 11;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_MAP_GET_FD_BY_ID: i32 = 14;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_RAW_TRACEPOINT_OPEN: i32 = 17;
const BPF_LINK_CREATE: i32 = 28;
const BPF_ENABLE_STATS: i32 = 32;

const BPF_PROG_TYPE_SOCK_OPS: u32 = 13;
const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_SOCK_OPS: u32 = 3;
const BPF_CGROUP_UDP4_SENDMSG: u32 = 14;
const BPF_CGROUP_UDP4_RECVMSG: u32 = 19;

/// `union bpf_attr` as words of four bytes.
type Attributes = [u32; 32];

/// What the kernel says about a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Its id.
    pub(super) id: u32,
    /// At most 15 characters.
    pub(super) name: String,
    /// Runs while statistics were on.
    pub(super) runs: u64,
    /// Nanoseconds in those runs.
    pub(super) ns: u64,
}

/// Statistics are on while this lives.
#[derive(Debug)]
pub(super) struct Statistics(#[expect(dead_code, reason = "held open")] OwnedFd);

impl Statistics {
    /// Has the kernel count runs and time of all programs. Costs each run two readings of the clock.
    ///
    /// # Errors
    /// Without the right to, or before Linux 5.8.
    pub(super) fn on() -> Result<Self> {
        let mut attributes = [0; 32];
        let descriptor = descriptor(BPF_ENABLE_STATS, &mut attributes);
        Ok(Self(descriptor.context(
            "switch on the kernel's statistics of eBPF programs (Linux 5.8)",
        )?))
    }
}

/// Programs that do nothing, on the hooks of the agent: what a run costs at least, reading the clocks included.
#[derive(Debug)]
pub(super) struct Floor {
    programs: [OwnedFd; 2],
    #[expect(dead_code, reason = "attached while held open")]
    links: Vec<OwnedFd>,
}

impl Floor {
    /// Attaches one to `sched_switch` and one to the TCP of each cgroup.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn attach(cgroups: &[&Path]) -> Result<Self> {
        let switch = load_empty(BPF_PROG_TYPE_RAW_TRACEPOINT, 0, 0)?;
        let tcp = load_empty(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, 1)?;
        let mut links = vec![raw_tracepoint(c"sched_switch", &switch)?];
        for cgroup in cgroups {
            links.push(to_cgroup(&tcp, cgroup, BPF_CGROUP_SOCK_OPS)?);
        }
        Ok(Self {
            programs: [switch, tcp],
            links,
        })
    }

    /// What they did, under the names `empty_switch` and `empty_tcp`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn read(&self) -> Result<Vec<Program>> {
        let names = ["empty_switch", "empty_tcp"];
        self.programs
            .iter()
            .zip(names)
            .map(|(program, name)| {
                let mut read = program_of(program)?;
                name.clone_into(&mut read.name);
                Ok(read)
            })
            .collect()
    }
}

/// Programs that do nothing on hooks for the addresses of IPv4 datagrams.
#[derive(Debug)]
pub(super) struct Addresses(Vec<(OwnedFd, u32)>);

/// A hook for the addresses of IPv4 datagrams.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    /// Of those that are sent.
    Send,
    /// Of those that are received.
    Receive,
}

impl Hook {
    const fn attach_type(self) -> u32 {
        match self {
            Self::Send => BPF_CGROUP_UDP4_SENDMSG,
            Self::Receive => BPF_CGROUP_UDP4_RECVMSG,
        }
    }
}

impl Addresses {
    /// Attaches nothing yet.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn load(hooks: &[Hook]) -> Result<Self> {
        let load = |hook: &Hook| {
            let hook = hook.attach_type();
            let program = load_empty(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, hook, 1)?;
            Ok((program, hook))
        };
        hooks.iter().map(load).collect::<Result<_>>().map(Self)
    }

    /// They are attached while the result lives.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn attach(&self, cgroup: &Path) -> Result<Vec<OwnedFd>> {
        let attach = |(program, hook): &(OwnedFd, u32)| to_cgroup(program, cgroup, *hook);
        self.0.iter().map(attach).collect()
    }
}

/// The agent's programs, of whichever process, in the order of their ids.
///
/// # Errors
/// Without the right to look.
pub(super) fn programs() -> Result<Vec<Program>> {
    let mut found = Vec::new();
    let mut id = 0;
    loop {
        let mut attributes = [0; 32];
        attributes[0] = id;
        match bpf(BPF_PROG_GET_NEXT_ID, &mut attributes) {
            Ok(_) => id = attributes[1],
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(found),
            Err(error) => return Err(error).context("list eBPF programs"),
        }
        // A program may go between the two calls.
        let Some(descriptor) = by_id(BPF_PROG_GET_FD_BY_ID, id)? else {
            continue;
        };
        let program = program_of(&descriptor)?;
        if program.name.starts_with(PREFIX) {
            found.push(program);
        }
    }
}

/// Name of the map with that id; `None` when it is gone.
///
/// # Errors
/// Without the right to look.
pub(super) fn map_name(id: u32) -> Result<Option<String>> {
    let Some(descriptor) = by_id(BPF_MAP_GET_FD_BY_ID, id)? else {
        return Ok(None);
    };
    // `struct bpf_map_info`: the name follows six numbers.
    Ok(Some(text(&info(&descriptor)?, 6)))
}

fn program_of(descriptor: &OwnedFd) -> Result<Program> {
    // `struct bpf_prog_info`, by word: id 1, name 16, run_time_ns 48, run_cnt 50.
    let words = info(descriptor)?;
    let long = |at: usize| u64::from(words[at]) | (u64::from(words[at + 1]) << 32);
    Ok(Program {
        id: words[1],
        name: text(&words, 16),
        runs: long(50),
        ns: long(48),
    })
}

/// 16 bytes of text from the word `at` on.
fn text(words: &[u32; 64], at: usize) -> String {
    let bytes = words[at..at + 4].iter().flat_map(|word| word.to_ne_bytes());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn info(descriptor: &OwnedFd) -> Result<[u32; 64]> {
    // A multiple of eight bytes long, and aligned as the kernel's structures are.
    #[repr(align(8))]
    struct Info([u32; 64]);
    let mut info = Info([0; 64]);
    let mut attributes = [0; 32];
    attributes[0] = number(descriptor);
    attributes[1] = u32::try_from(size_of::<Info>()).expect("it is small");
    put_pointer(&mut attributes, 2, (&raw mut info).cast());
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes).context("ask about an eBPF object")?;
    Ok(info.0)
}

fn by_id(command: i32, id: u32) -> Result<Option<OwnedFd>> {
    let mut attributes = [0; 32];
    attributes[0] = id;
    match descriptor(command, &mut attributes) {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error).context("open an eBPF object by its id"),
    }
}

/// A program for that hook that returns `result`.
fn load_empty(kind: u32, hook: u32, result: u32) -> Result<OwnedFd> {
    // r0 = result; exit
    let instructions: [u64; 2] = [0xb7 | (u64::from(result) << 32), 0x95];
    let mut attributes = [0; 32];
    attributes[0] = kind;
    attributes[1] = 2;
    put_pointer(&mut attributes, 2, instructions.as_ptr().cast());
    put_pointer(&mut attributes, 4, c"GPL".as_ptr().cast());
    // `expected_attach_type`
    attributes[17] = hook;
    descriptor(BPF_PROG_LOAD, &mut attributes).context("load an empty eBPF program")
}

fn to_cgroup(program: &OwnedFd, cgroup: &Path, hook: u32) -> Result<OwnedFd> {
    let directory = File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))?;
    let mut attributes = [0; 32];
    attributes[0] = number(program);
    attributes[1] = number(&directory);
    attributes[2] = hook;
    descriptor(BPF_LINK_CREATE, &mut attributes).context("attach an empty program to a cgroup")
}

fn raw_tracepoint(name: &std::ffi::CStr, program: &OwnedFd) -> Result<OwnedFd> {
    let mut attributes = [0; 32];
    put_pointer(&mut attributes, 0, name.as_ptr().cast());
    attributes[2] = number(program);
    descriptor(BPF_RAW_TRACEPOINT_OPEN, &mut attributes)
        .context("attach an empty program to sched_switch")
}

fn number(descriptor: &impl std::os::fd::AsRawFd) -> u32 {
    u32::try_from(descriptor.as_raw_fd()).expect("an open descriptor is not negative")
}

fn put_pointer(attributes: &mut Attributes, at: usize, pointer: *const libc::c_void) {
    let address = pointer as u64;
    attributes[at] = u32::try_from(address & 0xffff_ffff).expect("masked");
    attributes[at + 1] = u32::try_from(address >> 32).expect("shifted");
}

fn descriptor(command: i32, attributes: &mut Attributes) -> io::Result<OwnedFd> {
    let number = bpf(command, attributes)?;
    // SAFETY: these commands return a descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn bpf(command: i32, attributes: &mut Attributes) -> io::Result<i32> {
    #[repr(align(8))]
    struct Aligned(Attributes);
    let mut aligned = Aligned(*attributes);
    // SAFETY: the kernel reads and writes `size_of::<Attributes>()` bytes there, and what the pointers inside point to, which
    // the callers keep until this returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw mut aligned.0,
            size_of::<Attributes>(),
        )
    };
    *attributes = aligned.0;
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
