//! What the operator says about container logs: flags and variables to settings. All problems are told at once.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use plumbline_core::settings::CoreSettings;
use plumbline_logs::join::Rule;
use plumbline_logs::process::Process;
use plumbline_logs::redact::Redactor;
use plumbline_logs::select::Select;
use plumbline_logs::severity::Severity;
use serde::Deserialize;

use super::LogConfig;
use crate::config::Problem;
use crate::config::file::File;
use crate::export::settings::ExportSettings;

/// Container logs on the command line.
#[derive(Clone, Debug, Default, Args)]
pub struct LogArgs {
    /// Ship the container logs below this directory, usually /var/log/pods (run only); at least once, to
    /// OTEL_EXPORTER_OTLP_LOGS_ENDPOINT
    #[arg(long, value_name = "DIR", env = "PLUMBLINE_LOG_ROOT")]
    pub log_root: Option<PathBuf>,
    /// Where the checkpoint of --log-root lives: how far each file was delivered [default: /var/lib/plumbline]
    #[arg(long, value_name = "DIR", env = "PLUMBLINE_LOG_STATE")]
    pub log_state: Option<PathBuf>,
    /// What the kubelet keeps of a container's logs: containerLogMaxSize times containerLogMaxFiles [default: 50Mi]
    #[arg(long, value_name = "BYTES", env = "PLUMBLINE_LOG_KEPT")]
    pub log_kept: Option<Size>,
    /// Logs of a container in each of ten minutes that are called a flood [default: 30Mi]
    #[arg(long, value_name = "BYTES", env = "PLUMBLINE_LOG_FLOOD")]
    pub log_flood: Option<Size>,
    /// Ship logs of these namespaces only
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "PLUMBLINE_LOG_NAMESPACE"
    )]
    pub log_namespace: Vec<String>,
    /// Ship no logs of these namespaces
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "PLUMBLINE_LOG_EXCLUDE_NAMESPACE"
    )]
    pub log_exclude_namespace: Vec<String>,
    /// Ship no logs of containers of this name
    #[arg(
        long,
        value_name = "[NAMESPACE/]NAME",
        value_delimiter = ',',
        env = "PLUMBLINE_LOG_EXCLUDE_CONTAINER"
    )]
    pub log_exclude_container: Vec<String>,
    /// Ship no logs of pods with this label when they begin: who may set it in the namespace may then silence its pods
    #[arg(
        long,
        value_name = "NAMESPACE:KEY=VALUE",
        value_delimiter = ',',
        env = "PLUMBLINE_LOG_EXCLUDE_LABEL"
    )]
    pub log_exclude_label: Vec<LabelRule>,
    /// Replace what matches by *** in each record: an expression, or @aws-key, @bearer, @email, @jwt, @password,
    /// @private-key, @url-password (in the variable, one a line)
    #[arg(
        long,
        value_name = "EXPRESSION",
        value_delimiter = '\n',
        env = "PLUMBLINE_LOG_REDACT"
    )]
    pub log_redact: Vec<String>,
    /// Join lines that are one message: `indented`, or `start:EXPRESSION` for first lines
    #[arg(long, value_name = "RULE", env = "PLUMBLINE_LOG_JOIN")]
    pub log_join: Option<String>,
    /// Tell the severity that a record says of itself; a guess
    #[arg(
        long,
        value_name = "BOOL",
        env = "PLUMBLINE_LOG_SEVERITY",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub log_severity: Option<bool>,
    /// Drop records that say that they are less severe than trace, debug, info, warn, error or fatal
    #[arg(long, value_name = "SEVERITY", env = "PLUMBLINE_LOG_MIN_SEVERITY")]
    pub log_min_severity: Option<String>,
    /// Drop what a pod logs beyond so many bytes a second
    #[arg(long, value_name = "BYTES", env = "PLUMBLINE_LOG_POD_RATE")]
    pub log_pod_rate: Option<Size>,
}

