//! What it costs to program: all services from nothing, and one endpoint change at that size.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gantry_agent::{
    dataplane::{Dataplane as _, EbpfDataplane},
    model::ServiceTable,
};
use nix::sched::{CloneFlags, unshare};

use crate::{rules, worker::BenchNode};

const SERVICES: u32 = 10_000;
const CHANGES: u32 = 1000;

/// Times of the agent's own work, to the point where new connections see the change.
#[derive(serde::Serialize)]
pub(crate) struct Programming {
    pub(crate) services: u32,
    pub(crate) endpoints_each: usize,
    /// From an empty table that is in force.
    pub(crate) all_ms: f64,
    /// A new agent takes over what is there.
    pub(crate) takeover_ms: f64,
    pub(crate) change_p50_us: f64,
    pub(crate) change_p99_us: f64,
}

/// In a namespace and cgroup of this process.
pub(crate) fn measure() -> Programming {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let node = BenchNode::new();
    let name = "node".into();
    let mut table = rules::service_table(SERVICES);
    let all = median(5, || {
        let fresh = EbpfDataplane::open(node.config.clone()).unwrap();
        fresh.publish(&ServiceTable::new(), &name, &[]).unwrap();
        let started = Instant::now();
        fresh.publish(&table, &name, &[]).unwrap();
        started.elapsed()
    });
    let takeover = median(5, || {
        let started = Instant::now();
        let next = EbpfDataplane::open(node.config.clone()).unwrap();
        let done = next.publish(&table, &name, &[]).unwrap();
        let elapsed = started.elapsed();
        assert_eq!(done.changed, 0);
        elapsed
    });
    let dataplane = EbpfDataplane::open(node.config.clone()).unwrap();
    dataplane.publish(&table, &name, &[]).unwrap();
    let mut changes: Vec<Duration> = (0..CHANGES)
        .map(|turn| {
            let number = turn * 7919 % SERVICES;
            let lasts: &[u8] = if turn % 2 == 0 { &[1, 2, 3] } else { &[1, 2, 3, 4] };
            table.insert(rules::id(number), Arc::new(rules::spec(number, lasts)));
            let started = Instant::now();
            let done = dataplane.publish(&table, &name, &[]).unwrap();
            let elapsed = started.elapsed();
            assert!(done.changed <= 1);
            elapsed
        })
        .collect();
    changes.sort_unstable();
    let at = |share: usize| changes[changes.len() * share / 100].as_secs_f64() * 1e6;
    Programming {
        services: SERVICES,
        endpoints_each: 4,
        all_ms: all.as_secs_f64() * 1e3,
        takeover_ms: takeover.as_secs_f64() * 1e3,
        change_p50_us: at(50),
        change_p99_us: at(99),
    }
}

fn median(times: usize, mut measure: impl FnMut() -> Duration) -> Duration {
    let mut measured: Vec<Duration> = (0..times).map(|_| measure()).collect();
    measured.sort_unstable();
    measured[times / 2]
}
