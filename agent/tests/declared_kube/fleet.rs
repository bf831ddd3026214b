//! F27 and F24 of RELIABILITY: many agents, and many pods.

use std::time::Duration;

use plumbline::clock;
use plumbline::sources::kube::{KubeSettings, Pacing, Peers, run};
use plumbline::sources::{CHANNEL_CAPACITY, Sink};
use plumbline_core::observation::{Fact, Health};
use tokio::task::JoinSet;

use crate::double::Api;
use crate::pod;
use crate::watching::QUICK;

/// How many agents, and the time in which their first requests come: RELIABILITY's in the full tier.
fn size() -> (usize, Duration) {
    if std::env::var("PLUMBLINE_TEST_TIER").is_ok_and(|tier| tier == "full") {
        (200, Duration::from_secs(66))
    } else {
        (40, Duration::from_secs(3))
    }
}

/// F27: agents that start together ask for their first lists spread over the jitter, and then for nothing any more.
#[test]
fn a_fleet_spreads_its_first_lists_and_then_only_watches() {
    let (agents, jitter) = size();
    let api = Api::start();
    api.put("pods", pod("a", 80));
    let scratch = tempfile::tempdir().unwrap();
    let kubeconfig = api.kubeconfig(scratch.path(), None);
    let pacing = Pacing {
        start_jitter: jitter,
        heartbeat: Duration::from_secs(60),
        ..Pacing::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let mut receivers = Vec::new();
        for _ in 0..agents {
            let (sink, receiver) = Sink::new();
            receivers.push(receiver);
            let settings = KubeSettings {
                kubeconfig: Some(kubeconfig.clone()),
                node_name: "node-a".to_owned(),
                peers: Peers::Node,
                pacing,
            };
            tasks.spawn(run(settings, sink, std::future::pending()));
        }
        let resources = 4;
        for _ in 0..3_000 {
            if api.count("watch", "") >= agents * resources {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let asked = api.asked();
        let lists: Vec<_> = asked
            .iter()
            .filter(|asked| asked.target.contains("/pods?") && asked.verb == "list")
            .collect();
        assert_eq!(lists.len(), agents);
        let spread = lists[lists.len() - 1].at.duration_since(lists[0].at);
        // Of so many at random, the first and the last are near both ends.
        assert!(spread >= jitter * 3 / 4, "{spread:?}");
        // One watch of each resource, which the server is asked to keep for an hour and more: no twelve requests an hour.
        assert_eq!(api.count("watch", ""), agents * resources);
        for asked in asked.iter().filter(|asked| asked.verb == "watch") {
            let seconds = asked
                .target
                .split("timeoutSeconds=")
                .nth(1)
                .and_then(|rest| rest.split('&').next());
            assert!(
                seconds
                    .and_then(|seconds| seconds.parse::<u32>().ok())
                    .is_some_and(|seconds| seconds >= 3_600),
                "{}",
                asked.target
            );
        }
        let (before, started) = (api.asked().len(), clock::instant());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(
            api.asked().len(),
            before,
            "asked for more within {:?}",
            started.elapsed()
        );
        tasks.abort_all();
    });
}

/// A loop that does not keep up loses nothing but time: what found no room in the channel is told again.
#[test]
fn what_found_no_room_is_told_again() {
    let api = Api::start();
    api.put("pods", pod("a", 80));
    let scratch = tempfile::tempdir().unwrap();
    let settings = KubeSettings {
        kubeconfig: Some(api.kubeconfig(scratch.path(), None)),
        node_name: "node-a".to_owned(),
        peers: Peers::Node,
        pacing: QUICK,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (sink, mut receiver) = Sink::new();
        for _ in 0..CHANNEL_CAPACITY {
            assert!(sink.send(clock::monotonic(), Fact::Clock { unix_ns: 0 }));
        }
        let watching = tokio::spawn(run(settings, sink.clone(), std::future::pending()));
        while sink.dropped() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (mut declared, mut healthy) = (false, false);
        while !(declared && healthy) {
            let fact = receiver.recv().await.unwrap().fact;
            if let Fact::Declared(told) = fact {
                declared = told.pods.len() == 1;
            } else if let Fact::Probe(status) = fact
                && status.probe == "declared"
            {
                healthy = status.health == Health::Ok;
            }
        }
        watching.abort();
    });
}
