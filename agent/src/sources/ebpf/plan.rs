//! Which probes to attach: a pure function of the facts. Each probe that cannot be attached says what is missing and what
//! still works without it.

use plumbline_core::observation::{Health, ProbeStatus};

use super::UdpMode;
use super::support::{Answer, CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, Capability, Facts, Memlock};

/// Name of the probe for listeners and flows.
pub const TCP: &str = "tcp";
/// Name of the probe for UDP: peers and servers.
pub const UDP: &str = "udp";
/// Name of the probe for CPU time in windows.
pub const CPU_WINDOWS: &str = "cpu_windows";
/// Name of the probe for cgroups that come and go.
pub const CGROUPS: &str = "cgroups";
/// Name of the probe that tries the others out.
pub const CANARY: &str = "canary";

/// What the operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Listeners and flows.
    pub tcp: bool,
    /// UDP.
    pub udp: UdpMode,
    /// CPU time in windows.
    pub cpu_windows: bool,
}

/// What becomes of each probe, before anything is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Listeners and flows.
    pub tcp: Verdict,
    /// UDP.
    pub udp: Verdict,
    /// CPU time in windows.
    pub cpu_windows: Verdict,
    /// Events of cgroups. Without them the tree is walked more often.
    pub cgroups: Verdict,
}

/// Attach, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Attach it.
    Attach,
    /// Do not.
    Leave(Health, String),
}

impl Verdict {
    /// How the probe is, if attaching goes as planned.
    #[must_use]
    pub fn status(&self, probe: &str) -> ProbeStatus {
        let (health, reason) = match self {
            Self::Attach => (Health::Ok, None),
            Self::Leave(health, reason) => (*health, Some(reason.clone())),
        };
        ProbeStatus {
            probe: probe.to_owned(),
            health,
            reason,
        }
    }
}

impl Plan {
    /// Whether anything of the object is needed.
    #[must_use]
    pub fn needs_object(&self) -> bool {
        [&self.tcp, &self.udp, &self.cpu_windows, &self.cgroups].contains(&&Verdict::Attach)
    }
}

/// What still works without the probe.
const WITHOUT_TCP: &str = "listeners are still found by scans; flows are not measured";
/// What still works without the probe.
const WITHOUT_UDP: &str =
    "UDP servers outside the range of dynamic ports are still found by scans; peers are not seen";
/// What still works without the probe.
const WITHOUT_CPU: &str = "cumulative CPU figures still come from cpu.stat; bursts are not seen";
/// What still works without the probe.
const WITHOUT_CGROUPS: &str = "new containers are found by walking the tree, some seconds late";

/// Decides.
#[must_use]
pub fn plan(facts: &Facts, wanted: Wanted) -> Plan {
    let tcp = Need {
        capabilities: &[CAP_BPF, CAP_NET_ADMIN],
        kernel: &[
            ("sock_ops programs (CONFIG_CGROUP_BPF)", &facts.sock_ops),
            ("ring buffers (Linux 5.8)", &facts.ring_buffer),
            ("cgroup storage (CONFIG_CGROUP_BPF)", &facts.cgroup_storage),
        ],
        without: WITHOUT_TCP,
    };
    let skb = if wanted.udp == UdpMode::Flows {
        facts.skb.clone()
    } else {
        Answer::Yes
    };
    let udp = Need {
        capabilities: &[CAP_BPF, CAP_NET_ADMIN],
        kernel: &[
            (
                "cgroup/connect programs (CONFIG_CGROUP_BPF)",
                &facts.sock_addr,
            ),
            ("cgroup/post_bind programs (CONFIG_CGROUP_BPF)", &facts.sock),
            ("cgroup_skb programs (CONFIG_CGROUP_BPF)", &skb),
            ("ring buffers (Linux 5.8)", &facts.ring_buffer),
            ("cgroup storage (CONFIG_CGROUP_BPF)", &facts.cgroup_storage),
        ],
        without: WITHOUT_UDP,
    };
    let perf = if facts.perf {
        facts.perf_event.clone()
    } else {
        Answer::No
    };
    let cpu = Need {
        capabilities: &[CAP_BPF, CAP_PERFMON],
        kernel: &[
            ("raw tracepoints (CONFIG_BPF_EVENTS)", &facts.raw_tracepoint),
            ("perf events (CONFIG_PERF_EVENTS)", &perf),
        ],
        without: WITHOUT_CPU,
    };
    let cgroups = Need {
        capabilities: &[CAP_BPF, CAP_PERFMON],
        kernel: &[
            ("raw tracepoints (CONFIG_BPF_EVENTS)", &facts.raw_tracepoint),
            ("ring buffers (Linux 5.8)", &facts.ring_buffer),
        ],
        without: WITHOUT_CGROUPS,
    };
    let verdict = |wanted: bool, need: &Need<'_>| {
        if wanted {
            need.judge(facts)
        } else {
            Verdict::Leave(Health::Off, "turned off by a setting".to_owned())
        }
    };
    Plan {
        tcp: verdict(wanted.tcp, &tcp),
        udp: verdict(wanted.udp != UdpMode::Off, &udp),
        cpu_windows: verdict(wanted.cpu_windows, &cpu),
        cgroups: verdict(true, &cgroups),
    }
}

