//! `cargo xtask bench connect`: what a connect to a service costs, beside a direct one and beside the rule sets
//! that kube-proxy writes for nftables and iptables; and what it costs to program services.
//!
//! Every variant is a process of its own in a network namespace of its own, with its own server, so that no
//! variant pays for another's rules. They take turns within one run, round after round; a round's figure is
//! the median of its connects, and what is reported is the median over rounds of the ratio to direct in the
//! same round. Nothing but loopback is used.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run should say where")]

mod programming;
mod report;
mod rules;
mod worker;

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use self::{
    report::{Connect, Report},
    worker::{Variant, Worker},
};

/// Command line; cargo adds `--bench`.
#[derive(Parser)]
struct Arguments {
    /// Write the figures here as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Rounds.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Connects of each variant in a round.
    #[arg(long, default_value_t = 1000)]
    connects: usize,
    /// Numbers of services to compare at.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,10000")]
    services: Vec<u32>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// Run as the process of one variant.
    #[arg(long, hide = true)]
    worker: Option<Variant>,
    /// Its number of services.
    #[arg(long, hide = true, default_value_t = 0)]
    count: u32,
}

fn main() {
    let arguments = Arguments::parse();
    if let Some(variant) = arguments.worker {
        return worker::serve(variant, arguments.count);
    }
    let mut workers = vec![Worker::start(Variant::Direct, 0)];
    for variant in [Variant::Gantry, Variant::Nftables, Variant::Iptables] {
        for &count in &arguments.services {
            eprintln!("loading {variant:?} with {count} services");
            workers.push(Worker::start(variant, count));
        }
    }
    let mut rounds: Vec<Vec<Duration>> = Vec::new();
    for round in 0..arguments.rounds {
        eprint!("\rround {}/{} ", round + 1, arguments.rounds);
        rounds.push(workers.iter_mut().map(|worker| worker.round(arguments.connects)).collect());
    }
    eprintln!();
    let connect =
        workers.iter().enumerate().map(|(index, worker)| Connect::of(worker, &rounds, index)).collect();
    drop(workers);
    let report = Report { connect, programming: programming::measure() };
    println!("{report}");
    if let Some(path) = arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report).unwrap()).unwrap();
    }
}
