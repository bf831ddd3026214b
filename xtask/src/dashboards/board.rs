//! A Grafana dashboard in its classic JSON form, as far as it is judged here.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

/// A dashboard.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Board {
    /// Its name in links.
    pub(super) uid: String,
    /// Null in a file: each Grafana gives its own.
    pub(super) id: Value,
    /// Version of the form.
    pub(super) schema_version: u32,
    /// Whether people may edit it in place.
    pub(super) editable: bool,
    /// By which links and searches find it.
    pub(super) tags: Vec<String>,
    /// Its variables.
    pub(super) templating: Templating,
    /// Panels and rows.
    pub(super) panels: Vec<Panel>,
    /// Present in what grafana.com exports; ignored by provisioning.
    #[serde(rename = "__inputs")]
    pub(super) inputs: Option<Value>,
}

/// Holds the variables.
#[derive(Debug, Deserialize)]
pub(super) struct Templating {
    /// In the order in which they are shown.
    pub(super) list: Vec<Variable>,
}

/// A variable.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Variable {
    /// Without the `$`.
    pub(super) name: String,
    /// `query`, `datasource` or others.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// For `query`: an object with `query` in it.
    pub(super) query: Value,
    /// Which source is asked.
    pub(super) datasource: Option<Datasource>,
    /// 2: when the time range changes.
    pub(super) refresh: Option<u32>,
    /// What stands for all values.
    pub(super) all_value: Option<String>,
}

/// A reference to a data source.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Datasource {
    /// Its id, or `${datasource}`.
    pub(super) uid: String,
}

/// A panel, or a row.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Panel {
    /// Different from all others.
    pub(super) id: u32,
    /// `row`, `timeseries`, ...
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Shown above it.
    #[serde(default)]
    pub(super) title: String,
    /// Shown on request.
    #[serde(default)]
    pub(super) description: String,
    /// Which source is asked.
    pub(super) datasource: Option<Datasource>,
    /// Where it lies.
    pub(super) grid_pos: GridPos,
    /// Unit and colours.
    #[serde(default)]
    pub(super) field_config: Value,
    /// Its queries.
    #[serde(default)]
    pub(super) targets: Vec<Target>,
}

/// A rectangle in a grid 24 wide.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct GridPos {
    /// Left edge.
    pub(super) x: u32,
    /// Upper edge.
    pub(super) y: u32,
    /// Width.
    pub(super) w: u32,
    /// Height.
    pub(super) h: u32,
}

/// A query.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Target {
    /// A, B, ...
    pub(super) ref_id: String,
    /// Which source is asked.
    pub(super) datasource: Option<Datasource>,
    /// PromQL with Grafana's variables.
    pub(super) expr: String,
    /// For one moment rather than a range of time.
    #[serde(default)]
    pub(super) instant: bool,
    /// How series are named.
    #[serde(default)]
    pub(super) legend_format: String,
}

impl Board {
    /// Reads a file's text.
    pub(super) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("the dashboard")
    }

    /// Each query with the panel it belongs to.
    pub(super) fn targets(&self) -> impl Iterator<Item = (&Panel, &Target)> {
        self.panels
            .iter()
            .flat_map(|panel| panel.targets.iter().map(move |target| (panel, target)))
    }
}

impl Variable {
    /// Selector and label of `label_values(selector, label)`.
    pub(super) fn label_values(&self) -> Option<(&str, &str)> {
        let query = self.query.get("query")?.as_str()?;
        let arguments = query.strip_prefix("label_values(")?.strip_suffix(')')?;
        let (selector, label) = arguments.rsplit_once(',')?;
        Some((selector.trim(), label.trim()))
    }
}
