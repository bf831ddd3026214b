//! Reads `dashboards/METRICS.md`, which the agent's tests generate: the names that queries may use.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};

/// What stores of the Prometheus family get from the agent.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    metrics: BTreeMap<String, Metric>,
    resource: BTreeSet<String>,
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
struct Metric {
    counter: bool,
    labels: BTreeSet<String>,
}

impl Catalogue {
    /// Rows of six cells are metrics, rows of two are labels of the resource; other lines are prose.
    pub(super) fn parse(page: &str) -> Result<Self> {
        let mut catalogue = Self::default();
        for line in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            match cells.as_slice() {
                [_, name, instrument, _, labels, _] => {
                    let labels = labels.split_whitespace().map(code).collect::<Result<_>>()?;
                    let counter = *instrument == "counter";
                    let metric = Metric { counter, labels };
                    catalogue.metrics.insert(code(name)?, metric);
                }
                [_, label] => drop(catalogue.resource.insert(code(label)?)),
                _ => bail!("a row of neither table: {line}"),
            }
        }
        if catalogue.metrics.is_empty() || catalogue.resource.is_empty() {
            bail!("no metric or no label in it");
        }
        Ok(catalogue)
    }

    /// `None` if there is no such metric.
    pub(super) fn is_counter(&self, metric: &str) -> Option<bool> {
        self.metrics.get(metric).map(|metric| metric.counter)
    }

    /// Whether series of the metric may have the label.
    pub(super) fn has_label(&self, metric: &str, label: &str) -> bool {
        self.resource.contains(label)
            || label == "__name__"
            || self
                .metrics
                .get(metric)
                .is_some_and(|metric| metric.labels.contains(label))
    }
}

/// `` `x` `` without the quotes.
fn code(cell: &str) -> Result<String> {
    let name = cell
        .strip_prefix('`')
        .and_then(|cell| cell.strip_suffix('`'));
    Ok(name
        .with_context(|| format!("not a name in backquotes: {cell}"))?
        .to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::Catalogue;

    /// A counter with a role, a gauge, and the namespace.
    pub(in super::super) fn small() -> Catalogue {
        Catalogue::parse(
            "# Title\n\n| OpenTelemetry | Prometheus | instrument | unit | labels | meaning |\n| --- | --- | --- | --- | --- | --- |\n\
             | `a.b` | `a_b_total` | counter | `{x}` | `role` `port` | Some x. |\n\
             | `g` | `g` | gauge | `1` |  | A g. |\n\
             \n| OpenTelemetry | Prometheus |\n| --- | --- |\n| `k8s.ns` | `k8s_ns` |\n",
        )
        .unwrap()
    }

    #[test]
    fn metrics_and_labels() {
        let small = small();
        assert_eq!(small.is_counter("a_b_total"), Some(true));
        assert_eq!(small.is_counter("g"), Some(false));
        assert_eq!(small.is_counter("a.b"), None);
        assert!(small.has_label("a_b_total", "role"));
        assert!(small.has_label("g", "k8s_ns"));
        assert!(!small.has_label("g", "role"));
    }

    #[test]
    fn a_page_without_tables_is_refused() {
        assert!(Catalogue::parse("# Metrics\n").is_err());
        assert!(Catalogue::parse("| `a` | `b` | c |\n").is_err());
    }
}
