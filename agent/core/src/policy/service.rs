//! Flows to a Service: which endpoint gets one is decided on the way, so all of them are asked.

use super::judge::{Judgement, Side, SideVerdict};
use super::{End, Endpoint, Flow, Policies, Verdict};
use crate::declared::{TargetPort, Transport};

/// One endpoint of a Service.
#[derive(Clone, Copy, Debug)]
pub enum Backend<'a> {
    /// A pod.
    Pod(&'a Endpoint),
    /// Somebody else, or a pod that is not known.
    Other(End<'a>),
}

impl Policies {
    /// What the policies say of a flow to a Service: what they say of it to each endpoint, if that is always the same.
    /// `complete` says that these are all of its endpoints.
    #[must_use]
    pub fn judge_service(
        &self,
        from: End<'_>,
        transport: Transport,
        target: &TargetPort,
        backends: &[Backend<'_>],
        complete: bool,
    ) -> Judgement {
        let mut all = backends
            .iter()
            .map(|backend| self.judge_backend(from, transport, target, *backend));
        let unknown = || Judgement {
            verdict: Verdict::Unknown,
            egress: Side::new(Verdict::Unknown, SideVerdict::Endpoints),
            ingress: Side::new(Verdict::Unknown, SideVerdict::Endpoints),
        };
        let Some(mut first) = all.next().filter(|_| complete) else {
            return unknown();
        };
        for next in all {
            if next.verdict != first.verdict {
                return unknown();
            }
            for (side, next) in [
                (&mut first.egress, next.egress),
                (&mut first.ingress, next.ingress),
            ] {
                if side.verdict != next.verdict {
                    *side = Side::new(Verdict::Unknown, SideVerdict::Endpoints);
                }
                side.rules.extend(next.rules);
                side.rules.sort_unstable();
                side.rules.dedup();
            }
        }
        first
    }

    fn judge_backend(
        &self,
        from: End<'_>,
        transport: Transport,
        target: &TargetPort,
        backend: Backend<'_>,
    ) -> Judgement {
        let to = match backend {
            Backend::Pod(pod) => End::Pod(pod),
            Backend::Other(end) => end,
        };
        let port = match (target, backend) {
            (TargetPort::Number(number), _) => Some(*number),
            (TargetPort::Name(name), Backend::Pod(pod)) => {
                let mut named = pod.ports.iter();
                let of_name =
                    named.find(|named| named.name == *name && named.transport == transport);
                of_name.map(|named| named.port)
            }
            (TargetPort::Name(_), Backend::Other(_)) => None,
        };
        let Some(port) = port else {
            return Judgement::default();
        };
        self.judge(&Flow {
            from,
            to,
            transport,
            port,
        })
    }
}
