//! The shell around `plumbline-core`: it reads the kernel, files and the API server, and sends what the core says.
//!
//! - [`cli`], [`config`]: arguments, environment, file.
//! - [`clock`]: the only place that reads a clock.
//! - [`sources`]: each turns one part of the world into observations.
//! - [`engine`]: the core with its recording: observations in, evaluations out; the same for a node and for a recording.
//! - [`run`]: THE loop of a live node.
//! - [`check`]: the same for a limited time.
//! - [`export`]: what leaves, by OTLP.
//! - [`findings_state`]: the file in which findings outlive the agent.
//! - [`explain`]: what a finding rests on, and what a rule looks for.
//! - [`logs`]: container logs, read by `plumbline-logs`.
//! - [`telemetry`]: the agent's own metrics.
//! - [`record`]: observations to and from JSON lines.
//! - [`status`]: health and status over a Unix socket.
//! - [`present`]: tables for people.
//! - [`logging`]: the agent's own log.

pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod explain;
pub mod export;
pub mod findings_state;
pub mod logging;
pub mod logs;
pub mod present;
pub mod record;
pub mod run;
pub mod sources;
pub mod status;
pub mod telemetry;
