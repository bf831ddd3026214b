//! The configuration in force, as a configuration file.

use std::path::Path;
use std::time::Duration;

use plumbline_core::settings::Grace;
use serde_json::{Value, json};

use super::keys::KEYS;
use super::{Config, DeclaredSource};
use crate::logs::options::Size;

/// A file that gives this configuration again, whatever the defaults: every key of which the value is known. Values are JSON,
/// which is YAML. Headers and other things that may be secrets have no key, and are not printed.
#[must_use]
pub fn print(config: &Config) -> String {
    let mut text = String::new();
    let mut group = "";
    for key in KEYS {
        let Some(value) = value(config, key.path) else {
            continue;
        };
        match key.path.split_once('.') {
            Some((of, name)) => {
                if of != group {
                    text.push_str(&format!("{of}:\n"));
                    group = of;
                }
                text.push_str(&format!("  {name}: {value}\n"));
            }
            None => text.push_str(&format!("{}: {value}\n", key.path)),
        }
    }
    text
}

/// Keys that differ and are taken over only by a restart.
pub(super) fn cold_differences(a: &Config, b: &Config) -> Vec<&'static str> {
    let cold = KEYS.iter().filter(|key| !key.hot).map(|key| key.path);
    let mut differ: Vec<&str> = cold
        .filter(|path| value(a, path) != value(b, path))
        .collect();
    if differ.is_empty() && a.export != b.export {
        differ.push("otlp");
    }
    differ
}

/// What a key is set to; `None` where there is nothing, or it is known elsewhere only.
fn value(config: &Config, path: &str) -> Option<Value> {
    let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
    Some(match path {
        "cluster_name" => text(&config.node.cluster)?,
        "node_name" => text(&config.node.node)?,
        "environment" => text(&config.node.environment)?,
        "declared" => match &config.declared {
            DeclaredSource::Files(path) => json!(path),
            DeclaredSource::None | DeclaredSource::Kube(_) => return None,
        },
        "candidate_policies" => json!(config.candidate_policies.as_ref()?),
        "kube" => json!(matches!(config.declared, DeclaredSource::Kube(_))),
        "kubeconfig" => match &config.declared {
            DeclaredSource::Kube(Some(path)) => json!(path),
            DeclaredSource::None | DeclaredSource::Files(_) | DeclaredSource::Kube(None) => {
                return None;
            }
        },
        "peers" => json!(config.peers),
        "start_jitter" => span(config.start_jitter),
        "cgroup_root" => json!(config.cgroup_root.as_ref()?),
        "proc_root" => json!(config.proc_root),
        "scan_interval" => span(config.scan_interval),
        "connection_interval" => span(config.connection_interval?),
        "canary_interval" => span(config.canary?),
        "socket" => json!(
            config
                .socket
                .as_deref()
                .unwrap_or(Path::new(crate::cli::DEFAULT_SOCKET))
        ),
        "log_root" => json!(config.logs.as_ref()?.root),
        "log_state" => json!(config.logs.as_ref()?.state),
        "log_kept" => json!(Size(config.core.log_kept_bytes).to_string()),
        "log_flood" => json!(Size(config.core.log_flood_bytes).to_string()),
        "log_format" => json!(config.log_format),
        "state.dir" => json!(config.state_dir.as_ref()?),
        "probes.tcp" => json!(config.tcp),
        "probes.udp" => json!(config.udp),
        "probes.cpu_windows" => json!(config.cpu_windows),
        "probes.connections" => json!(config.connection_interval.is_some()),
        "probes.canary" => json!(config.canary.is_some()),
        other => {
            return judged(config, other)
                .or_else(|| logged(config, other))
                .or_else(|| sent(config, other));
        }
    })
}

/// Keys about container logs, as they were given.
fn logged(config: &Config, path: &str) -> Option<Value> {
    let given = &config.log_args;
    let texts = |texts: &[String]| json!(texts);
    Some(match path {
        "log_namespace" => texts(&given.log_namespace),
        "log_exclude_namespace" => texts(&given.log_exclude_namespace),
        "log_exclude_container" => texts(&given.log_exclude_container),
        "log_exclude_label" => {
            let rules = given.log_exclude_label.iter();
            json!(rules.map(ToString::to_string).collect::<Vec<_>>())
        }
        "log_redact" => texts(&given.log_redact),
        "log_join" => json!(given.log_join.as_ref()?),
        "log_severity" => json!(given.log_severity.unwrap_or(false)),
        "log_min_severity" => json!(given.log_min_severity.as_ref()?.to_ascii_lowercase()),
        "log_pod_rate" => json!(given.log_pod_rate?.to_string()),
        _ => return None,
    })
}

/// Keys about rules.
fn judged(config: &Config, path: &str) -> Option<Value> {
    let core = &config.core;
    let rulebook = &core.rulebook;
    Some(match path {
        "grace" => match core.grace {
            Grace::Time(grace) => span(grace),
            Grace::Scans(_) => return None,
        },
        "cpu.startup_exclusion" => span(core.cpu_startup_exclusion),
        "cpu.mean_window" => span(core.cpu_mean_window),
        "findings.heartbeat" => span(core.heartbeat),
        "rules" => json!(rulebook.rules),
        "trusted_registries" => json!(core.rules.trusted_registries),
        "metadata_namespaces" => json!(core.rules.metadata_namespaces),
        "undeclared_namespaces" => json!(core.rules.undeclared_namespaces),
        "mesh_namespaces" => json!(core.rules.mesh_namespaces),
        "sandbox_runtime_classes" => json!(core.rules.sandbox_runtime_classes),
        "host_listeners" => json!(core.rules.host_listeners),
        "suppressions" => json!(rulebook.suppressions),
        "annotations" => json!(rulebook.annotations),
        _ => return None,
    })
}

/// Keys about export, as they were written.
fn sent(config: &Config, path: &str) -> Option<Value> {
    let raw = config.otlp.iter().find(|(key, _)| *key == path);
    raw.map(|(_, value)| match value.parse::<u64>() {
        Ok(number) if path == "otlp.timeout" || path == "otlp.metric_interval" => json!(number),
        Ok(_) | Err(_) => json!(value),
    })
}

fn span(span: Duration) -> Value {
    json!(humantime::format_duration(span).to_string())
}