/// What a probe needs.
struct Need<'a> {
    capabilities: &'a [Capability],
    kernel: &'a [(&'a str, &'a Answer)],
    without: &'a str,
}

impl Need<'_> {
    fn judge(&self, facts: &Facts) -> Verdict {
        let missing: Vec<&str> = self
            .capabilities
            .iter()
            .filter(|c| !facts.has(**c))
            .map(|capability| capability.name)
            .collect();
        let problem = if !facts.built {
            Some("built without eBPF".to_owned())
        } else if !missing.is_empty() {
            Some(format!("missing {}", missing.join(" and ")))
        } else if facts.memlock == Memlock::Denied {
            Some("missing CAP_SYS_RESOURCE to lift RLIMIT_MEMLOCK, which kernels before 5.11 need for maps".to_owned())
        } else {
            self.kernel
                .iter()
                .find_map(|(feature, answer)| match answer {
                    Answer::Yes => None,
                    Answer::No => Some(format!("the kernel has no {feature}")),
                    Answer::Denied => Some(format!(
                        "the kernel denies {feature}: seccomp, a security module or lockdown"
                    )),
                    Answer::Failed(error) => {
                        Some(format!("cannot find out about {feature}: {error}"))
                    }
                })
        };
        match problem {
            None => Verdict::Attach,
            Some(problem) => {
                Verdict::Leave(Health::Unsupported, format!("{problem}; {}", self.without))
            }
        }
    }
}

/// Why a probe that was planned could not be attached; it measures nothing.
#[must_use]
pub fn broken(probe: &str, error: &str) -> ProbeStatus {
    left_out(probe, Health::Broken, error)
}

/// The same where it lacks a right that only attaching asked for.
#[must_use]
pub fn unsupported(probe: &str, what: &str) -> ProbeStatus {
    left_out(probe, Health::Unsupported, what)
}

