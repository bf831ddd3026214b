//! The pods that are played are what the kubelet would make: real cgroups, namespaces, processes, and a matching dump.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use plumbline_tests::netns::Netns;
use plumbline_tests::pods::Sandbox;
use plumbline_tests::pods::spec::{ContainerSpec, Driver, PodSpec, PortSpec, Qos, Runtime};
use plumbline_tests::skip::without_root;
use plumbline_tests::wait::{PATIENCE, poll};

fn output(child: std::process::Child) -> String {
    let output = child
        .wait_with_output()
        .expect("the child was started by this test");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("these programs print text")
}

#[test]
fn processes_begin_inside_their_container() {
    if without_root() {
        return;
    }
    let sandbox = Sandbox::new("plumbline-test-sandbox").unwrap();
    let root = sandbox.root().to_path_buf();
    let spec = PodSpec {
        name: "a".to_owned(),
        ..PodSpec::default()
    };
    let pod = sandbox.pod(spec).unwrap();
    let container = pod
        .container(ContainerSpec {
            name: "c".to_owned(),
            ..ContainerSpec::default()
        })
        .unwrap();
    let nested = container.child_cgroup("nested").unwrap();
    let show = "cat /proc/self/cgroup; readlink /proc/self/ns/net; ip -brief addr show dev eth0";
    let here = fs::read_link("/proc/self/ns/net").unwrap();

    let inside = output(
        container
            .spawn(Command::new("sh").args(["-c", show]).stdout(Stdio::piped()))
            .unwrap(),
    );
    let expected = format!("cri-containerd-{}.scope", container.id());
    assert!(
        inside
            .lines()
            .any(|line| line.starts_with("0::") && line.ends_with(&expected)),
        "{inside}"
    );
    assert!(!inside.contains(here.to_str().unwrap()), "{inside}");
    assert!(
        inside.contains("10.244.0.2/24") && inside.contains("fd00:10:244::2/64"),
        "{inside}"
    );
    let deeper = output(
        nested
            .spawn(
                Command::new("cat")
                    .arg("/proc/self/cgroup")
                    .stdout(Stdio::piped()),
            )
            .unwrap(),
    );
    assert!(deeper.contains(&format!("{expected}/nested")), "{deeper}");

    sandbox.close().unwrap();
    assert!(!root.exists());
}

#[test]
fn pods_reach_each_other_and_host_network_is_the_hosts() {
    if without_root() {
        return;
    }
    let sandbox = Sandbox::new("plumbline-test-sandbox").unwrap();
    let pod = |name: &str, host_network| {
        sandbox
            .pod(PodSpec {
                name: name.to_owned(),
                host_network,
                ..PodSpec::default()
            })
            .unwrap()
    };
    let (server, client, host) = (
        pod("server", false),
        pod("client", false),
        pod("host", true),
    );
    for (address, family) in [
        (server.ipv4(), "0.0.0.0:7000"),
        (server.ipv6(), "[::]:7001"),
    ] {
        let listener = server
            .netns()
            .run(|| std::net::TcpListener::bind(family).unwrap())
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let sender = client
            .netns()
            .run(|| std::net::TcpStream::connect((address, port)).unwrap())
            .unwrap();
        let (mut accepted, peer) = listener.accept().unwrap();
        drop(sender);
        assert_eq!(accepted.read(&mut [0; 1]).unwrap(), 0);
        assert!(
            [client.ipv4(), client.ipv6()].contains(&peer.ip()),
            "{peer}"
        );
    }
    let container = host
        .container(ContainerSpec {
            name: "c".to_owned(),
            ..ContainerSpec::default()
        })
        .unwrap();
    let mut inode = Command::new("stat");
    inode
        .args(["-Lc", "%i", "/proc/self/ns/net"])
        .stdout(Stdio::piped());
    let inside = output(container.spawn(&mut inode).unwrap());
    assert_eq!(
        inside.trim(),
        Netns::host().unwrap().inode().unwrap().to_string()
    );
}

#[test]
fn the_dump_names_what_runs() {
    if without_root() {
        return;
    }
    let sandbox = Sandbox::new("plumbline-test-sandbox").unwrap();
    let pod = sandbox
        .pod(PodSpec {
            namespace: "shop".to_owned(),
            name: "web-1".to_owned(),
            owner: Some(("Deployment".to_owned(), "web".to_owned())),
            qos: Qos::Guaranteed,
            driver: Driver::Cgroupfs,
            runtime: Runtime::Crio,
            host_network: true,
            static_pod: true,
            ..PodSpec::default()
        })
        .unwrap();
    let container = pod
        .container(ContainerSpec {
            name: "nginx".to_owned(),
            ports: vec![PortSpec::named("http", 8080)],
            cpu_limit: Some("500m".to_owned()),
            ..ContainerSpec::default()
        })
        .unwrap();
    let dump = sandbox.dump();
    let item = &dump["items"][0];
    assert_eq!(item["metadata"]["uid"], pod.uid());
    assert_eq!(item["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
    assert_eq!(item["spec"]["containers"][0]["ports"][0]["hostPort"], 8080);
    assert_eq!(
        item["spec"]["containers"][0]["resources"]["requests"]["cpu"],
        "500m"
    );
    let status = &item["status"]["containerStatuses"][0];
    assert_eq!(status["containerID"], format!("cri-o://{}", container.id()));
    assert!(
        status["state"]["running"]["startedAt"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    let hash = item["metadata"]["annotations"]["kubernetes.io/config.hash"]
        .as_str()
        .unwrap();
    let expected = sandbox
        .root()
        .join(format!("kubepods/pod{hash}/crio-{}", container.id()));
    assert_eq!(container.cgroup_path(), expected);
}

#[test]
fn leftovers_of_the_dead_are_swept() {
    if without_root() {
        return;
    }
    let mount = plumbline_tests::cgroup::mount().unwrap();
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let left = mount.join(format!("plumbline-test-sweep-{}/kubepods/podx", ended.id()));
    plumbline_tests::cgroup::create(&left).unwrap();
    let mut straggler = Command::new("sleep")
        .arg("infinity")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    fs::write(left.join("cgroup.procs"), straggler.id().to_string()).unwrap();
    let alive = Sandbox::new("plumbline-test-sweep").unwrap();

    assert_eq!(Sandbox::sweep("plumbline-test-sweep").unwrap(), 1);
    assert!(!left.exists());
    assert!(alive.root().exists());
    assert!(
        poll(PATIENCE, || straggler.try_wait().unwrap()).is_some(),
        "the straggler is killed"
    );
}
