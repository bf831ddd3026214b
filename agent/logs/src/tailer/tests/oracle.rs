//! Conservation and integrity: every record that was written arrived as it was.

use std::collections::HashMap;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

use super::kubelet::{Kubelet, content};

/// What an oracle found, over all containers.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) missing: Vec<(String, u64)>,
    pub(super) duplicates: u64,
    /// Records that are not as they were written: cut, or parts of one.
    pub(super) damaged: Vec<String>,
}

impl std::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = |list: &[String]| list.iter().take(10).cloned().collect::<Vec<_>>();
        let missing: Vec<_> = self
            .missing
            .iter()
            .map(|(name, seq)| format!("{name}: {seq}"))
            .collect();
        let (lost, damaged) = (first(&missing), first(&self.damaged));
        write!(
            f,
            "{} missing {lost:?}, {} duplicates, {} damaged {damaged:?}",
            missing.len(),
            self.duplicates,
            self.damaged.len()
        )
    }
}

/// Counts what arrived as it arrives, so that asking again costs only what is new.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    times: HashMap<String, HashMap<u64, u64>>,
    damaged: Vec<String>,
}

impl Oracle {
    /// More that arrived.
    pub(super) fn take(&mut self, arrived: &[(String, LogRecord)]) {
        for (container, record) in arrived {
            let Some(Value::StringValue(body)) =
                record.body.as_ref().and_then(|body| body.value.as_ref())
            else {
                self.damaged.push(format!("{container}: {record:?}"));
                continue;
            };
            match body.split(' ').next().unwrap().parse() {
                Ok(seq) if *body == content(seq) => {
                    let times = self.times.entry(container.clone()).or_default();
                    *times.entry(seq).or_default() += 1;
                }
                _ => self.damaged.push(format!("{container}: {body:.60}")),
            }
        }
    }

    /// Whether all that was written has arrived. What arrived was written, so that counting is enough.
    pub(super) fn has_all(&self, kubelet: &Kubelet) -> bool {
        let seen = self.times.get(&kubelet.name);
        seen.map_or(0, HashMap::len) as u64 >= kubelet.written
    }

    /// Holds it against what was written.
    pub(super) fn verdict(&self, kubelets: &[&Kubelet]) -> Verdict {
        let mut verdict = Verdict {
            damaged: self.damaged.clone(),
            ..Verdict::default()
        };
        for kubelet in kubelets {
            let times = self.times.get(&kubelet.name);
            for seq in 0..kubelet.written {
                match times.and_then(|times| times.get(&seq)) {
                    None => verdict.missing.push((kubelet.name.clone(), seq)),
                    Some(times) => verdict.duplicates += times - 1,
                }
            }
        }
        verdict
    }
}

/// Holds what arrived against what was written.
pub(super) fn judge(kubelets: &[&Kubelet], arrived: &[(String, LogRecord)]) -> Verdict {
    let mut oracle = Oracle::default();
    oracle.take(arrived);
    oracle.verdict(kubelets)
}
