//! When which probe runs, and what its results add up to.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::grpc;
use crate::{
    apply::{EventPod, Events},
    handlers::{
        exec::{self, Children, NoOutcome},
        http,
    },
    model::{Check, Condemned, ContainerName, EventType, PodUid, ProbeKind, ProbeTarget},
    observe::{Clock, PodState},
    records::Records,
    runtime::Runtime,
};

type Key = (PodUid, ContainerName, ProbeKind);

/// All probes of the node. Cheap to clone.
#[derive(Clone)]
pub struct Prober {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Arc<dyn Runtime>,
    records: Arc<Records>,
    events: Events,
    clock: Clock,
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Key, Entry>,
    /// May hold times of entries that were replaced since: `serial` tells.
    queue: BinaryHeap<Reverse<(Instant, u64, Key)>>,
    serial: u64,
}

/// What one run of a probe said.
enum Outcome {
    Good,
    Bad(String),
    /// Good, with something to tell.
    Warning(String),
    /// Neither: it could not be asked. As upstream, that changes nothing.
    Unknown(String),
}

struct Entry {
    target: ProbeTarget,
    pod: EventPod,
    state: Arc<PodState>,
    serial: u64,
    /// Good and bad results in a row.
    good: u32,
    bad: u32,
}

impl Table {
    fn schedule(&mut self, key: Key, at: Instant) {
        if let Some(entry) = self.entries.get(&key) {
            self.queue.push(Reverse((at, entry.serial, key)));
        }
    }

    /// The first that is due, or when the next one is.
    fn next(&mut self, now: Instant) -> Result<(Key, ProbeTarget), Option<Instant>> {
        while let Some(Reverse((at, serial, key))) = self.queue.peek() {
            let live = self.entries.get(key).filter(|entry| entry.serial == *serial);
            match live {
                Some(_) if *at > now => return Err(Some(*at)),
                Some(entry) => {
                    let due = (key.clone(), entry.target.clone());
                    self.queue.pop();
                    return Ok(due);
                }
                None => {
                    self.queue.pop();
                }
            }
        }
        Err(None)
    }
}

impl Prober {
    /// Probes nothing yet.
    pub fn new(runtime: Arc<dyn Runtime>, records: Arc<Records>, events: Events, clock: Clock) -> Self {
        let (table, changed) = (Mutex::default(), Notify::new());
        Self { shared: Arc::new(Shared { runtime, records, events, clock, table, changed }) }
    }

    /// What to probe in this pod from now on; what is not among it is probed no more.
    pub fn set(&self, pod: &EventPod, state: &Arc<PodState>, targets: Vec<ProbeTarget>) {
        let mut table = self.table();
        let wanted = |key: &Key| {
            key.0 != pod.uid || targets.iter().any(|t| t.kind == key.2 && t.target.container == key.1)
        };
        table.entries.retain(|key, _| wanted(key));
        let mut changed = false;
        for target in targets {
            let key = (target.pod.clone(), target.target.container.clone(), target.kind);
            if table.entries.get(&key).is_some_and(|entry| same(&entry.target, &target)) {
                continue;
            }
            let first = self.first(&target);
            table.serial += 1;
            let entry = Entry {
                pod: pod.clone(),
                state: Arc::clone(state),
                serial: table.serial,
                good: 0,
                bad: 0,
                target,
            };
            table.entries.insert(key.clone(), entry);
            table.schedule(key, first);
            changed = true;
        }
        drop(table);
        if changed {
            self.shared.changed.notify_one();
        }
    }

    /// Probes nothing of this pod any more.
    pub fn forget(&self, pod: &PodUid) {
        self.table().entries.retain(|key, _| key.0 != *pod);
    }

    /// After the initial delay. Of a container that has been running longer than that (the agent was restarted)
    /// the first probe comes at a random moment of its period, so that not all come at once.
    fn first(&self, target: &ProbeTarget) -> Instant {
        let due = target.started_ms + i64::from(target.timing.initial_delay_s) * 1000;
        let wait = due - (self.shared.clock)();
        let wait = match u64::try_from(wait) {
            Ok(wait) => wait,
            Err(_) if wait < -1000 && target.kind != ProbeKind::Startup => {
                rand::random_range(0..=u64::from(target.timing.period_s) * 1000)
            }
            Err(_) => 0,
        };
        Instant::now() + Duration::from_millis(wait)
    }

