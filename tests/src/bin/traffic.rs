//! `plumbline-traffic PLAN`: carries out one plan (JSON) inside a container and prints its own exact counts.

use anyhow::{Context, Result};
use plumbline_tests::traffic::act;

fn main() -> Result<()> {
    let plan = std::env::args()
        .nth(1)
        .context("usage: plumbline-traffic PLAN (JSON)")?;
    act(serde_json::from_str(&plan).context("the plan is not what this binary knows")?)
}
