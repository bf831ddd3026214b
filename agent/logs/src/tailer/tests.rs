//! The reader against a double of the kubelet, with an oracle that numbers every record.
//!
//! Which test proves which row of the project's catalogue of faults and attacks, and what of a row none proves; those of the
//! exporter (export) are in `agent/tests/export`:
//!
//! | Row | Tests |
//! |---|---|
//! | F1 | `outages_and_restarts_lose_nothing`, `while_nobody_answers_nothing_is_lost_and_little_is_done` (export; refused, silent, packets dropped), `a_name_that_does_not_resolve_loses_nothing` (export); ten minutes at real length in the full tier |
//! | F2 | `a_slow_collector_gets_everything_in_its_own_time`, `what_does_not_pass_in_time_is_sent_in_smaller_pieces`, `one_large_record_is_waited_for` (export; 16 KiB/s and a deadline of 1 s), `requests_shrink_until_they_pass_and_do_not_swing` (agent/src/export/room; 1 KiB/s and 10 s), `a_collector_that_says_nothing_does_not_keep_the_rings_waiting` (tests/tests/load/stall; losses, not milliseconds) |
//! | F3 | `what_may_pass_costs_nothing`, `what_the_collector_asks_for_is_waited_for`, `what_cannot_be_read_stops_nothing`, `a_wait_without_end_is_five_minutes` (export), `retry_after_is_read_and_capped` (agent/src/export/verdict) |
//! | F4 | `too_large_is_halved_until_it_fits`, `what_is_refused_for_good_is_counted_and_not_sent_again`, `a_collector_that_refuses_us_gets_one_record_at_a_time`, `a_record_that_is_not_wanted_is_given_up_alone` (export) |
//! | F5 | `partial_success_is_counted_and_never_sent_again` (export) |
//! | F6 | `what_may_pass_costs_nothing` (export): reset, stall; `a_vanished_peer_costs_each_request_one_deadline`, `a_server_that_goes_away_loses_nothing`, `an_answer_that_is_cut_off_is_no_answer`, `pings_find_a_vanished_peer_long_before_the_deadline` (export) |
//! | F7 | `a_changed_certificate_loses_nothing` (export), agent/tests/export/tls |
//! | F8 | `a_panic_in_the_lane_loses_nothing` (export) |
//! | F9 | `what_waits_at_the_end_does_not_arrive_twice`, `at_the_end_what_is_refused_stays_in_its_file` (export), `shutdown_with_a_hung_collector_ends_and_counts_the_loss` (agent/tests/export/faults), `container_logs_are_shipped_told_and_counted_to_the_end` (tests/tests/agent/logs) |
//! | F50 | `kill::killed_at_random_moments`, `kill::killed_at_each_step` |
//! | F51 | `rotation::nothing_is_lost_or_doubled_while_files_are_rotated` |
//! | F52 | `rotation::after_a_pause_of_some_rotations_it_goes_on_where_it_was` |
//! | F53 | `file::of_a_broken_one_all_that_can_be_had`, `fuzz::compressed_files` |
//! | F54 | `identity::truncated_and_written_anew` |
//! | F55 | `endless`, `lines::long_lines_around_each_bound`, `lines::a_last_line_without_end_is_shipped_when_the_file_is_over`, `partial::a_chain_that_does_not_go_on_is_shipped` |
//! | F56 | `lines::odd_lines`, `line::neither`, `fuzz::lines` |
//! | F57 | `load::a_burst_is_read_within_the_bound_of_memory` |
//! | F58 | `faults::a_disk_that_fails_at_any_step_of_the_checkpoint_stops_nothing`, `faults::a_disk_that_is_slow_stops_nothing` |
//! | F59 | `checkpoint::each_flipped_byte_and_each_cut_is_found`, `store::what_does_not_check_is_put_aside`, `identity::without_a_checkpoint_that_checks_all_is_sent_again` |
//! | F60 | `identity::a_new_file_with_an_old_inode_is_read_from_its_beginning` |
//! | F61 | `faults::where_the_kernel_refuses_watches_the_scan_finds_all`, `faults::an_overflow_of_hints_is_a_scan` |
//! | F62 | `faults::pods_that_are_gone_at_once_are_read`; counted when missed: `missed`, `pods`, `a_pod_that_was_gone_before_its_log_was_found_is_told` (tests/tests/agent/logs) |
//! | F63 | `identity::deleted_files_are_held_within_a_budget` |
//! | T1 | `hostile::ten_thousand_hostile_lines_are_bodies_and_nothing_else` |
//! | T2 | `endless::a_line_of_gibibytes_takes_no_more_memory_than_one_of_mebibytes`, `rotation::a_line_over_two_rotations_survives_a_restart` |
//! | T3 | `load::a_flood_does_not_delay_the_quiet`, `options::beyond_a_pods_share_records_are_dropped_and_counted` |
//! | T4 | `tricks::links_pipes_and_foreign_directories`, `tricks::swapped_while_it_looks` |
//! | T5 | `names_that_are_chosen_to_harm_are_only_names` (agent/tests/declared_kube/hostile), `source::directories_of_pods` |
//! | T15 | `redact::seeded_secrets_of_each_format`, `redact::hostile_input_takes_linear_time`, `options::secrets_are_hidden_over_the_parts_of_a_line` |
//! | T16 | `a_storm_of_ten_minutes` (agent/src/logging/limit) |

