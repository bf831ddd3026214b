//! Reads CPU windows: those that are complete on every CPU, once.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use plumbline_core::id::CgroupId;
use plumbline_core::observation::{CPU_WINDOW_NS, CpuWindowRow};
use plumbline_core::time::Timestamp;
use plumbline_ebpf::cpu::{CGROUPS_MAX, CpuClock, CpuUse, WINDOW_NS, WINDOWS};
use plumbline_ebpf::names;

use super::CpuTotals;
use super::keeper::Keeper;

const _: () = assert!(CPU_WINDOW_NS == WINDOW_NS);

/// A CPU that is silent for this many windows does not just lag.
const SILENT_WINDOWS: u64 = 50;

/// The reader. The maps are read and written without any rights.
pub(super) struct Windows {
    uses: PerCpuHashMap<MapData, u64, CpuUse>,
    clocks: PerCpuArray<MapData, CpuClock>,
    /// Measured cgroups; with the window in which they went away.
    members: BTreeMap<CgroupId, Option<u64>>,
    unmeasured: Unmeasured,
    /// First window that was not read.
    next: u64,
    lost: u32,
    totals: CpuTotals,
}

/// Cgroups that should be measured and are not, or were not for a part of what is read. As many as there are cgroups.
#[derive(Debug, Default)]
struct Unmeasured {
    /// Those for which there is no room.
    waiting: BTreeSet<CgroupId>,
    /// Those that wait no longer, with the window in which there was room after all or they went away.
    ended: BTreeMap<CgroupId, u64>,
    /// How often there was no room for one.
    refused: u64,
}

/// What a reading gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// Start of the first window.
    pub(super) start: Timestamp,
    /// How many.
    pub(super) windows: u16,
    /// Windows before that were overwritten, or read and not handed on.
    pub(super) lost: u32,
    /// Cgroups that ran.
    pub(super) rows: Vec<CpuWindowRow>,
    /// Cgroups that may have run: there was no room for them.
    pub(super) unmeasured: Vec<CgroupId>,
}

/// Windows to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    first: u64,
    end: u64,
    lost: u64,
}

/// Of the windows from `next` to `complete`, those that the ring still holds while the window `running` is written.
fn span(next: u64, complete: u64, running: u64) -> Span {
    let oldest = (running + 1).saturating_sub(WINDOWS as u64);
    let first = next.max(oldest).min(complete.max(next));
    Span {
        first,
        end: complete.max(first),
        lost: first - next,
    }
}

const fn window_of(at: Timestamp) -> u64 {
    at.0 / WINDOW_NS
}

impl Windows {
    /// Takes the maps. The programs must be loaded. The window that is running is the first that is not told: it began
    /// without us.
    pub(super) fn new(keeper: &mut Keeper, now: Timestamp) -> anyhow::Result<Self> {
        Ok(Self {
            uses: keeper.map(names::CPU)?,
            clocks: keeper.map(names::CPU_CLOCK)?,
            members: BTreeMap::new(),
            unmeasured: Unmeasured::default(),
            next: window_of(now) + 1,
            lost: 0,
            totals: CpuTotals::default(),
        })
    }

    /// Begins to measure a cgroup. When there is no room it waits for [`Self::retry`].
    pub(super) fn admit(&mut self, cgroup: CgroupId) {
        if let Some(gone) = self.members.get_mut(&cgroup) {
            *gone = None;
            return;
        }
        if self.unmeasured.waiting.contains(&cgroup) {
            return;
        }
        if let Err(error) = self.insert(cgroup) {
            tracing::debug!(cgroup = cgroup.0, error = %error, "its CPU windows are not measured");
            self.unmeasured.refuse(cgroup);
        }
    }

    /// Tries again to measure what was refused, those that come `first` before the others, until one is refused again.
    pub(super) fn retry(&mut self, first: impl Fn(CgroupId) -> bool, now: Timestamp) {
        for cgroup in self.unmeasured.in_order(first) {
            if self.insert(cgroup).is_err() {
                return;
            }
            self.unmeasured.end_wait(cgroup, window_of(now));
        }
    }

