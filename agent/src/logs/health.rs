//! How the reader of container logs fares, as a probe's health. Pure.

use std::collections::BTreeMap;

use plumbline_core::observation::{Health, ProbeStatus};
use plumbline_logs::stats::Stats;

/// The probe's name.
pub(super) const PROBE: &str = "logs";
/// Files are refused for these reasons when the agent or the node is short of something, not for what they are.
const SHORTAGES: [&str; 4] = [
    "error",
    "too_many_containers",
    "too_many_open",
    "too_many_pods",
];

/// Whether the threads run that should.
#[derive(Clone, Copy, Debug)]
pub(super) struct Threads {
    /// Reads the files.
    pub(super) reader: bool,
    /// Sends what was read.
    pub(super) lane: bool,
}

/// The worst that is known, or what is worth knowing.
pub(super) fn of(stats: &Stats, threads: Threads) -> ProbeStatus {
    let broken = broken(stats, threads);
    ProbeStatus {
        probe: PROBE.into(),
        health: if broken.is_some() {
            Health::Broken
        } else {
            Health::Ok
        },
        reason: broken.or_else(|| worth_knowing(stats)),
    }
}

fn broken(stats: &Stats, threads: Threads) -> Option<String> {
    if !threads.reader || !threads.lane {
        return Some("its thread has ended; the log says why; restart the agent".into());
    }
    if let Some(error) = &stats.root_error {
        return Some(format!("the log directory cannot be read: {error}"));
    }
    if let Some(error) = &stats.checkpoint_error {
        return Some(format!(
            "the checkpoint cannot be read or written, so lines are sent again after a restart: {error}"
        ));
    }
    let short = |reason: &&str| SHORTAGES.contains(reason);
    // Where all that is there is refused, it is not a trick that is refused but how this node keeps its logs.
    let nothing_else =
        stats.files_open == 0 && stats.containers.iter().all(|logs| logs.retained == 0);
    refused(&stats.refused, |reason| {
        short(&reason) || nothing_else && reason != "name"
    })
}

fn worth_knowing(stats: &Stats) -> Option<String> {
    let mut known = Vec::new();
    if stats.quarantined {
        known.push(
            "the checkpoint did not check and was put aside: what was on disk was sent again"
                .to_owned(),
        );
    }
    known.extend(refused(&stats.refused, |reason| reason != "name"));
    if stats.watches_refused > 0 {
        known.push(format!(
            "{} directories are not watched and found by the scan only",
            stats.watches_refused
        ));
    }
    (!known.is_empty()).then(|| known.join("; "))
}

/// `3 files or directories are refused (link: 2, hard_link: 1)`.
fn refused(counts: &BTreeMap<&'static str, u64>, matters: impl Fn(&str) -> bool) -> Option<String> {
    let counts: Vec<_> = counts
        .iter()
        .filter(|(reason, _)| matters(reason))
        .collect();
    let all: u64 = counts.iter().map(|(_, count)| **count).sum();
    let each = counts
        .iter()
        .map(|(reason, count)| format!("{reason}: {count}"));
    let each = each.collect::<Vec<_>>().join(", ");
    (all > 0).then(|| format!("{all} files or directories are refused ({each})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Threads = Threads {
        reader: true,
        lane: true,
    };

    fn check(stats: &Stats, threads: Threads, health: Health, part: &str) {
        let status = of(stats, threads);
        assert_eq!(status.health, health, "{status:?}");
        assert!(status.reason.unwrap_or_default().contains(part), "{part}");
    }

    fn open() -> Stats {
        Stats {
            files_open: 3,
            ..Stats::default()
        }
    }

    #[test]
    fn well() {
        assert_eq!(of(&open(), BOTH).reason, None);
        check(&Stats::default(), BOTH, Health::Ok, "");
    }

    #[test]
    fn a_thread_that_has_ended_comes_first() {
        let stats = Stats {
            root_error: Some("gone".into()),
            ..Stats::default()
        };
        for (reader, lane) in [(false, true), (true, false)] {
            let threads = Threads { reader, lane };
            check(&stats, threads, Health::Broken, "its thread has ended");
        }
        check(&stats, BOTH, Health::Broken, "cannot be read: gone");
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_is_told() {
        let stats = Stats {
            checkpoint_error: Some("no space".into()),
            ..open()
        };
        check(&stats, BOTH, Health::Broken, "no space");
    }

    #[test]
    fn tricks_are_told_and_shortages_are_faults() {
        let mut stats = Stats {
            refused: BTreeMap::from([("link", 2), ("hard_link", 1), ("name", 9)]),
            quarantined: true,
            watches_refused: 5,
            ..open()
        };
        check(
            &stats,
            BOTH,
            Health::Ok,
            "3 files or directories are refused (hard_link: 1, link: 2)",
        );
        check(&stats, BOTH, Health::Ok, "put aside");
        check(&stats, BOTH, Health::Ok, "5 directories are not watched");
        // Docker's own files: every one is behind a link.
        stats.files_open = 0;
        check(&stats, BOTH, Health::Broken, "link: 2");
        stats.files_open = 3;
        stats.refused.insert("too_many_open", 7);
        check(
            &stats,
            BOTH,
            Health::Broken,
            "7 files or directories are refused (too_many_open: 7)",
        );
    }
}
