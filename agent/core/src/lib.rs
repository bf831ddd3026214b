//! The functional core of Plumbline: what was declared, what was observed, and the findings between the two.
//!
//! It does no IO and reads no clock: observations come in with their own timestamps, so that a recording replays to the
//! same bytes. The modules, in the order in which data meets them:
//!
//! - [`id`]: newtypes for everything that would otherwise be a bare integer or string.
//! - [`time`]: monotonic and wall time, and how one becomes the other.
//! - [`observation`]: everything that may enter.
//! - [`attribution`]: cgroup path -> container -> pod.
//! - [`declared`]: what Kubernetes objects promise.
//! - [`peers`]: an address -> a name that may leave.
//! - [`policy`]: would the policies of the cluster let a flow through?
//! - [`sketch`]: a distribution of CPU use.
//! - [`observed`]: bounded tables of what the kernel did.
//! - [`ledger`]: which bounded things there are, and what becomes of what they have no room for.
//! - [`node`]: [`node::NodeState`], the one writer, and the [`snapshot::Snapshot`] it gives.
//! - [`exposure`]: how far a listening port can be reached.
//! - [`rules`]: pure functions from a snapshot to conditions.
//! - [`suppression`]: which rules judge, and what the operator hides.
//! - [`findings`]: the life of a finding over time.
//! - [`report`]: what leaves: points and findings, sorted.

pub mod attribution;
pub mod declared;
pub mod exposure;
pub mod finding;
pub mod findings;
pub mod host_listener;
pub mod id;
pub mod ledger;
pub mod metric;
pub mod node;
pub mod observation;
pub mod observed;
pub mod peers;
pub mod policy;
pub mod report;
pub mod rules;
pub mod settings;
pub mod sketch;
pub mod snapshot;
pub mod suppression;
pub mod time;
