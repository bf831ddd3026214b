//! Every program passes the verifier of the running kernel with room to spare. aya keeps the verifier's log of refused programs
//! only, so this loads the agent's own objects once more by itself; `PLUMBLINE_VERIFIER_LOGS` names a folder for the logs.

use std::collections::BTreeMap;
use std::env;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;

use aya::maps::Map;
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::{bpf_attach_type, bpf_insn, bpf_prog_type};
use aya_obj::{Object, ProgramSection};
use plumbline::sources::ebpf::objects;
use plumbline_ebpf::names;
use plumbline_tests::skip::{skipped, without_root};

/// `BPF_LOG_LEVEL1 | BPF_LOG_STATS` of the kernel: each instruction once, and the statistics.
const LOG_LEVEL: u32 = 1 | 4;

/// Bytes for the log of one program; the kernel takes no more (`UINT_MAX >> 8` in bpf_check, Linux 5.10).
const LOG_BYTES: usize = 0xff_ffff;

/// The share of the verifier's limit that a program may use, so that one more branch is no emergency.
const LIMIT_SHARE_PERCENT: u64 = 50;

/// The head of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes the rest as zero.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

const _: () = assert!(size_of::<LoadAttr>() == 72);

/// Loads a program and forgets it. What the verifier said, also when it refused.
fn verify(
    instructions: &[bpf_insn],
    licence: &CStr,
    (kind, attach): (bpf_prog_type, Option<bpf_attach_type>),
) -> (io::Result<()>, String) {
    const BPF_PROG_LOAD: libc::c_long = 5;
    let mut log = vec![0_u8; LOG_BYTES];
    let attr = LoadAttr {
        prog_type: kind as u32,
        insn_cnt: u32::try_from(instructions.len()).unwrap(),
        insns: instructions.as_ptr() as u64,
        license: licence.as_ptr() as u64,
        log_level: LOG_LEVEL,
        log_size: u32::try_from(log.len()).unwrap(),
        log_buf: log.as_mut_ptr() as u64,
        expected_attach_type: attach.map_or(0, |attach| attach as u32),
        ..LoadAttr::default()
    };
    // SAFETY: the kernel reads `size_of_val(&attr)` bytes of `attr` and what it points to, all of which live during the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    let result = if fd < 0 {
        Err(io::Error::last_os_error())
    } else {
        // SAFETY: the kernel just made this descriptor for us, nobody else knows it.
        drop(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap()) });
        Ok(())
    };
    let text = CStr::from_bytes_until_nul(&log)
        .unwrap_or_default()
        .to_string_lossy();
    (result, text.into_owned())
}

/// What the kernel is told a program is.
fn kind(section: &ProgramSection) -> (bpf_prog_type, Option<bpf_attach_type>) {
    match section {
        ProgramSection::SockOps => (bpf_prog_type::BPF_PROG_TYPE_SOCK_OPS, None),
        ProgramSection::RawTracePoint => (bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT, None),
        ProgramSection::TracePoint => (bpf_prog_type::BPF_PROG_TYPE_TRACEPOINT, None),
        ProgramSection::PerfEvent => (bpf_prog_type::BPF_PROG_TYPE_PERF_EVENT, None),
        ProgramSection::CgroupSkb { attach_type } => (
            bpf_prog_type::BPF_PROG_TYPE_CGROUP_SKB,
            attach_type.map(Into::into),
        ),
        ProgramSection::CgroupSockAddr { attach_type } => (
            bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
            Some((*attach_type).into()),
        ),
        ProgramSection::CgroupSock { attach_type } => (
            bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK,
            Some((*attach_type).into()),
        ),
        other => panic!("this test does not know how to load {other:?}"),
    }
}

fn descriptor(map: &Map) -> RawFd {
    let (Map::Array(data)
    | Map::CgroupStorage(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::PerCpuArray(data)
    | Map::PerCpuHashMap(data)
    | Map::RingBuf(data)
    | Map::SkStorage(data)) = map
    else {
        panic!("this test does not know the kind of {map:?}");
    };
    data.fd().as_fd().as_raw_fd()
}

/// An object whose programs refer to the maps that aya made.
fn relocated(bytes: &[u8], loaded: &Ebpf) -> Object {
    let mut object = Object::parse(bytes).unwrap();
    let maps = std::mem::take(&mut object.maps);
    let sections = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let made = maps
        .iter()
        .map(|(name, map)| (name.as_str(), descriptor(loaded.map(name).unwrap()), map));
    object.relocate_maps(made, &sections).unwrap();
    object.relocate_calls(&sections).unwrap();
    object
}

/// Instructions looked at, and how many may be: `processed 2345 insns (limit 1000000) max_states_per_insn ...`.
fn processed(log: &str) -> Option<(u64, u64)> {
    let line = log
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("processed "))?;
    let (count, rest) = line.split_once(" insns (limit ")?;
    Some((count.parse().ok()?, rest.split_once(')')?.0.parse().ok()?))
}

#[test]
fn every_program_is_verified_with_room_to_spare() {
    if without_root() {
        return;
    }
    if objects().is_empty() {
        return skipped("built without eBPF");
    }
    let folder = env::var_os("PLUMBLINE_VERIFIER_LOGS").map(PathBuf::from);
    let mut counts = BTreeMap::new();
    for bytes in objects() {
        // Small tables: where memory is counted, the agent's own may need all there is.
        let loaded = EbpfLoader::new()
            .btf(None)
            .map_max_entries(names::FLOWS, 64)
            .load(bytes)
            .unwrap();
        let object = relocated(bytes, &loaded);
        let programs: BTreeMap<_, _> = object.programs.iter().collect();
        for (name, program) in programs {
            let function = &object.functions[&program.function_key()];
            let (result, log) = verify(
                &function.instructions,
                &program.license,
                kind(&program.section),
            );
            if let Some(folder) = &folder {
                fs::create_dir_all(folder).unwrap();
                fs::write(folder.join(format!("{name}.log")), &log).unwrap();
            }
            assert!(result.is_ok(), "{name}: {result:?}\n{log}");
            counts.insert(
                name.clone(),
                processed(&log).expect("the log has statistics"),
            );
        }
    }
    let told: Vec<String> = counts
        .iter()
        .map(|(name, (count, limit))| format!("{name}\t{count}\t{limit}\n"))
        .collect();
    println!("program, instructions verified, limit:\n{}", told.concat());
    if let Some(folder) = &folder {
        fs::write(folder.join("instructions.tsv"), told.concat()).unwrap();
    }
    let of_udp = names::UDP_ADDRESS.iter().chain(&names::UDP_RECEIVE);
    let of_udp = of_udp.chain(&names::UDP_PACKET);
    let of_udp = of_udp.map(|(name, _)| *name).chain(names::UDP_SOCKET);
    for name in names::PROGRAMS.into_iter().chain(of_udp) {
        let (count, limit) = counts.get(name).copied().expect("every program is tried");
        assert!(
            count * 100 <= limit * LIMIT_SHARE_PERCENT,
            "{name}: {count} of {limit} instructions"
        );
    }
}
