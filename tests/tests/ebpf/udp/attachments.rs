//! What programs of UDP know of a container: how many sockets it has, and which ports its kernel gives out.

use std::time::Duration;

use plumbline_core::id::CgroupId;
use plumbline_core::observation::{Fact, Observation, Role};
use plumbline_core::snapshot::BindScope;
use plumbline_ebpf::udp::SOCKETS_PER_OWNER;
use plumbline_tests::foreign::{self, UDP4_RECVMSG, links_of};
use plumbline_tests::pods::Container;
use plumbline_tests::wait::poll;

use super::super::observer::{Observer, sandbox};
use super::{NEVER, SIGHT, Talker, expect_peers, expect_servers, servers};

/// What another tool does to the programs must not turn into a quota that is used up: sockets that were counted close later.
#[test]
fn sockets_that_close_after_a_new_attachment_leave_the_quota_right() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::walking(&sandbox, Duration::from_secs(1)) else {
        return;
    };
    let (_, container) = sandbox.solo("server").unwrap();
    observer.attached(&container);
    let mut here = Talker::new(&container);
    let ports: Vec<u16> = (5_350..5_370).collect();
    for port in &ports {
        here.tell(&format!("bind {port} 0.0.0.0:{port}"));
    }
    let all: Vec<_> = ports
        .iter()
        .map(|port| (*port, 1, BindScope::Any))
        .collect();
    expect_servers(&observer, &container, "before", &all);
    let links = || links_of(std::process::id(), container.cgroup_id(), UDP4_RECVMSG);
    let [link] = links()[..] else {
        panic!("one link: {:?}", links());
    };
    foreign::detach_link(link).unwrap();
    let again = poll(SIGHT, || {
        (links().len() == 1 && links() != [link]).then_some(())
    });
    assert!(again.is_some(), "attached again: {:?}", links());
    for port in &ports {
        here.tell(&format!("close {port}"));
    }
    here.tell("bind new 0.0.0.0:5370");
    let found = poll(SIGHT, || {
        let now = servers(&observer, &container);
        now.contains(&(5_370, 1, BindScope::Any)).then_some(())
    });
    assert!(found.is_some(), "{:?}", servers(&observer, &container));
    let budget = ("ebpf.udp_sockets".to_owned(), "budget".to_owned());
    assert_eq!(observer.dropped().get(&budget), None);
}

/// Of one container so many sockets with chosen ports are remembered; further ones are counted, and harm nobody.
#[test]
fn sockets_beyond_a_containers_share_are_counted() {
    let Some(sandbox) = sandbox() else { return };
    let Some(observer) = Observer::scanning(&sandbox, NEVER) else {
        return;
    };
    let (_, greedy) = sandbox.solo("greedy").unwrap();
    let (_, other) = sandbox.solo("other").unwrap();
    observer.attached(&greedy);
    observer.attached(&other);
    // Of two processes, which may have a thousand descriptors each.
    let mut talkers = [Talker::new(&greedy), Talker::new(&greedy)];
    let each = 600_u16;
    for (talker, first) in talkers.iter_mut().zip([20_000, 21_000]) {
        for port in first..first + each {
            talker.tell(&format!("bind {port} 127.0.0.1:{port}"));
        }
    }
    let beyond = 2 * u64::from(each) - SOCKETS_PER_OWNER;
    let budget = || {
        let key = ("ebpf.udp_sockets".to_owned(), "budget".to_owned());
        observer.dropped().get(&key).copied().unwrap_or(0)
    };
    let refused = |container: &Container| {
        let view = observer.seen().container(container).unwrap();
        view.refused.map_or(0, |refused| refused.udp_sockets)
    };
    let told = poll(SIGHT, || {
        (budget() == beyond && refused(&greedy) == beyond).then_some(())
    });
    assert!(told.is_some(), "{} {}", budget(), refused(&greedy));
    let mut calm = Talker::new(&other);
    calm.tell("bind calm 0.0.0.0:5380");
    expect_servers(&observer, &other, "beside", &[(5_380, 1, BindScope::Any)]);
    for (talker, first) in talkers.iter_mut().zip([20_000, 21_000]) {
        for port in first..first + each {
            talker.tell(&format!("close {port}"));
        }
    }
    // The share is free again: nearly all of it is taken, and nothing more is refused.
    for (talker, ports) in talkers.iter_mut().zip([20_000..20_600, 21_000..21_400]) {
        for port in ports {
            talker.tell(&format!("bind {port} 127.0.0.1:{port}"));
        }
    }
    let [talker, _] = &mut talkers;
    talker.tell("bind last 0.0.0.0:5381");
    let found = poll(SIGHT, || {
        let now = servers(&observer, &greedy);
        now.contains(&(5_381, 1, BindScope::Any)).then_some(())
    });
    assert!(found.is_some(), "{:?}", servers(&observer, &greedy));
    assert_eq!(
        (budget(), refused(&greedy), refused(&other)),
        (beyond, beyond, 0)
    );
}

/// A pod may choose which ports its kernel gives out (`net.ipv4.ip_local_port_range` is a safe sysctl).
#[test]
fn the_dynamic_range_is_that_of_the_containers_own_namespace() {
    let Some(sandbox) = sandbox() else { return };
    let (pod, shifted) = sandbox.solo("shifted").unwrap();
    let (beside, other) = sandbox.solo("other").unwrap();
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    let wrote = pod
        .netns()
        .run(move || std::fs::write(range, "20000 29999"));
    wrote.unwrap().unwrap();
    let (mut here, mut there) = (Talker::new(&shifted), Talker::new(&other));
    let Some(observer) = Observer::start(&sandbox) else {
        return;
    };
    observer.attached(&shifted);
    observer.attached(&other);
    let id = CgroupId(shifted.cgroup_id());
    let ports = observer.expect("the container's own range", |seen| {
        let ports = seen.state.other_dynamic_ports();
        (ports.get(&id) == Some(&(20_000, 29_999))).then(|| ports.clone())
    });
    let elsewhere = CgroupId(other.cgroup_id());
    assert!(!ports.contains_key(&elsewhere), "{ports:?}");
    // As the loop does.
    observer.kernel.set_dynamic_ports(ports);
    let ticks = || {
        let seen = observer.seen();
        let windows = |seen: &&Observation| matches!(seen.fact, Fact::CpuWindows { .. });
        seen.facts.iter().filter(windows).count()
    };
    let before = ticks();
    poll(SIGHT, || (ticks() >= before + 2).then_some(())).expect("the source ticks");
    there.tell("bind server 0.0.0.0:5340");
    let own = here.tell("bind zero 0.0.0.0:0");
    assert!(own.contains(":2"), "the kernel chose {own}");
    here.tell(&format!("send zero {}:5340 8 1", beside.ipv4()));
    there.tell("echo server 1");
    here.tell("take zero 1");
    here.tell("bind low 0.0.0.0:25340");
    here.tell("bind high 0.0.0.0:45340");
    let to = (Role::Client, Some(beside.ipv4()), 5_340);
    expect_peers(&observer, &shifted, &[(to, 1)]);
    expect_servers(
        &observer,
        &shifted,
        "outside its own range",
        &[(45_340, 1, BindScope::Any)],
    );
}