    fn insert(&mut self, cgroup: CgroupId) -> Result<(), MapError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error);
        let zero = cpus.and_then(|cpus| PerCpuValues::try_from(vec![CpuUse::default(); cpus]));
        self.uses.insert(cgroup.0, zero?, 0)?;
        self.members.insert(cgroup, None);
        Ok(())
    }

    /// The cgroup went away; its last windows are still to be read.
    pub(super) fn retire(&mut self, cgroup: CgroupId, now: Timestamp) {
        if let Some(gone) = self.members.get_mut(&cgroup) {
            gone.get_or_insert(window_of(now));
        }
        self.unmeasured.end_wait(cgroup, window_of(now));
    }

    /// Reads what is complete on all CPUs that are online. `None` when that is nothing.
    pub(super) fn read(
        &mut self,
        online: &BTreeSet<u32>,
        now: impl Fn() -> Timestamp,
    ) -> Result<Option<Reading>, MapError> {
        let clocks = self.clocks.get(&0, 0)?;
        let complete = complete(&clocks, online);
        let mut values = BTreeMap::new();
        for cgroup in self.members.keys() {
            values.insert(*cgroup, self.uses.get(&cgroup.0, 0)?);
        }
        let at = now();
        self.totals = totals(&clocks, &values, at);
        let span = span(self.next, complete, window_of(at));
        let rows: Vec<CpuWindowRow> = values
            .iter()
            .filter_map(|(cgroup, cpus)| row(*cgroup, cpus, span))
            .collect();
        let unmeasured = self.unmeasured.during(span);
        self.next = span.end;
        self.lost = self
            .lost
            .saturating_add(u32::try_from(span.lost).unwrap_or(u32::MAX));
        self.forget(span.end);
        let windows = u16::try_from(span.end - span.first).unwrap_or(u16::MAX);
        let start = Timestamp(span.first * WINDOW_NS);
        Ok((windows > 0).then_some(Reading {
            start,
            windows,
            lost: self.lost,
            rows,
            unmeasured,
        }))
    }

    /// The reading was handed on; otherwise its windows are lost.
    pub(super) fn sent(&mut self, reading_windows: u16, handed_on: bool) {
        self.lost = if handed_on {
            0
        } else {
            self.lost.saturating_add(u32::from(reading_windows))
        };
    }

    /// The CPUs that were not heard of for long, when there are any: then no window is complete.
    pub(super) fn silent(
        &self,
        online: &BTreeSet<u32>,
        now: Timestamp,
    ) -> Result<Vec<u32>, MapError> {
        if self.next + SILENT_WINDOWS > window_of(now) {
            return Ok(Vec::new());
        }
        let clocks = self.clocks.get(&0, 0)?;
        let heard = |cpu: u32| {
            usize::try_from(cpu)
                .ok()
                .and_then(|cpu| clocks.get(cpu))
                .map_or(0, |c| c.last_ns)
        };
        let silent =
            |cpu: &u32| window_of(Timestamp(heard(*cpu))) + SILENT_WINDOWS <= window_of(now);
        Ok(online.iter().copied().filter(silent).collect())
    }

    /// CPU time as of the last reading.
    pub(super) const fn totals(&self) -> &CpuTotals {
        &self.totals
    }

    /// Measured cgroups, and how many there can be.
    pub(super) fn occupancy(&self) -> (u64, u64) {
        (self.members.len() as u64, u64::from(CGROUPS_MAX))
    }

    /// How often there was no room for a cgroup.
    pub(super) const fn refused(&self) -> u64 {
        self.unmeasured.refused
    }

    /// Removes the entries of cgroups that went away and whose last window was read.
    fn forget(&mut self, read_to: u64) {
        let done = |gone: &Option<u64>| gone.is_some_and(|gone| gone < read_to);
        let gone: Vec<CgroupId> = self
            .members
            .iter()
            .filter(|(_, gone)| done(gone))
            .map(|(id, _)| *id)
            .collect();
        for cgroup in gone {
            self.members.remove(&cgroup);
            if let Err(error) = self.uses.remove(&cgroup.0) {
                tracing::debug!(cgroup = cgroup.0, error = %error, "its CPU entry cannot be removed");
            }
        }
    }
}

impl Unmeasured {
    fn refuse(&mut self, cgroup: CgroupId) {
        if self.waiting.insert(cgroup) {
            self.refused += 1;
        }
    }

    /// Those that wait, in the order in which they are tried.
    fn in_order(&self, first: impl Fn(CgroupId) -> bool) -> Vec<CgroupId> {
        let (mut order, others): (Vec<CgroupId>, Vec<CgroupId>) =
            self.waiting.iter().partition(|cgroup| first(**cgroup));
        order.extend(others);
        order
    }

    fn end_wait(&mut self, cgroup: CgroupId, window: u64) {
        // Only as long as nothing can be read does it fill.
        if self.waiting.remove(&cgroup) && self.ended.len() < CGROUPS_MAX as usize {
            self.ended.insert(cgroup, window);
        }
    }

    /// Those that were not measured in all windows of a reading, which is the last that has them.
    fn during(&mut self, span: Span) -> Vec<CgroupId> {
        let ended = self.ended.iter().filter(|(_, at)| **at >= span.first);
        let unmeasured = self.waiting.iter().chain(ended.map(|(cgroup, _)| cgroup));
        let unmeasured = unmeasured.copied().collect();
        self.ended.retain(|_, at| *at >= span.end);
        unmeasured
    }
}

/// Index of the first window that is not complete on all CPUs.
fn complete(clocks: &[CpuClock], online: &BTreeSet<u32>) -> u64 {
    let heard = |cpu: &u32| {
        usize::try_from(*cpu)
            .ok()
            .and_then(|cpu| clocks.get(cpu))
            .map_or(0, |c| c.last_ns)
    };
    online.iter().map(heard).min().unwrap_or(0) / WINDOW_NS
}

