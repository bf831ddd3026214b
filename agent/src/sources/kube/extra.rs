//! A watch that the rest works without: only names of peers come from it. Its trouble is the health of a probe of its own.

use std::time::Instant;

use kube::api::DynamicObject;
use kube::runtime::watcher;
use plumbline_core::observation::{Fact, Health, ProbeStatus};
use serde_json::Value;

use super::super::Sink;
use super::super::objects::ObjectError;
use super::table::Table;
use super::trouble::{Answers, Troubles};
use crate::clock;

/// The table and how it is doing.
pub(super) struct Extra<T> {
    probe: &'static str,
    resource: &'static str,
    pub(super) table: Table<T>,
    troubles: Troubles<1>,
    sent: Option<ProbeStatus>,
}

impl<T: PartialEq> Extra<T> {
    pub(super) fn new(probe: &'static str, resource: &'static str, answers: Answers) -> Self {
        Self {
            probe,
            resource,
            table: Table::new(resource),
            troubles: Troubles::new([(resource, answers)]),
            sent: None,
        }
    }

    /// Takes in one event. `true` if what the table says may have changed.
    pub(super) fn on_event(
        &mut self,
        event: watcher::Result<watcher::Event<DynamicObject>>,
        convert: impl Fn(Value) -> Result<T, ObjectError>,
    ) -> bool {
        match event {
            Ok(event) => self.table.apply(event, convert),
            Err(error) => {
                self.troubles.note(self.resource, &error, clock::instant());
                false
            }
        }
    }

    /// Completes when the watch was answered.
    pub(super) async fn answered(&self) {
        self.troubles.answered().await;
    }

    /// When an outage becomes news.
    pub(super) fn next_verdict(&self, now: Instant) -> Option<Instant> {
        self.troubles.next_verdict(now)
    }

    /// Tells how the watch is doing, if that is new. `false` if it could not be told.
    pub(super) fn send_status(&mut self, sink: &Sink) -> bool {
        let reason = self.troubles.reason(clock::instant());
        if reason.is_none() && !self.table.synced() {
            return true;
        }
        let reason = reason.map(|reason| format!("{reason}; peers that it names stay unresolved"));
        let health = match reason {
            Some(_) => Health::Unsupported,
            None => Health::Ok,
        };
        let status = ProbeStatus {
            probe: self.probe.to_owned(),
            health,
            reason,
        };
        if self.sent.as_ref() == Some(&status) {
            return true;
        }
        let told = sink.send(clock::monotonic(), Fact::Probe(status.clone()));
        if told {
            self.sent = Some(status);
        }
        told
    }
}
