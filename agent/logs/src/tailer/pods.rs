//! Pods that ended before a log file of theirs was found. Pure.
//!
//! A directory that came and went between two looks leaves nothing behind. Whoever watches the kernel's cgroups knows that
//! there was a pod; what is known here is which pods had a directory, and whether a file was in it.

use std::collections::HashMap;
use std::time::Duration;

/// A pod is remembered for so long after it was last seen: twice as long as others tell of one that ended.
const REMEMBERED: Duration = Duration::from_mins(2);
/// Pods that are remembered. Beyond it none is counted as missed, since it may have been one of those that are not.
const PODS_MAX: usize = 16_384;

/// A pod whose containers are all gone, as others saw them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedPod {
    /// Its UID.
    pub uid: String,
    /// Its namespace, where that is known.
    pub namespace: Option<String>,
    /// How many containers of it were seen lately, its sandbox among them.
    pub containers: usize,
}

/// What is known of a pod's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    /// It was there.
    Directory,
    /// A file of it was found, or it is not to be read, or it was counted.
    Settled,
}

#[derive(Debug, Default)]
pub(super) struct Pods {
    seen: HashMap<String, (Seen, Duration)>,
    /// When one was last not remembered for want of room, and how many were since the last [`Self::forget`].
    refused: Option<Duration>,
    left_out: u64,
}

impl Pods {
    /// Something was seen of a pod.
    pub(super) fn note(&mut self, uid: &str, seen: Seen, now: Duration) {
        if let Some((known, last)) = self.seen.get_mut(uid) {
            (*known, *last) = (seen.max(*known), now);
            return;
        }
        if self.seen.len() >= PODS_MAX {
            self.refused = Some(now);
            self.left_out += 1;
            return;
        }
        self.seen.insert(uid.to_owned(), (seen, now));
    }

    /// How many pods of these were missed, each counted once. To be asked after a look at all directories. `is_read` says
    /// whether pods of a namespace are read; `None` where that is not known.
    pub(super) fn missed(
        &mut self,
        ended: &[EndedPod],
        is_read: impl Fn(Option<&str>) -> bool,
        now: Duration,
    ) -> u64 {
        let mut missed = 0;
        for pod in ended {
            let seen = self.seen.get(&pod.uid).map(|(seen, _)| *seen);
            let lost = match seen {
                None => true,
                // The directory comes before the sandbox, which writes nothing: one more and a container of it has run.
                Some(Seen::Directory) => pod.containers > 1,
                Some(Seen::Settled) => false,
            };
            let lost = lost && is_read(pod.namespace.as_deref());
            if lost && self.refused.is_none() {
                missed += 1;
            }
            self.note(&pod.uid, Seen::Settled, now);
        }
        missed
    }

    /// To be asked after each look at all directories. Gives how many pods found no room in it.
    pub(super) fn forget(&mut self, now: Duration) -> u64 {
        let is_recent = |last: Duration| now < last + REMEMBERED;
        self.seen.retain(|_, (_, last)| is_recent(*last));
        self.refused = self.refused.filter(|last| is_recent(*last));
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(uid: &str, namespace: Option<&str>, containers: usize) -> EndedPod {
        EndedPod {
            uid: uid.into(),
            namespace: namespace.map(str::to_owned),
            containers,
        }
    }

    fn missed(pods: &mut Pods, of: &[EndedPod], now: Duration) -> u64 {
        pods.missed(of, |namespace| namespace != Some("left-out"), now)
    }

    #[test]
    fn a_pod_is_missed_when_a_container_ran_and_no_file_of_it_was_found() {
        let mut pods = Pods::default();
        let now = Duration::ZERO;
        pods.note("read", Seen::Directory, now);
        pods.note("read", Seen::Settled, now);
        pods.note("read", Seen::Directory, now);
        pods.note("sandbox", Seen::Directory, now);
        pods.note("empty", Seen::Directory, now);
        for (of, want) in [
            (ended("read", None, 2), 0),
            (ended("sandbox", None, 1), 0),
            (ended("empty", None, 2), 1),
            (ended("never-seen", None, 1), 1),
            (ended("not-asked-for", Some("left-out"), 2), 0),
        ] {
            assert_eq!(
                missed(&mut pods, std::slice::from_ref(&of), now),
                want,
                "{of:?}"
            );
        }
    }

    #[test]
    fn each_is_counted_once_as_long_as_it_is_told() {
        let mut pods = Pods::default();
        let (first, second) = (ended("1", None, 2), ended("2", None, 2));
        let told = std::slice::from_ref(&first);
        assert_eq!(missed(&mut pods, told, Duration::ZERO), 1);
        let later = REMEMBERED - Duration::from_secs(1);
        pods.forget(later);
        assert_eq!(missed(&mut pods, told, later), 0);
        // Told again it is remembered anew.
        pods.forget(REMEMBERED);
        assert_eq!(missed(&mut pods, &[first, second], REMEMBERED), 1);
        pods.forget(REMEMBERED * 2);
        assert!(pods.seen.is_empty());
    }

    #[test]
    fn with_more_pods_than_can_be_remembered_none_is_called_missed() {
        let mut pods = Pods::default();
        for number in 0..=PODS_MAX {
            pods.note(&number.to_string(), Seen::Settled, Duration::ZERO);
        }
        assert_eq!(pods.seen.len(), PODS_MAX);
        let last = [ended(&PODS_MAX.to_string(), None, 2)];
        assert_eq!(missed(&mut pods, &last, Duration::ZERO), 0);
        assert_eq!(pods.forget(Duration::ZERO), 2, "noted twice");
        // With room again, but it may still be one of those that were left out.
        pods.seen.clear();
        let later = REMEMBERED - Duration::from_secs(1);
        assert_eq!(missed(&mut pods, &last, later), 0);
        assert_eq!(pods.forget(REMEMBERED), 0);
        let next = [ended("next", None, 2)];
        assert_eq!(missed(&mut pods, &next, REMEMBERED), 1);
    }
}
