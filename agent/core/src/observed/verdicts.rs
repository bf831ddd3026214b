//! What policies said of the connections of one flow series.

use std::sync::Arc;

use crate::observation::{FlowCounts, FlowRow, Role};
use crate::policy::Verdict;
use crate::time::Timestamp;

/// What the policies say of one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Of both ends.
    pub verdict: Verdict,
    /// The end of the container itself is denied: why, in a sentence.
    pub own_denial: Option<Arc<str>>,
    /// The verdict is deny: why, in a sentence.
    pub denial: Option<Arc<str>>,
    /// It would be denied with the candidate policies, and is not without: why, in a sentence.
    pub candidate: Option<Arc<str>>,
}

/// Connections of a series by what policies say, since the series began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Established, in the order of [`Verdict::ALL`].
    pub connections: [u64; 4],
    /// The last verdict.
    pub last: Verdict,
    /// Connections that passed although the policies of the container's own end deny them.
    pub passed: Denied,
    /// Attempts that failed and that policies deny.
    pub blocked: Denied,
    /// Connections that passed and that the candidate policies would deny.
    pub candidate: Denied,
}

/// How often something was denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    /// How often.
    pub count: u64,
    /// When last.
    pub last: Timestamp,
    /// Why, the last time.
    pub why: Option<Arc<str>>,
}

impl Denied {
    fn add(&mut self, count: u64, why: &Arc<str>, at: Timestamp) {
        if count > 0 {
            self.count = self.count.saturating_add(count);
            self.last = at;
            self.why = Some(Arc::clone(why));
        }
    }
}

impl Verdicts {
    /// Takes in what was said of one row.
    pub fn add(&mut self, row: &FlowRow, judged: &Judged, at: Timestamp) {
        let index = judged.verdict as usize;
        if let Some(count) = self.connections.get_mut(index) {
            *count = count.saturating_add(row.counts.connections);
        }
        self.last = judged.verdict;
        let passed = passed(row);
        if let Some(why) = &judged.own_denial {
            self.passed.add(passed, why, at);
        }
        if let Some(why) = &judged.denial {
            self.blocked.add(row.counts.failures, why, at);
        }
        if let Some(why) = &judged.candidate {
            self.candidate.add(passed, why, at);
        }
    }
}

/// Connections of which it is known that they passed. That of a UDP client may have gone nowhere, unless something came back.
fn passed(row: &FlowRow) -> u64 {
    let FlowCounts {
        connections,
        received_packets,
        ..
    } = row.counts;
    let shown = row.transport == crate::declared::Transport::Tcp
        || row.role == Role::Server
        || received_packets > 0;
    if shown { connections } else { 0 }
}
