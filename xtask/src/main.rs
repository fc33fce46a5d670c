//! The project's commands. `cargo xtask up` and `cargo xtask test` are the two that everybody needs; the others
//! are their parts. Nothing here is shipped.

mod bench;
mod cluster;
mod compile;
mod conformance;
mod ebpf;
mod images;
mod imports;
mod layout;
mod oracle;
mod packages;
mod programs;
mod sh;
mod structure;
mod test;
mod ui;
mod up;
mod upgrade;
mod upstream;
mod vm;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use console::style;
use layout::Build;

/// Gantry's project commands.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster on this machine with the example application, and leave it running.
    ///
    /// Installs what is missing, builds everything, makes the demonstration images, starts a registry, the
    /// scheduler and the nodes (each in a network namespace of its own), applies config/examples/shop with the
    /// real kubectl, waits until it is ready and shows one answered request. Needs root.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
        nodes: u8,
        /// Which cluster: they can run side by side.
        #[arg(long, default_value = "up")]
        name: String,
        /// Start the cluster only; apply nothing.
        #[arg(long)]
        empty: bool,
        /// Build the daemons without optimisation: quicker to make, slower to run.
        #[arg(long)]
        debug: bool,
    },
    /// End the cluster of `up` and remove every trace of it.
    Down {
        /// Which cluster.
        #[arg(long, default_value = "up")]
        name: String,
    },
    /// Run every suite: lints, unit, privileged, end to end, virtual machine. This is what CI runs.
    Test {
        /// Run only these.
        #[arg(value_enum)]
        suites: Vec<test::Suite>,
    },
    /// Build the eBPF object into target/ebpf.
    Ebpf,
    /// Boot a fresh Debian host with systemd and cgroup v2, install Gantry and see its limits enforced. Needs root.
    Vm,
    /// Run upstream's own end-to-end suite against a cluster, and write the score to docs/conformance.md.
    ///
    /// Builds the suite from upstream's Go modules (about 20 minutes the first time; Go is needed for this command
    /// and for `oracle` alone), makes its images from Debian packages, starts a cluster of two nodes and runs the
    /// Conformance specs. Fails when a spec fails that docs/conformance/absent.toml names no reason for. Needs root.
    Conformance {
        /// Only specs whose name matches this regular expression.
        #[arg(long)]
        focus: Option<String>,
        /// Specs with these labels instead of `Conformance`, in Ginkgo's language: `sig-network && !Slow`.
        #[arg(long)]
        labels: Option<String>,
        /// Only the specs that must run alone.
        #[arg(long)]
        serial: bool,
    },
    /// Measure ours beside its peers.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Ask upstream's own kube-apiserver and ours the same, and write the scores into docs/conformance.md.
    ///
    /// Builds upstream's kube-apiserver and etcd from their Go modules: needs Go for that (no other suite does), Python 3
    /// with PyYAML, openssl and kubectl.
    Oracle {
        /// Only these kinds: `Pod,Service`.
        #[arg(long)]
        kinds: Option<String>,
        /// Only these scripts: `fields,merges,updates,reads`.
        #[arg(long)]
        scripts: Option<String>,
        /// Picks the cases.
        #[arg(long, default_value_t = 1)]
        seed: u32,
        /// The share of the cases that is tried.
        #[arg(long, default_value_t = 1.0)]
        every: f64,
        /// Record upstream's answers for `cargo test` to replay, instead of comparing.
        #[arg(long)]
        record: bool,
    },
    /// Replace the daemons of an earlier revision by today's under a running cluster, and see that nothing is touched.
    ///
    /// Builds that revision's daemons in a worktree below target/upgrade, starts a cluster of two nodes with them and with
    /// workloads of every kind, keeps asking services, and puts today's daemons in their place: the scheduler first, and
    /// in a second cluster the agents first. Needs root.
    Upgrade {
        /// From which revision.
        #[arg(long, default_value = "5110dc5")]
        from: String,
        /// Only in these orders.
        #[arg(long, value_enum)]
        order: Vec<upgrade::Order>,
    },
    /// Keep the processes of a plan file alive (started by `up`).
    #[command(hide = true)]
    Supervise {
        /// The plan.
        plan: PathBuf,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Connect to a service beside direct, nftables and iptables; programming time.
    Connect {
        /// Rounds in which the variants take turns.
        #[arg(long, default_value_t = 15)]
        rounds: u32,
    },
    /// One endpoint change: from its write to the API until a connect on the node sees it.
    Change {
        /// How many changes.
        #[arg(long, default_value_t = 500)]
        count: u32,
        /// Other services beside it.
        #[arg(long, default_value_t = 1000)]
        services: u32,
    },
    /// Requests to our API server and to upstream's with its etcd, interleaved (Go is needed to build upstream's).
    Api {
        /// Rounds of each request.
        #[arg(long, default_value_t = 300)]
        count: u32,
        /// Pods that are there while lists and memory are measured.
        #[arg(long, default_value_t = 12_000)]
        pods: u32,
    },
    /// Pods placed a second beside upstream's kube-scheduler with its API server, interleaved (Go is needed to build
    /// upstream's).
    Placement {
        /// How many nodes: a list is worked off in order.
        #[arg(long, default_value = "1000,5000")]
        nodes: String,
        /// Pods of each measurement.
        #[arg(long, default_value_t = 2000)]
        pods: u32,
        /// Rounds of each measurement.
        #[arg(long, default_value_t = 1)]
        rounds: u32,
    },
    /// Rollouts, scaling and deletions for a long time on two nodes, and the daemons' memory all the while.
    Churn {
        /// For how long.
        #[arg(long, default_value_t = 60)]
        minutes: u32,
        /// With how many pods.
        #[arg(long, default_value_t = 100)]
        pods: u32,
    },
    /// Pod start beside `ctr run`, and the daemons' footprint with those pods.
    Pods {
        /// How many.
        #[arg(long, default_value_t = 100)]
        count: u32,
        /// How many a second.
        #[arg(long, default_value_t = 5.0)]
        rate: f64,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up { nodes, name, empty, debug } => {
            let build = if debug { Build::Debug } else { Build::Release };
            if empty { up::start(&name, nodes, build).map(drop) } else { up::up(&name, nodes, build) }
        }
        Command::Down { name } => up::down(&name),
        Command::Test { suites } => test::run(&suites),
        Command::Vm => vm::run(),
        Command::Conformance { focus, labels, serial } => {
            conformance::run(&conformance::Selection { focus, labels, serial })
        }
        Command::Oracle { kinds, scripts, seed, every, record } => {
            oracle::run(&oracle::Options { kinds, scripts, seed, every, record })
        }
        Command::Ebpf => layout::root().and_then(|root| ebpf::build(&root)),
        Command::Bench { what: Bench::Connect { rounds } } => bench::connect(rounds),
        Command::Bench { what: Bench::Change { count, services } } => bench::change(count, services),
        Command::Bench { what: Bench::Api { count, pods } } => bench::api(count, pods),
        Command::Bench { what: Bench::Placement { nodes, pods, rounds } } => {
            bench::placement(&nodes, pods, rounds)
        }
        Command::Bench { what: Bench::Churn { minutes, pods } } => bench::churn(minutes, pods),
        Command::Bench { what: Bench::Pods { count, rate } } => bench::pods(count, rate),
        Command::Upgrade { from, order } => upgrade::run(&from, &order),
        Command::Supervise { plan } => cluster::supervisor::run(&plan),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error:#}", style("error:").red().bold().for_stderr());
            ExitCode::FAILURE
        }
    }
}