fn left_out(probe: &str, health: Health, why: &str) -> ProbeStatus {
    let without = match probe {
        TCP => WITHOUT_TCP,
        UDP => WITHOUT_UDP,
        CPU_WINDOWS => WITHOUT_CPU,
        _ => WITHOUT_CGROUPS,
    };
    ProbeStatus {
        probe: probe.to_owned(),
        health,
        reason: Some(format!("{why}; {without}")),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::{CGROUPS, CPU_WINDOWS, TCP, UDP, UdpMode, Wanted, plan};
    use crate::sources::ebpf::support::{
        Answer, CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN, Facts, Memlock,
    };

    fn node() -> Facts {
        Facts {
            built: true,
            capabilities: 1 << CAP_BPF.bit | 1 << CAP_NET_ADMIN.bit | 1 << CAP_PERFMON.bit,
            sock_ops: Answer::Yes,
            sock_addr: Answer::Yes,
            sock: Answer::Yes,
            skb: Answer::Yes,
            raw_tracepoint: Answer::Yes,
            perf_event: Answer::Yes,
            perf: true,
            ring_buffer: Answer::Yes,
            cgroup_storage: Answer::Yes,
            memlock: Memlock::NotLimited,
        }
    }

    fn check(facts: &Facts, wanted: Wanted, expected: &Expect) {
        let plan = plan(facts, wanted);
        let lines: Vec<String> = [
            (TCP, &plan.tcp),
            (UDP, &plan.udp),
            (CPU_WINDOWS, &plan.cpu_windows),
            (CGROUPS, &plan.cgroups),
        ]
        .map(|(probe, verdict)| {
            let status = verdict.status(probe);
            format!(
                "{probe}: {:?} {}",
                status.health,
                status.reason.unwrap_or_default()
            )
            .trim_end()
            .to_owned()
        })
        .to_vec();
        expected.assert_eq(&lines.join("\n"));
    }

    const ALL: Wanted = Wanted {
        tcp: true,
        udp: UdpMode::Flows,
        cpu_windows: true,
    };

    #[test]
    fn a_node_with_the_rights_of_the_manifest() {
        check(
            &node(),
            ALL,
            &expect![[r#"
            tcp: Ok
            udp: Ok
            cpu_windows: Ok
            cgroups: Ok"#]],
        );
        let admin = Facts {
            capabilities: 1 << CAP_SYS_ADMIN.bit,
            ..node()
        };
        check(
            &admin,
            ALL,
            &expect![[r#"
            tcp: Ok
            udp: Ok
            cpu_windows: Ok
            cgroups: Ok"#]],
        );
    }

    #[test]
    fn missing_rights_are_named() {
        let nothing = Facts {
            capabilities: 0,
            sock_ops: Answer::Denied,
            ..node()
        };
        check(
            &nothing,
            ALL,
            &expect![[r#"
            tcp: Unsupported missing CAP_BPF and CAP_NET_ADMIN; listeners are still found by scans; flows are not measured
            udp: Unsupported missing CAP_BPF and CAP_NET_ADMIN; UDP servers outside the range of dynamic ports are still found by scans; peers are not seen
            cpu_windows: Unsupported missing CAP_BPF and CAP_PERFMON; cumulative CPU figures still come from cpu.stat; bursts are not seen
            cgroups: Unsupported missing CAP_BPF and CAP_PERFMON; new containers are found by walking the tree, some seconds late"#]],
        );
        let no_perfmon = Facts {
            capabilities: 1 << CAP_BPF.bit | 1 << CAP_NET_ADMIN.bit,
            ..node()
        };
        check(
            &no_perfmon,
            ALL,
            &expect![[r#"
            tcp: Ok
            udp: Ok
            cpu_windows: Unsupported missing CAP_PERFMON; cumulative CPU figures still come from cpu.stat; bursts are not seen
            cgroups: Unsupported missing CAP_PERFMON; new containers are found by walking the tree, some seconds late"#]],
        );
    }

    #[test]
    fn one_missing_feature_takes_one_probe() {
        let no_perf = Facts {
            perf: false,
            ..node()
        };
        check(
            &no_perf,
            ALL,
            &expect![[r#"
            tcp: Ok
            udp: Ok
            cpu_windows: Unsupported the kernel has no perf events (CONFIG_PERF_EVENTS); cumulative CPU figures still come from cpu.stat; bursts are not seen
            cgroups: Ok"#]],
        );
        let lockdown = Facts {
            raw_tracepoint: Answer::Denied,
            ..node()
        };
        check(
            &lockdown,
            ALL,
            &expect![[r#"
            tcp: Ok
            udp: Ok
            cpu_windows: Unsupported the kernel denies raw tracepoints (CONFIG_BPF_EVENTS): seccomp, a security module or lockdown; cumulative CPU figures still come from cpu.stat; bursts are not seen
            cgroups: Unsupported the kernel denies raw tracepoints (CONFIG_BPF_EVENTS): seccomp, a security module or lockdown; new containers are found by walking the tree, some seconds late"#]],
        );
        let old = Facts {
            memlock: Memlock::Denied,
            ..node()
        };
        check(
            &old,
            Wanted {
                tcp: true,
                udp: UdpMode::Off,
                cpu_windows: false,
            },
            &expect![[r#"
            tcp: Unsupported missing CAP_SYS_RESOURCE to lift RLIMIT_MEMLOCK, which kernels before 5.11 need for maps; listeners are still found by scans; flows are not measured
            udp: Off turned off by a setting
            cpu_windows: Off turned off by a setting
            cgroups: Unsupported missing CAP_SYS_RESOURCE to lift RLIMIT_MEMLOCK, which kernels before 5.11 need for maps; new containers are found by walking the tree, some seconds late"#]],
        );
    }

    #[test]
    fn a_build_without_ebpf_says_so() {
        check(
            &Facts {
                built: false,
                ..node()
            },
            ALL,
            &expect![[r#"
            tcp: Unsupported built without eBPF; listeners are still found by scans; flows are not measured
            udp: Unsupported built without eBPF; UDP servers outside the range of dynamic ports are still found by scans; peers are not seen
            cpu_windows: Unsupported built without eBPF; cumulative CPU figures still come from cpu.stat; bursts are not seen
            cgroups: Unsupported built without eBPF; new containers are found by walking the tree, some seconds late"#]],
        );
    }
}