/// Default of `--log-state`.
const STATE: &str = "/var/lib/plumbline";

impl LogArgs {
    /// With what the file says where no flag or variable says anything. A list is one or the other, never both.
    pub(crate) fn over(&self, file: &File) -> Self {
        fn list<T: Clone>(flags: &[T], file: &[T]) -> Vec<T> {
            if flags.is_empty() { file } else { flags }.to_vec()
        }
        let of = self.clone();
        Self {
            log_root: of.log_root.or_else(|| file.log_root.clone()),
            log_state: of.log_state.or_else(|| file.log_state.clone()),
            log_kept: of.log_kept.or(file.log_kept),
            log_flood: of.log_flood.or(file.log_flood),
            log_namespace: list(&of.log_namespace, &file.log_namespace),
            log_exclude_namespace: list(&of.log_exclude_namespace, &file.log_exclude_namespace),
            log_exclude_container: list(&of.log_exclude_container, &file.log_exclude_container),
            log_exclude_label: list(&of.log_exclude_label, &file.log_exclude_label),
            log_redact: list(&of.log_redact, &file.log_redact),
            log_join: of.log_join.or_else(|| file.log_join.clone()),
            log_severity: of.log_severity.or(file.log_severity),
            log_min_severity: of
                .log_min_severity
                .or_else(|| file.log_min_severity.clone()),
            log_pod_rate: of.log_pod_rate.or(file.log_pod_rate),
        }
    }

    /// Container logs: only where they were asked for.
    pub(crate) fn resolve(
        &self,
        export: &ExportSettings,
        problems: &mut Vec<Problem>,
    ) -> Option<LogConfig> {
        let root = self.log_root.clone()?;
        let options = LogOptions::resolve(self, problems);
        let Some(endpoint) = export.findings.clone() else {
            problems.push(Problem {
                at: "--log-root".into(),
                message: "needs a collector: set OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, or OTEL_EXPORTER_OTLP_ENDPOINT".into(),
            });
            return None;
        };
        Some(LogConfig {
            root,
            state: self.log_state.clone().unwrap_or_else(|| STATE.into()),
            endpoint,
            options,
        })
    }

    /// What the rules about logs are told.
    pub(crate) fn tell(&self, core: &mut CoreSettings) {
        if let Some(kept) = self.log_kept {
            core.log_kept_bytes = kept.0;
        }
        if let Some(flood) = self.log_flood {
            core.log_flood_bytes = flood.0;
        }
    }
}

/// What is done with container logs.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// By namespace and container.
    pub select: Select,
    /// By label.
    pub labels: Vec<LabelRule>,
    /// With each record.
    pub process: Process,
    /// With lines that are one message.
    pub join: Option<Rule>,
    /// Bytes that a pod may log in a second.
    pub pod_bytes_per_second: Option<u64>,
}

impl LogOptions {
    /// From flags and variables; what is wrong is added to `problems`.
    fn resolve(args: &LogArgs, problems: &mut Vec<Problem>) -> Self {
        let mut wrong = |at: &str, message: String| {
            problems.push(Problem {
                at: at.into(),
                message,
            });
        };
        let redact = (!args.log_redact.is_empty()).then(|| Redactor::new(&args.log_redact));
        let redact =
            redact.and_then(|made| made.map_err(|message| wrong("--log-redact", message)).ok());
        let join = args.log_join.as_deref().and_then(|rule| {
            let made = Rule::parse(rule);
            made.map_err(|message| wrong("--log-join", message)).ok()
        });
        let severity_min = args.log_min_severity.as_deref().and_then(|word| {
            let known = Severity::parse(word.as_bytes());
            if known.is_none() {
                let message = format!("`{word}` is none of trace, debug, info, warn, error, fatal");
                wrong("--log-min-severity", message);
            }
            known
        });
        if args.log_pod_rate == Some(Size(0)) {
            wrong(
                "--log-pod-rate",
                "0 would ship nothing; exclude the namespace instead".into(),
            );
        }
        Self {
            select: Select {
                namespaces: args.log_namespace.clone(),
                exclude_namespaces: args.log_exclude_namespace.clone(),
                exclude_containers: args.log_exclude_container.clone(),
            },
            labels: args.log_exclude_label.clone(),
            process: Process {
                redact,
                severity: args.log_severity.unwrap_or(false),
                severity_min,
            },
            join,
            pod_bytes_per_second: args.log_pod_rate.map(|size| size.0),
        }
    }
}

