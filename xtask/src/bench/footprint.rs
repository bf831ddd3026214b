//! What the agent occupies: its binary on disk, its memory, and the kernel's memory for its programs and maps.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{kernel, machine};

/// The binary.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Binary {
    /// Its length.
    pub(super) bytes: u64,
    /// It has no symbol table.
    pub(super) stripped: bool,
}

/// Memory of a running agent.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Memory {
    /// Resident now, in KiB.
    pub(super) rss_kib: u64,
    /// Of that, not backed by files: heap and stacks.
    pub(super) anonymous_kib: u64,
    /// The most that was ever resident.
    pub(super) peak_kib: u64,
    /// Kernel memory of programs, in KiB; not part of the resident memory.
    pub(super) programs_kib: u64,
    /// Kernel memory of maps by name, in KiB; not part of the resident memory but for what the agent maps (the ring).
    pub(super) maps_kib: BTreeMap<String, u64>,
}

impl Memory {
    /// Of that process.
    ///
    /// # Errors
    /// When it is gone, or the kernel says nothing about its maps.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .context("read the status of the agent's process")?;
        let kib = |name: &str| {
            machine::kib(&status, name).with_context(|| format!("/proc/{pid}/status has no {name}"))
        };
        let objects = Objects::of(pid)?;
        let mut maps = BTreeMap::new();
        for (id, bytes) in objects.maps {
            let name = kernel::map_name(id)?.unwrap_or_default();
            *maps.entry(name).or_insert(0) += bytes.div_ceil(1024);
        }
        Ok(Self {
            rss_kib: kib("VmRSS")?,
            anonymous_kib: kib("RssAnon")?,
            peak_kib: kib("VmHWM")?,
            programs_kib: objects.programs.values().sum::<u64>().div_ceil(1024),
            maps_kib: maps,
        })
    }

    /// All maps, in KiB.
    pub(super) fn all_maps_kib(&self) -> u64 {
        self.maps_kib.values().sum()
    }
}

/// The eBPF objects that a process holds open: bytes by id.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) programs: BTreeMap<u32, u64>,
    maps: BTreeMap<u32, u64>,
}

impl Objects {
    /// Of that process.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let mut objects = Self::default();
        let directory = format!("/proc/{pid}/fdinfo");
        for entry in fs::read_dir(&directory).with_context(|| format!("list {directory}"))? {
            let entry = entry.with_context(|| format!("list {directory}"))?;
            // A descriptor may be closed meanwhile.
            let Ok(text) = fs::read_to_string(entry.path()) else {
                continue;
            };
            let number = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim().parse::<u64>().ok()
            };
            let bytes = number("memlock:");
            for (name, table) in [
                ("map_id:", &mut objects.maps),
                ("prog_id:", &mut objects.programs),
            ] {
                // Links name their program, but not its memory.
                if let (Some(id), Some(bytes)) = (number(name), bytes) {
                    table.insert(u32::try_from(id).context("an id out of range")?, bytes);
                }
            }
        }
        Ok(objects)
    }
}

/// Looks at the binary.
///
/// # Errors
/// When it is no 64-bit ELF file of this machine's byte order.
pub(super) fn binary(path: &Path) -> Result<Binary> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let stripped =
        !has_symbols(&bytes).with_context(|| format!("{} is no ELF file", path.display()))?;
    Ok(Binary {
        bytes: bytes.len() as u64,
        stripped,
    })
}

/// Whether one of the sections is a symbol table for linkers and debuggers.
fn has_symbols(file: &[u8]) -> Result<bool> {
    const SYMTAB: u32 = 2;
    if !file.starts_with(b"\x7fELF\x02\x01") {
        bail!("not 64-bit little-endian ELF");
    }
    let number = |at: usize, bytes: usize| -> Result<usize> {
        let part = file
            .get(at..at + bytes)
            .context("the file ends too early")?;
        let value = part
            .iter()
            .rev()
            .fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        usize::try_from(value).context("a number is too large")
    };
    // e_shoff, e_shentsize, e_shnum; then sh_type in each section header.
    let (offset, size, count) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?);
    for section in 0..count {
        let kind = number(offset + section * size + 4, 4)?;
        if kind == SYMTAB as usize {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::{binary, has_symbols};

    #[test]
    fn a_test_binary_has_symbols_and_a_text_is_no_binary() {
        let own = std::env::current_exe().unwrap();
        let seen = binary(&own).unwrap();
        assert!(!seen.stripped && seen.bytes > 0, "{seen:?}");
        assert!(has_symbols(b"#!/bin/sh").is_err());
        assert!(has_symbols(b"\x7fELF\x02\x01").is_err());
    }
}
