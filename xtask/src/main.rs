//! `cargo xtask`: every contributor command. Kept light, since it is compiled before anything else.

mod bench;
mod build;
mod check;
mod dashboards;
mod debian;
mod demo;
mod http;
mod interrupt;
mod k8s;
mod play;
mod process;
mod receivers;
mod setup;
mod shell;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Every contributor command of Plumbline.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building the eBPF object needs; the other commands call it by themselves.
    ///
    /// Takes what is there. Otherwise installs a pinned nightly with rust-src by rustup, or Debian's rustc with its sources by
    /// apt, and builds bpf-linker into target/tools against the LLVM of that toolchain.
    #[command(
        after_help = "Examples:\n  cargo xtask setup\n  PLUMBLINE_EBPF_TOOLCHAIN=nightly cargo xtask setup   use this toolchain and no other"
    )]
    Setup,
    /// Build the agent with its eBPF object.
    #[command(
        after_help = "Examples:\n  cargo xtask build             target/debug/plumbline\n  cargo xtask build --release   target/release/plumbline"
    )]
    Build(build::Arguments),
    /// Show the whole line at work: real pods, the agent, real OTLP receivers on loopback.
    ///
    /// Builds, starts pods laid out as the kubelet does (below a cgroup of their own, never in an existing kubepods tree) with
    /// seeded deviations, runs the agent on them, and prints each finding and where it was received. Succeeds only if the
    /// seeded deviations and nothing else were found and received. The first run fetches the receivers; later ones need no
    /// network. Everything it started is gone afterwards, also after Ctrl-C.
    #[command(
        after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --json | jq '.[].rule_id'\n  cargo xtask demo --keep   look around until Ctrl-C"
    )]
    Demo(demo::Arguments),
    /// What processes in the demo's containers do.
    #[command(hide = true)]
    Play(play::Arguments),
    /// Measure what the agent costs: nanoseconds in the kernel, requests per second and CPU with and without it, memory, size.
    ///
    /// Real nginx and wrk in two pods, the release build of the agent, all arms interleaved in one run. A verdict is refused
    /// when the two arms without the agent differ by more than 1 %. Everything it started is gone afterwards, also after Ctrl-C.
    #[command(
        after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench --quick   to see that it works\n  cargo xtask bench --reps 20 --json > bench.json"
    )]
    Bench(bench::Arguments),
    /// One process of the benchmark.
    #[command(hide = true)]
    BenchLoad(bench::LoadArguments),
    /// Format, lints, licences and the workspace's own rules; changes nothing.
    #[command(
        after_help = "Examples:\n  cargo xtask check\n  cargo xtask check --online   also known vulnerabilities (fetches their database)"
    )]
    Check(check::Arguments),
    /// The dashboard and the alert rules: what `check` and `test` ask of them, and their queries against a live store.
    #[command(
        after_help = "Examples:\n  cargo xtask dashboards\n  cargo xtask dashboards --live http://127.0.0.1:8428   also run every query there"
    )]
    Dashboards(dashboards::Arguments),
    /// A real Kubernetes control plane on loopback: etcd, API server, controllers, scheduler.
    ///
    /// Debian's packages and sources of Kubernetes 1.20, without kubelets: nodes and the status of pods are made by hand. Built
    /// once into target/k8s (or K8S_CACHE), some 8 minutes; the tests of the API server's watch use the same.
    #[command(
        after_help = "Examples:\n  export KUBECONFIG=$(cargo xtask k8s up) && target/k8s/bin/kubectl get nodes\n  cargo xtask k8s down"
    )]
    K8s(k8s::Arguments),
    /// All tests, after `check`; those of the kernel side need root.
    ///
    /// The last line is always `N passed, N failed, N skipped`. Tests with real eBPF run as root, or through a sudo that asks no
    /// password; elsewhere they are counted as skipped and the reason is printed.
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --no-check\n  cargo xtask test --no-check ports   only tests whose name contains `ports`\n  cargo xtask test --no-check --full load   the load tests in full size"
    )]
    Test(test::Arguments),
    /// The tests with real eBPF under other kernels, each in an emulated machine that is thrown away.
    ///
    /// Boots Debian's kernels 5.10, 6.1, 6.12, 6.18 and 7.3, or those that are named, and runs in each what `test` runs here, in
    /// smaller sizes. Kernels come by apt into target/vm, with apt lists of their own; only qemu is installed. Keeps the verifier's
    /// logs and instruction counts of each kernel. Where there is no KVM the machines are emulated: some minutes for each kernel.
    #[command(
        after_help = "Examples:\n  cargo xtask vm\n  cargo xtask vm 5.10 7.3 --filter flows\n  cargo xtask vm 6.1 --filter verifier --verifier-logs /tmp/logs"
    )]
    Vm(vm::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Setup => setup::command(),
        Task::Build(arguments) => build::command(&arguments),
        Task::Demo(arguments) => demo::command(&arguments),
        Task::Play(arguments) => play::command(&arguments),
        Task::Bench(arguments) => bench::command(&arguments),
        Task::BenchLoad(arguments) => bench::load(&arguments),
        Task::Check(arguments) => check::command(&arguments),
        Task::Dashboards(arguments) => dashboards::command(&arguments),
        Task::K8s(arguments) => k8s::command(&arguments),
        Task::Test(arguments) => test::command(&arguments),
        Task::Vm(arguments) => vm::command(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::note(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
