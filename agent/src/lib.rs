//! The shell around `plumbline-core`: it reads the kernel, files and the API server, and sends what the core says.
//!
//! - [`cli`], [`config`]: arguments, environment, file.
//! - [`clock`]: the only place that reads a clock.
//! - [`sources`]: each turns one part of the world into observations.
//! - [`run`]: THE loop: observations in, reports out.
//! - [`export`]: OTLP.
//! - [`telemetry`]: the agent's own metrics.
//! - [`record`]: observations to and from JSON lines.
//! - [`status`]: health and status over a Unix socket.

pub mod cli;
pub mod clock;
pub mod config;
pub mod export;
pub mod record;
pub mod run;
pub mod sources;
pub mod status;
pub mod telemetry;
