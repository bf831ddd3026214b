//! CPU time per leaf cgroup and CPU: a cumulative figure and a ring of windows.

/// Length of a window in nanoseconds of `CLOCK_MONOTONIC`; windows begin at multiples of it. The kernel's own default
/// period of CPU bandwidth control.
pub const WINDOW_NS: u64 = 100_000_000;

/// Windows in the ring: 1.6 s, so that a reader that comes once a second may be late by more than half a second.
pub const WINDOWS: usize = 16;

/// Cgroups that can be measured: at most 500 pods of 3 containers on a node, and some nested cgroups. 280 KiB a CPU.
/// Full: further cgroups are not measured and counted by the agent, which alone inserts.
pub const CGROUPS_MAX: u32 = 2_048;

/// CPU time of one cgroup on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUse {
    /// Nanoseconds since the cgroup's entry was made.
    pub total_ns: u64,
    /// Packed windows, see [`pack`]; the window with index `i` is at `i % WINDOWS`. 0 where nothing ran yet.
    pub windows: [u64; WINDOWS],
}

const _: () = assert!(size_of::<CpuUse>() == 136);

/// What one CPU did at all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuClock {
    /// When the CPU was last heard of; 0 before the first time. All windows that ended by then are complete.
    pub last_ns: u64,
    /// Nanoseconds that it ran anything but the idle task since it was first heard of.
    pub busy_ns: u64,
    /// When the CPU was first heard of.
    pub first_ns: u64,
}

const _: () = assert!(size_of::<CpuClock>() == 24);

/// One word for a window, so that a reader never sees the index of one window with the time of another.
#[inline(always)]
#[must_use]
pub const fn pack(index: u64, busy_ns: u64) -> u64 {
    (index << 32) | (busy_ns & 0xffff_ffff)
}

/// Index and nanoseconds of a packed window. The index is cut to 32 bits: 13 years of uptime.
#[inline(always)]
#[must_use]
pub const fn unpack(word: u64) -> (u64, u64) {
    (word >> 32, word & 0xffff_ffff)
}

/// Adds time to the window `index`, which a newer window may replace but an older one may not.
#[inline(always)]
#[must_use]
pub const fn add(word: u64, index: u64, busy_ns: u64) -> u64 {
    let (held, ns) = unpack(word);
    if held == index {
        pack(index, ns + busy_ns)
    } else {
        pack(index, busy_ns)
    }
}

impl CpuUse {
    /// Nanoseconds in the window `index`: `Some(0)` when nothing ran in it, `None` when a later window took its place.
    #[must_use]
    pub fn window(&self, index: u64) -> Option<u64> {
        let position = usize::try_from(index % WINDOWS as u64).unwrap_or(0);
        let (held, ns) = unpack(self.windows[position]);
        match held.cmp(&(index & 0xffff_ffff)) {
            core::cmp::Ordering::Less => Some(0),
            core::cmp::Ordering::Equal => Some(ns),
            core::cmp::Ordering::Greater => None,
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
mod pod {
    // SAFETY: repr(C), of u64 only: no padding, any bits are valid.
    unsafe impl aya::Pod for super::CpuUse {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::CpuClock {}
}

#[cfg(test)]
mod tests {
    use super::{CpuUse, WINDOW_NS, WINDOWS, add, unpack};

    #[test]
    fn a_window_is_read_replaced_and_told_from_an_empty_one() {
        let mut cpu = CpuUse::default();
        let at = |index: u64| usize::try_from(index).unwrap() % WINDOWS;
        cpu.windows[at(5)] = add(cpu.windows[at(5)], 5, 30);
        cpu.windows[at(5)] = add(cpu.windows[at(5)], 5, 12);
        assert_eq!(cpu.window(5), Some(42));
        assert_eq!(cpu.window(6), Some(0));
        cpu.windows[at(21)] = add(cpu.windows[at(21)], 21, 7);
        assert_eq!(cpu.window(21), Some(7));
        assert_eq!(cpu.window(5), None, "overwritten, not zero");
    }

    #[test]
    fn a_full_window_fits() {
        assert_eq!(
            unpack(add(0, u64::from(u32::MAX), WINDOW_NS)),
            (u64::from(u32::MAX), WINDOW_NS)
        );
    }
}
