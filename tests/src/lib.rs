//! What the tests, the demo and the benchmarks stand on: real processes in pod-shaped cgroups.
//!
//! - [`pods`]: plays pods exactly as the kubelet lays them out.
//! - [`foreign`]: what other tools do to the programs of an agent.
//! - [`cgroup`], [`netns`]: what pods are made of.
//! - [`traffic`]: exact work for the processes inside, with the counts that an observer must have seen.
//! - [`agent`]: starts the agent's binary and talks to its local socket.
//! - [`scale`]: how large tests are, here and on slower machines.
//! - [`wait`]: polls. [`skip`]: says when a machine cannot run a test.
//!
//! Nothing here touches the host's interfaces, routes or other cgroups.

pub mod agent;
pub mod cgroup;
pub mod foreign;
pub mod netns;
pub mod pods;
pub mod scale;
pub mod skip;
pub mod traffic;
pub mod wait;