/// A label that, in a namespace or in all (`*`), keeps a pod's logs from being shipped.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LabelRule {
    /// The namespace, or `*`.
    pub namespace: String,
    /// The label's key.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl LabelRule {
    /// Whether it is about pods of this namespace.
    #[must_use]
    pub fn is_about(&self, namespace: &str) -> bool {
        self.namespace == "*" || self.namespace == namespace
    }
}

impl Display for LabelRule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}={}", self.namespace, self.key, self.value)
    }
}

impl TryFrom<String> for LabelRule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for LabelRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once(':')
            .and_then(|(namespace, label)| Some((namespace, label.split_once('=')?)));
        match parts {
            Some((namespace, (key, value))) if !namespace.is_empty() && !key.is_empty() => {
                Ok(Self {
                    namespace: namespace.into(),
                    key: key.into(),
                    value: value.into(),
                })
            }
            _ => Err(format!(
                "`{text}` is no NAMESPACE:KEY=VALUE; the namespace may be *"
            )),
        }
    }
}

/// Bytes as people write them: `52428800`, `50Mi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Size(pub u64);

/// A size in the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl TryFrom<Written> for Size {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse(),
        }
    }
}

/// In the largest unit of which it is a whole number.
impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let units = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
        let whole = |unit: &&(&str, u64)| self.0 > 0 && self.0.is_multiple_of(unit.1);
        match units.iter().find(whole) {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)];
        let unit = units
            .iter()
            .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
        let (number, unit) = unit.unwrap_or((text, 1));
        let bytes = number.parse::<u64>().ok();
        bytes
            .and_then(|bytes| bytes.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| {
                format!("`{text}` is no number of bytes; write it like 500Ki, 50Mi or 1Gi")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_labels() {
        for (text, want) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("500Ki", Some(500 << 10)),
            ("1Gi", Some(1 << 30)),
            ("1.5Mi", None),
            ("Mi", None),
            ("-1", None),
            ("99999999999Gi", None),
        ] {
            assert_eq!(text.parse::<Size>().ok().map(|size| size.0), want, "{text}");
        }
        let rule: LabelRule = "shop:app.kubernetes.io/name=web".parse().unwrap();
        assert_eq!(
            (rule.key.as_str(), rule.value.as_str()),
            ("app.kubernetes.io/name", "web")
        );
        assert!(rule.is_about("shop") && !rule.is_about("bank"));
        assert!("*:a=".parse::<LabelRule>().unwrap().is_about("bank"));
        for wrong in ["", "a=b", ":a=b", "shop:=b", "shop:a"] {
            assert!(wrong.parse::<LabelRule>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told() {
        let args = LogArgs {
            log_redact: vec!["(".into()],
            log_join: Some("lines".into()),
            log_min_severity: Some("loud".into()),
            log_pod_rate: Some(Size(0)),
            ..LogArgs::default()
        };
        let mut problems = Vec::new();
        let options = LogOptions::resolve(&args, &mut problems);
        let at: Vec<_> = problems.iter().map(|problem| problem.at.as_str()).collect();
        let want = [
            "--log-redact",
            "--log-join",
            "--log-min-severity",
            "--log-pod-rate",
        ];
        assert_eq!(at, want);
        assert!(options.process.is_nothing());
    }
}
