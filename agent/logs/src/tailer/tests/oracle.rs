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

/// Holds what arrived against what was written.
pub(super) fn judge(kubelets: &[&Kubelet], arrived: &[(String, LogRecord)]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut times: HashMap<(&str, u64), u64> = HashMap::new();
    for (container, record) in arrived {
        let Some(Value::StringValue(body)) =
            record.body.as_ref().and_then(|body| body.value.as_ref())
        else {
            verdict.damaged.push(format!("{container}: {record:?}"));
            continue;
        };
        match body.split(' ').next().unwrap().parse() {
            Ok(seq) if *body == content(seq) => *times.entry((container, seq)).or_default() += 1,
            _ => verdict.damaged.push(format!("{container}: {:.60}", body)),
        }
    }
    for kubelet in kubelets {
        for seq in 0..kubelet.written {
            match times.get(&(kubelet.name.as_str(), seq)) {
                None => verdict.missing.push((kubelet.name.clone(), seq)),
                Some(times) => verdict.duplicates += times - 1,
            }
        }
    }
    verdict
}