/// The windows of one cgroup, summed over CPUs. `None` when it did not run.
fn row(cgroup: CgroupId, cpus: &[CpuUse], span: Span) -> Option<CpuWindowRow> {
    let busy = |index: u64| cpus.iter().filter_map(|cpu| cpu.window(index)).sum::<u64>();
    let busy_us: Vec<u32> = (span.first..span.end)
        .map(|index| u32::try_from(busy(index) / 1_000).unwrap_or(u32::MAX))
        .collect();
    busy_us
        .iter()
        .any(|us| *us > 0)
        .then_some(CpuWindowRow { cgroup, busy_us })
}

fn totals(
    clocks: &[CpuClock],
    values: &BTreeMap<CgroupId, PerCpuValues<CpuUse>>,
    at: Timestamp,
) -> CpuTotals {
    CpuTotals {
        busy_ns: clocks.iter().map(|clock| clock.busy_ns).sum(),
        watched_ns: clocks
            .iter()
            .map(|clock| clock.last_ns.saturating_sub(clock.first_ns))
            .sum(),
        cgroups: values
            .iter()
            .map(|(id, cpus)| (*id, cpus.iter().map(|cpu| cpu.total_ns).sum()))
            .collect(),
        at,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use plumbline_core::id::CgroupId;
    use plumbline_ebpf::cpu::{CpuClock, CpuUse, WINDOW_NS, WINDOWS, add};

    use super::{Span, Unmeasured, complete, row, span};

    #[test]
    fn every_window_is_read_once_or_counted_as_lost() {
        // A reader that comes in time, one that comes too early, and one that was held up.
        assert_eq!(
            span(100, 110, 110),
            Span {
                first: 100,
                end: 110,
                lost: 0
            }
        );
        assert_eq!(
            span(110, 110, 110),
            Span {
                first: 110,
                end: 110,
                lost: 0
            }
        );
        assert_eq!(
            span(110, 105, 110),
            Span {
                first: 110,
                end: 110,
                lost: 0
            },
            "a CPU lags behind"
        );
        assert_eq!(
            span(100, 115, 115),
            Span {
                first: 100,
                end: 115,
                lost: 0
            },
            "just in time"
        );
        assert_eq!(
            span(100, 140, 140),
            Span {
                first: 125,
                end: 140,
                lost: 25
            }
        );
        assert_eq!(
            span(100, 120, 140),
            Span {
                first: 120,
                end: 120,
                lost: 20
            },
            "a CPU lags and the others overwrote"
        );
        assert_eq!(
            span(0, 3, 3),
            Span {
                first: 0,
                end: 3,
                lost: 0
            }
        );
    }

    #[test]
    fn a_window_is_complete_when_every_online_cpu_was_heard_of_after_it() {
        let clock = |windows: u64| CpuClock {
            last_ns: windows * WINDOW_NS + 5,
            ..CpuClock::default()
        };
        let clocks = [clock(12), clock(10), clock(3)];
        assert_eq!(
            complete(&clocks, &BTreeSet::from([0, 1])),
            10,
            "CPU 2 is offline"
        );
        assert_eq!(complete(&clocks, &BTreeSet::from([0, 1, 2])), 3);
        assert_eq!(
            complete(&clocks, &BTreeSet::from([0, 7])),
            0,
            "a CPU that was never heard of"
        );
        assert_eq!(complete(&clocks, &BTreeSet::new()), 0);
    }

    #[test]
    fn what_was_refused_is_told_until_a_reading_begins_after_it_was_admitted() {
        let span = |first, end| Span {
            first,
            end,
            lost: 0,
        };
        let [nested, container, other] = [1, 2, 3].map(CgroupId);
        let mut unmeasured = Unmeasured::default();
        for cgroup in [nested, container, other, other] {
            unmeasured.refuse(cgroup);
        }
        assert_eq!(unmeasured.refused, 3, "one a cgroup");
        let order = unmeasured.in_order(|cgroup| cgroup == container);
        assert_eq!(order, [container, nested, other]);
        unmeasured.end_wait(container, 15);
        unmeasured.end_wait(nested, 20);
        assert_eq!(unmeasured.during(span(10, 20)), [other, nested, container]);
        assert_eq!(unmeasured.during(span(20, 30)), [other, nested]);
        assert_eq!(unmeasured.during(span(30, 40)), [other]);
    }

    #[test]
    fn windows_are_summed_over_cpus() {
        let mut cpus = [CpuUse::default(), CpuUse::default()];
        let mut put = |cpu: usize, index: u64, us: u64| {
            let slot = &mut cpus[cpu].windows[usize::try_from(index).unwrap() % WINDOWS];
            *slot = add(*slot, index, us * 1_000);
        };
        put(0, 20, 30);
        put(1, 20, 12);
        put(1, 22, 100_000);
        let span = |first, end| Span {
            first,
            end,
            lost: 0,
        };
        assert_eq!(
            row(CgroupId(1), &cpus, span(20, 23)).unwrap().busy_us,
            [42, 0, 100_000]
        );
        assert_eq!(row(CgroupId(1), &cpus, span(23, 25)), None, "did not run");
    }
}
