//! What containers receive is seen from when one of their programs chose a port: before, hooks on it would cost every socket
//! of the node and tell nothing.

use std::collections::BTreeSet;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::Role;
use plumbline_core::snapshot::BindScope;
use plumbline_tests::pods::Container;

use super::super::observer::{Observer, sandbox};
use super::{NEVER, Talker, expect_heard, expect_peers, expect_servers, is_heard};

#[test]
fn clients_alone_are_not_heard_and_all_their_peers_are_seen() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::scanning(&sandbox, NEVER) else {
        return;
    };
    let (asking, client) = sandbox.solo("client").unwrap();
    let (pod, server) = sandbox.solo("server").unwrap();
    observer.attached(&client);
    observer.attached(&server);
    let (mut here, mut there) = (Talker::new(&client), Talker::new(&server));
    there.tell("bind echo [::]:5400");
    there.tell("bind mute 0.0.0.0:5401");
    expect_heard(&server);
    here.tell("bind zero 0.0.0.0:0");
    here.tell("open plain 6");
    here.tell(&format!("send zero {}:5400 8 2", pod.ipv4()));
    here.tell(&format!("send plain [{}]:5400 8 2", pod.ipv6()));
    there.tell("echo echo 4");
    here.tell("take zero 2");
    here.tell("take plain 2");
    // Who never answers has peers too.
    here.tell(&format!("send zero {}:5401 8 2", pod.ipv4()));
    there.tell("take mute 2");
    let (v4, v6) = (Some(pod.ipv4()), Some(pod.ipv6()));
    let sent = [(v4, 5400), (v6, 5400), (v4, 5401)];
    expect_peers(
        &observer,
        &client,
        &sent.map(|(peer, port)| ((Role::Client, peer, port), 1)),
    );
    let (v4, v6) = (Some(asking.ipv4()), Some(asking.ipv6()));
    let received = [(v4, 5400), (v6, 5400), (v4, 5401)];
    expect_peers(
        &observer,
        &server,
        &received.map(|(peer, port)| ((Role::Server, peer, port), 1)),
    );
    assert!(!is_heard(&client));
    assert_eq!(observer.dropped(), [].into());
}

/// The first socket of a container that chose its port did so before anything looked at what it receives. In the dynamic
/// range, that it sends first does not make it a client for good.
#[test]
fn a_server_that_was_not_heard_at_first_is_found() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::scanning(&sandbox, NEVER) else {
        return;
    };
    let (pod, serving) = sandbox.solo("serving").unwrap();
    let (home, quic) = sandbox.solo("quic").unwrap();
    let (beside, other) = sandbox.solo("other").unwrap();
    for container in [&serving, &quic, &other] {
        observer.attached(container);
    }
    let [mut here, mut client, mut there] = [&serving, &quic, &other].map(Talker::new);
    there.tell("bind echo 0.0.0.0:5410");
    there.tell("open asking 4");
    let other_v4 = beside.ipv4();
    for (talker, container) in [(&mut here, &serving), (&mut client, &quic)] {
        let talker: &mut Talker = talker;
        talker.tell("bind first 0.0.0.0:45410");
        talker.tell(&format!("send first {other_v4}:5410 8 1"));
        there.tell("echo echo 1");
        expect_heard(container);
        talker.tell("take first 1");
        // Chosen while it is heard: what comes first decides.
        talker.tell("bind second 0.0.0.0:45411");
        talker.tell(&format!("send second {other_v4}:5410 8 1"));
        there.tell("echo echo 1");
        talker.tell("take second 1");
    }
    there.tell(&format!("send asking {}:45411 8 1", home.ipv4()));
    client.tell("take second 1");
    // What came later shows that the other was not told of.
    there.tell(&format!("send asking {}:45410 8 1", pod.ipv4()));
    here.tell("take first 1");
    let found = [(45_410, 1, BindScope::Any)];
    expect_servers(&observer, &serving, "asked by a stranger", &found);
    expect_servers(&observer, &quic, "answered only", &[]);
}

#[test]
fn what_scans_find_is_heard() {
    let Some(sandbox) = sandbox() else { return };
    let (pod, container) = sandbox.solo("old").unwrap();
    let (beside, other) = sandbox.solo("other").unwrap();
    let (mut here, mut there) = (Talker::new(&container), Talker::new(&other));
    here.tell("bind mute [::]:5420");
    here.tell("bind zero 0.0.0.0:0");
    there.tell("bind zero 0.0.0.0:0");
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    observer.attached(&container);
    observer.attached(&other);
    let id = |container: &Container| CgroupId(container.cgroup_id());
    let serving: BTreeSet<CgroupId> = observer.expect("the server, by scan", |seen| {
        let serving = seen.state.udp_servers();
        (!serving.is_empty()).then_some(serving)
    });
    assert_eq!(serving, [id(&container)].into());
    assert!(!is_heard(&container), "no event told of it");
    // As the loop does.
    observer.kernel.set_udp_servers(serving);
    expect_heard(&container);
    there.tell(&format!("send zero {}:5420 8 1", pod.ipv4()));
    here.tell("take mute 1");
    let from = (Role::Server, Some(beside.ipv4()), 5_420);
    expect_peers(&observer, &container, &[(from, 1)]);
}

/// The answer of a server on a port that the kernel chose looks like a question to its client, until the container is heard.
#[test]
fn a_server_on_a_port_of_the_kernels_choice_is_no_client() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::scanning(&sandbox, NEVER) else {
        return;
    };
    let (pod, container) = sandbox.solo("serving").unwrap();
    let (beside, other) = sandbox.solo("other").unwrap();
    observer.attached(&container);
    observer.attached(&other);
    let (mut here, mut there) = (Talker::new(&container), Talker::new(&other));
    let port = |address: String| address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let server = port(here.tell("bind zero 0.0.0.0:0"));
    let first = port(there.tell("bind first 0.0.0.0:0"));
    there.tell(&format!("send first {}:{server} 8 1", pod.ipv4()));
    here.tell("echo zero 1");
    expect_heard(&container);
    for name in ["second", "third"] {
        there.tell(&format!("bind {name} 0.0.0.0:0"));
        there.tell(&format!("send {name} {}:{server} 8 1", pod.ipv4()));
        here.tell("echo zero 1");
    }
    // What came later shows that the others were not told of.
    there.tell("bind last 0.0.0.0:5430");
    here.tell(&format!("send zero {}:5430 8 1", beside.ipv4()));
    let v4 = Some(beside.ipv4());
    let to = |port| ((Role::Client, v4, port), 1);
    expect_peers(&observer, &container, &[to(first), to(5_430)]);
    expect_servers(&observer, &container, "not chosen", &[]);
}
