//! What outlives one evaluation: which findings have arrived, the state file, and changes of the configuration.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use plumbline_core::observation::{Fact, Observation};
use plumbline_core::snapshot::Snapshot;

use super::Node;
use super::delivery::Delivery;
use crate::cli::NodeArgs;
use crate::clock;
use crate::config::Config;
use crate::config::reload::Reloader;
use crate::engine::{Engine, Evaluation};
use crate::export::Exporter;
use crate::export::stats::LaneStats;
use crate::findings_state::keeper::Keeper;
use crate::status::Kept;

/// A disk that hangs must not keep the agent from ending.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Life {
    delivery: Delivery,
    keeper: Option<Keeper>,
    reloader: Reloader,
}

impl Life {
    /// Takes over what an earlier run left, and follows the configuration file.
    pub(super) fn start(config: &Config, args: &NodeArgs, node: &mut Node) -> anyhow::Result<Self> {
        let keeper = config.state_dir.as_deref().map(|directory| {
            let (mut keeper, remembered) = Keeper::start(directory, &config.node);
            let restored = (remembered.open.len() + remembered.past.len()) as u64;
            let left_out = node.engine.restore(remembered);
            keeper.restored(restored, left_out);
            if restored > 0 {
                tracing::info!(
                    restored,
                    left_out,
                    "findings of the run before are taken over"
                );
            }
            keeper
        });
        Ok(Self {
            delivery: Delivery::default(),
            keeper,
            reloader: Reloader::start(config, args).context("follow the configuration file")?,
        })
    }

    /// Before a tick: what changed outside enters as observations, so that a recording has it.
    pub(super) fn before(&mut self, node: &mut Node) {
        let wall = plumbline_core::time::UnixNanos(clock::unix_ns());
        let settings = self.reloader.news(wall).map(Fact::Settings);
        let config = self.reloader.probe().map(Fact::Probe);
        let state = self.keeper.as_mut().and_then(Keeper::news).map(Fact::Probe);
        for fact in [settings, config, state].into_iter().flatten() {
            node.take(Observation {
                at: clock::monotonic(),
                fact,
            });
        }
    }

    /// After an evaluation, before what is new is offered.
    pub(super) fn evaluated(&mut self, evaluation: &Evaluation, export: &Exporter) {
        self.delivery.look(evaluation, export);
    }

    /// After it was offered.
    pub(super) fn keep(&mut self, engine: &Engine, snapshot: &Snapshot) {
        let changed = self.delivery.has_changed();
        if let Some(keeper) = &mut self.keeper {
            let unsure = self.delivery.unsure();
            keeper.keep(changed, snapshot.now, || engine.remember(snapshot, unsure));
        }
    }

    /// How all that fares.
    pub(super) fn kept(&self) -> Kept {
        Kept {
            config: self.reloader.stats(),
            state: self.keeper.as_ref().map(Keeper::stats),
        }
    }

    /// After the last export: writes the last state, for as long as the disk takes.
    pub(super) async fn end(
        mut self,
        engine: Engine,
        snapshot: Arc<Snapshot>,
        lanes: &[LaneStats],
    ) {
        self.delivery.settle(lanes);
        let Some(keeper) = self.keeper.take() else {
            return;
        };
        let remembered = engine.remember(&snapshot, self.delivery.unsure());
        let written = tokio::task::spawn_blocking(move || keeper.finish(remembered));
        match tokio::time::timeout(LAST_WRITE, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the last state of findings was not written"),
            // The one before stays; what it does not know is told again.
            Err(_) => tracing::error!("the last state of findings was not written in time"),
        }
    }
}