    /// Runs probes until cancelled.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let next = self.table().next(Instant::now());
            match next {
                Ok((key, target)) => {
                    tokio::spawn(self.clone().one(key, target));
                }
                Err(until) => {
                    let sleep = async {
                        match until {
                            Some(until) => tokio::time::sleep_until(until).await,
                            None => std::future::pending().await,
                        }
                    };
                    // All three are cancel-safe: a timer, a permit that is kept, a flag.
                    tokio::select! {
                        () = sleep => {}
                        () = self.shared.changed.notified() => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn one(self, key: Key, target: ProbeTarget) {
        let began = Instant::now();
        let outcome = self.check(&target).await;
        self.judge(&key, &target, outcome);
        // The period counts from start to start; a slow probe is not run twice at once.
        let next = (began + Duration::from_secs(target.timing.period_s.into())).max(Instant::now());
        let mut table = self.table();
        if table.entries.get(&key).is_some_and(|entry| same(&entry.target, &target)) {
            table.schedule(key, next);
        }
        drop(table);
        self.shared.changed.notify_one();
    }

    async fn check(&self, target: &ProbeTarget) -> Outcome {
        let limit = Duration::from_secs(target.timing.timeout_s.into());
        let result = match &target.check {
            Check::Impossible(why) => return Outcome::Unknown(why.clone()),
            Check::Exec { command } => {
                let runtime = &*self.shared.runtime;
                match exec::run(runtime, &target.target.id, command, Some(limit), Children::End).await {
                    Ok(outcome) if outcome.code == 0 => Ok(()),
                    Ok(outcome) => Err(outcome.output),
                    Err(NoOutcome::TimedOut(why)) => Err(why),
                    Err(NoOutcome::NotRun(why)) => return Outcome::Unknown(why),
                }
            }
            Check::Http(check) => match http::probe(check, limit).await {
                Ok(http::Good::Redirected(why)) => return Outcome::Warning(why),
                Ok(http::Good::Answered) => Ok(()),
                Err(why) => Err(why),
            },
            Check::Tcp { host, port } => {
                let connect = tokio::time::timeout(limit, http::connect(host, *port));
                connect
                    .await
                    .unwrap_or_else(|_| Err(format!("dial tcp {host}:{port}: i/o timeout")))
                    .map(|_| ())
            }
            Check::Grpc { host, port, service } => grpc::check(host, *port, service, limit).await,
        };
        result.map_or_else(Outcome::Bad, |()| Outcome::Good)
    }

    /// Counts a result and writes a verdict down when a threshold is reached.
    fn judge(&self, key: &Key, target: &ProbeTarget, outcome: Outcome) {
        let mut table = self.table();
        let Some(entry) = table.entries.get_mut(key).filter(|entry| same(&entry.target, target)) else {
            return;
        };
        let verdict = match &outcome {
            Outcome::Good | Outcome::Warning(_) => {
                (entry.good, entry.bad) = (entry.good + 1, 0);
                (entry.good >= target.timing.success_threshold).then_some(true)
            }
            Outcome::Bad(_) => {
                (entry.good, entry.bad) = (0, entry.bad + 1);
                (entry.bad >= target.timing.failure_threshold).then_some(false)
            }
            Outcome::Unknown(_) => None,
        };
        let (pod, state) = (entry.pod.clone(), Arc::clone(&entry.state));
        drop(table);
        let label = label(target.kind);
        let told = match outcome {
            Outcome::Good => None,
            Outcome::Warning(why) => Some(("ProbeWarning", format!("{label} probe warning: {why}"))),
            Outcome::Bad(why) => Some(("Unhealthy", format!("{label} probe failed: {why}"))),
            Outcome::Unknown(why) => {
                Some(("Unhealthy", format!("{label} probe errored and resulted in unknown state: {why}")))
            }
        };
        if let Some((reason, message)) = told {
            let container = &target.target.container;
            self.shared.events.container(&pod, container, EventType::Warning, reason, message);
        }
        if let Some(verdict) = verdict
            && self.write(target, verdict)
        {
            state.bell.notify_one();
        }
    }

    /// Whether the record became another one.
    fn write(&self, target: &ProbeTarget, verdict: bool) -> bool {
        let mut changed = false;
        self.shared.records.update(&target.pod, |record| {
            let record = record.of_mut(&target.target.container, target.target.attempt);
            let Some(record) = record else { return };
            let before = record.clone();
            match (target.kind, verdict) {
                (ProbeKind::Readiness, ready) => record.ready = ready,
                (ProbeKind::Startup, true) => record.started = true,
                (ProbeKind::Startup, false) => record.unhealthy = Some(Condemned::Startup),
                (ProbeKind::Liveness, false) => record.unhealthy = Some(Condemned::Liveness),
                (ProbeKind::Liveness, true) => {}
            }
            changed = *record != before;
        });
        changed
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Counters and times: valid whatever a panicking holder left.
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same probe of the same attempt.
fn same(a: &ProbeTarget, b: &ProbeTarget) -> bool {
    a.target == b.target && a.check == b.check && a.timing == b.timing
}

fn label(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Liveness => "Liveness",
        ProbeKind::Readiness => "Readiness",
    }
}