mod endless;
mod faults;
mod hostile;
mod identity;
mod kill;
mod kubelet;
mod late;
mod lines;
mod load;
mod missed;
mod options;
mod oracle;
mod rotation;
mod tricks;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;

use super::{Handle, Resources, Settings, spawn};
use crate::batch::Batch;
use crate::clock;
use crate::otlp::Envelope;
use crate::sink::{Answer, Sink};
use crate::source::Source;
use crate::watch::Waker;

/// The resource is the container's directory, so that tests see whose a record is.
pub(super) struct Paths;

impl Resources for Paths {
    fn generation(&self) -> u64 {
        0
    }

    fn envelope(&self, source: &Source) -> Envelope {
        Envelope::new(b"", &source.directory(), "", "")
    }
}

/// Quick, for tests.
pub(super) fn settings(root: &std::path::Path) -> Settings {
    Settings {
        linger: Duration::from_millis(10),
        scan_interval: Duration::from_millis(50),
        checkpoint_interval: Duration::from_millis(20),
        drain: Duration::from_secs(20),
        ..Settings::new(root.to_owned())
    }
}

/// What arrived, in the order of arrival: container and record.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrived(Arc<Mutex<Vec<(String, LogRecord)>>>);

impl Arrived {
    pub(super) fn take(&self, request: &[u8]) {
        let request = ExportLogsServiceRequest::decode(request).unwrap();
        let mut arrived = self.0.lock().unwrap();
        for scope in request
            .resource_logs
            .into_iter()
            .flat_map(|resource| resource.scope_logs)
        {
            let name = scope.scope.unwrap().name;
            arrived.extend(
                scope
                    .log_records
                    .into_iter()
                    .map(|record| (name.clone(), record)),
            );
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(super) fn all(&self) -> Vec<(String, LogRecord)> {
        self.0.lock().unwrap().clone()
    }

    /// The bodies as text, with marks for what is cut or in no known format.
    pub(super) fn bodies(&self) -> Vec<String> {
        use opentelemetry_proto::tonic::common::v1::any_value::Value;
        let body = |(_, record): &(String, LogRecord)| {
            let value = record.body.as_ref().and_then(|body| body.value.as_ref());
            let mut text = if let Some(Value::StringValue(text)) = value {
                text.clone()
            } else if let Some(Value::BytesValue(bytes)) = value {
                bytes.escape_ascii().to_string()
            } else {
                panic!("{value:?}");
            };
            for (key, mark) in [
                (crate::otlp::TRUNCATED, " (cut)"),
                (crate::otlp::UNPARSED, " (raw)"),
            ] {
                if record.attributes.iter().any(|pair| pair.key == key) {
                    text += mark;
                }
            }
            text
        };
        self.all().iter().map(body).collect()
    }
}

struct Collect {
    arrived: Arrived,
    answers: Vec<Answer>,
}

impl Sink for Collect {
    fn send(&mut self, batch: Batch) {
        self.arrived.take(&batch.request());
        self.answers.push(Answer::arrived(batch.id));
    }

    fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }
}

/// Starts a reader whose records go to `arrived`.
pub(super) fn start(settings: Settings, arrived: &Arrived) -> Handle {
    let sink = Collect {
        arrived: arrived.clone(),
        answers: Vec::new(),
    };
    spawn(
        settings,
        Box::new(sink),
        Box::new(Paths),
        Waker::new().unwrap(),
    )
    .unwrap()
}

/// Waits until `done`, at most a minute.
pub(super) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = clock::monotonic() + Duration::from_mins(1);
    while !done() {
        assert!(clock::monotonic() < end, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The thorough tier; else the one for every change.
pub(crate) fn full() -> bool {
    std::env::var("PLUMBLINE_TEST_TIER").is_ok_and(|tier| tier == "full")
}

/// A seed, told so that a failure can be repeated with `PLUMBLINE_TEST_SEED`.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("PLUMBLINE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(clock::unix_ns);
    eprintln!("PLUMBLINE_TEST_SEED={seed}");
    seed
}

/// xorshift64*: enough to choose moments and sizes.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }
}
