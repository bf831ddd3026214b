//! The agent's own metrics, by the OpenTelemetry SDK: a lane of its own, so that it still speaks when the data lane is stuck.
//!
//! The SDK collects and encodes on a thread of its own; `client` carries the bytes over the exporter's transport, so that
//! both lanes know the same protocols, certificates and limits.

mod client;
mod instruments;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_otlp::{
    MetricExporter, Protocol, RetryPolicy, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use plumbline_core::settings::NodeIdentity;
use plumbline_core::snapshot::Dropped;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::export::semconv as key;
use crate::export::settings::{Endpoint, ExportSettings, OwnResource};
use crate::export::stats::LaneStats;
use crate::export::transport::Transport;

/// What the loop knows about the agent itself. All numbers are cumulative since the agent began.
#[derive(Clone, Debug, Default)]
pub struct SelfValues {
    /// What bounded things lost, in the kernel and here (`plumbline.dropped`). The data lane tells it too; this lane still
    /// does when that one is stuck.
    pub dropped: Vec<Dropped>,
    /// The data lanes.
    pub lanes: Vec<LaneStats>,
}

/// Written by the loop each tick, read when the SDK collects.
#[derive(Debug, Default)]
pub struct SelfStats(Mutex<SelfValues>);

impl SelfStats {
    /// Replaces the values.
    pub fn update(&self, values: SelfValues) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = values;
    }

    fn read<T>(&self, read: impl FnOnce(&SelfValues) -> T) -> T {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The running SDK.
#[derive(Debug)]
pub struct Telemetry {
    /// `None` once it is being shut down.
    provider: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Starts it, if metrics have an endpoint. Must be called inside a tokio runtime, which carries the requests.
    ///
    /// # Errors
    ///
    /// A certificate or key file cannot be read or used.
    pub fn start(
        settings: &ExportSettings,
        node: &NodeIdentity,
        stats: Arc<SelfStats>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = &settings.metrics else {
            return Ok(None);
        };
        let reader = PeriodicReader::builder(exporter(endpoint, node)?)
            .with_interval(settings.metric_interval)
            .build();
        let provider = SdkMeterProvider::builder()
            .with_resource(resource(&settings.own, node))
            .with_reader(reader)
            .build();
        instruments::register(&provider.meter("plumbline"), &stats);
        Ok(Some(Self {
            provider: Some(provider),
        }))
    }

    /// Sends the last values for at most `deadline`, also when the collector hangs: the SDK's own shutdown blocks its
    /// caller and ignores its time limit, so it gets a thread that nobody waits for longer than that.
    pub async fn shutdown(mut self, deadline: Duration) {
        let Some(provider) = self.provider.take() else {
            return;
        };
        let done = shut_down_apart(provider);
        if tokio::time::timeout(deadline, done).await.is_err() {
            tracing::warn!(
                deadline_ms = deadline.as_millis(),
                "the agent's own last metrics were not taken in time"
            );
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // The provider's own drop would block.
        if let Some(provider) = self.provider.take() {
            drop(shut_down_apart(provider));
        }
    }
}

fn shut_down_apart(provider: SdkMeterProvider) -> oneshot::Receiver<()> {
    let (done, receiver) = oneshot::channel();
    let shut_down = move || {
        if let Err(error) = provider.shutdown() {
            tracing::debug!(error = %error, "the SDK did not shut down cleanly");
        }
        // The receiver may have given up.
        done.send(()).unwrap_or_default();
    };
    let thread = std::thread::Builder::new()
        .name("plumbline-bye".to_owned())
        .spawn(shut_down);
    if let Err(error) = thread {
        tracing::warn!(error = %error, "no thread to send the agent's own last metrics");
    }
    receiver
}

fn exporter(endpoint: &Endpoint, node: &NodeIdentity) -> anyhow::Result<MetricExporter> {
    let transport =
        Transport::new(endpoint.clone(), node).context("start the agent's own metrics")?;
    let client = client::SelfClient::new(transport, Handle::current());
    MetricExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint.url.to_string())
        .with_timeout(endpoint.timeout)
        .with_http_client(client)
        // Values are cumulative: the next export makes up for a lost one.
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .context("start the agent's own metrics")
}

fn resource(own: &OwnResource, node: &NodeIdentity) -> Resource {
    let known = [
        (key::SERVICE_VERSION, Some(&node.agent_version)),
        (key::SERVICE_INSTANCE_ID, node.node.as_ref()),
        (key::K8S_CLUSTER_NAME, node.cluster.as_ref()),
        (key::K8S_NODE_NAME, node.node.as_ref()),
        (key::DEPLOYMENT_ENVIRONMENT_NAME, node.environment.as_ref()),
    ];
    let known = known
        .into_iter()
        .filter_map(|(key, value)| Some(KeyValue::new(key, value?.clone())));
    let given = own
        .attributes
        .iter()
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty()
        .with_attributes(known.chain(given))
        .with_service_name(own.service_name.clone())
        .build()
}
