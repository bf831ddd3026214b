//! Whether another program takes away the callbacks of our sockets (pure): the callback flags of a socket are one word for
//! all programs, and who sets it without keeping what others asked for ends what they see.

use std::time::Duration;

use plumbline_core::observation::{Health, ProbeStatus};
use plumbline_core::time::Timestamp;

use super::plan::TCP;

/// A connection that began before its container had its program lacks the flags too, and may be established as long as
/// SYNs are sent again: 127 s. What is counted that soon after such an attachment says nothing.
const GRACE: Duration = Duration::from_secs(130);

/// After so long without another loss it is over.
const QUIET: Duration = Duration::from_secs(600);

/// How the reason begins: nobody else says this of the probe.
const REASON: &str = "another sock_ops program replaces callback flags, so that closes and bytes of some connections are \
                      missing";

/// What was seen of it.
#[derive(Debug, Default)]
pub(super) struct Flags {
    attached: Option<Timestamp>,
    replaced: Option<Timestamp>,
}

impl Flags {
    /// A program was attached to a container that may have begun to connect before.
    pub(super) const fn attached_late(&mut self, now: Timestamp) {
        self.attached = Some(now);
    }

    /// The counter of lost flags was read, and `moved` since the reading before. Returns whether flags are replaced.
    pub(super) fn read(&mut self, moved: bool, now: Timestamp) -> bool {
        let within = |since: Option<Timestamp>, span: Duration| {
            since.is_some_and(|since| now < since.plus(span))
        };
        if moved && !within(self.attached, GRACE) {
            self.replaced = Some(now);
        }
        within(self.replaced, QUIET)
    }
}

/// Says so in the state of the probe, or takes it back; `others` names the programs that it may be.
pub(super) fn judge(
    status: &mut ProbeStatus,
    replaced: bool,
    others: impl FnOnce() -> Vec<String>,
) {
    let said = status
        .reason
        .as_ref()
        .is_some_and(|reason| reason.starts_with(REASON));
    if replaced && status.health == Health::Ok {
        let others = others();
        let which = if others.is_empty() {
            "`bpftool prog list` and `bpftool cgroup tree` show which".to_owned()
        } else {
            format!("it is one of: {}", others.join(", "))
        };
        *status = ProbeStatus {
            probe: TCP.to_owned(),
            health: Health::Broken,
            reason: Some(format!("{REASON}; {which}")),
        };
        tracing::warn!(probe = TCP, reason = ?status.reason, "a probe misses connections");
    } else if !replaced && said {
        (status.health, status.reason) = (Health::Ok, None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plumbline_core::observation::{Health, ProbeStatus};
    use plumbline_core::time::Timestamp;

    use super::{Flags, GRACE, QUIET, REASON, TCP, judge};

    const START: Timestamp = Timestamp(1_000);

    fn status(health: Health, reason: Option<&str>) -> ProbeStatus {
        ProbeStatus {
            probe: TCP.to_owned(),
            health,
            reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn a_loss_counts_until_it_was_quiet_for_long() {
        let mut flags = Flags::default();
        assert!(!flags.read(false, START));
        assert!(flags.read(true, START));
        assert!(flags.read(false, START.plus(QUIET).minus(Duration::from_nanos(1))));
        assert!(!flags.read(false, START.plus(QUIET)));
    }

    #[test]
    fn connections_that_were_under_way_before_us_say_nothing() {
        let mut flags = Flags::default();
        flags.attached_late(START);
        assert!(!flags.read(true, START.plus(Duration::from_secs(3))));
        assert!(!flags.read(false, START.plus(GRACE)));
        assert!(flags.read(true, START.plus(GRACE)));
    }

    #[test]
    fn it_is_said_with_names_and_taken_back() {
        let mut tcp = status(Health::Ok, None);
        judge(&mut tcp, true, || vec!["bpf_sockops (id 7)".into()]);
        assert_eq!(tcp.health, Health::Broken);
        let reason = tcp.reason.clone().unwrap();
        assert!(reason.starts_with(REASON) && reason.contains("bpf_sockops (id 7)"));
        judge(&mut tcp, true, || panic!("said already"));
        judge(&mut tcp, false, Vec::new);
        assert_eq!(tcp, status(Health::Ok, None));
    }

    #[test]
    fn what_is_broken_otherwise_stays_so() {
        for health in [Health::Broken, Health::Unsupported, Health::Off] {
            let before = status(health, Some("something else"));
            for replaced in [true, false] {
                let mut tcp = before.clone();
                judge(&mut tcp, replaced, Vec::new);
                assert_eq!(tcp, before);
            }
        }
    }
}
