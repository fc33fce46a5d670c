//! The worker of one pod: observe, plan, report, apply, and again until there is nothing to do; then it sleeps until
//! its bell rings or the time comes that the plan named.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};

use super::{DesiredState, RETRY, Tools};
use crate::{
    apply::{EventPod, Job},
    model::{Desired, DesiredPod, ObservedPod, PodReport, PodUid, chain},
    observe::PodState,
    plan::{self, Context, PodPlan, Standings, Step},
};

/// Steps that change nothing observable are not repeated at once: something is wrong with a port.
const STALL: Duration = Duration::from_secs(1);

/// What still keeps a pod from running is told again this often, at the next pass. Events live for an hour.
const REMIND: Duration = Duration::from_secs(300);

/// See the module.
pub(super) struct Worker {
    uid: PodUid,
    state: Arc<PodState>,
    tools: Tools,
    desired: DesiredState,
    stop: CancellationToken,
    /// As last desired: what is to go is still known by name.
    last: Option<Arc<DesiredPod>>,
    /// When it was first seen; until it runs.
    since: Option<Instant>,
    reported: Option<(Arc<k8s_openapi::api::core::v1::PodStatus>, bool)>,
    previous: Option<(ObservedPod, Vec<Step>)>,
    /// When problems were last told that were told before.
    told: Instant,
}

/// What comes after a pass.
enum Next {
    /// Look again at once: steps were taken.
    Again,
    /// Sleep until the bell or this time.
    Sleep(Option<Instant>),
    /// Nothing is left and nothing is wanted.
    Over,
}

impl Worker {
    pub(super) fn new(
        uid: PodUid,
        state: Arc<PodState>,
        tools: Tools,
        desired: DesiredState,
        stop: CancellationToken,
    ) -> Self {
        let told = Instant::now();
        let since = Some(told);
        Self { uid, state, tools, desired, stop, last: None, since, reported: None, previous: None, told }
    }

    pub(super) async fn run(mut self) {
        let span = info_span!("pod", uid = %self.uid);
        async {
            loop {
                match self.pass().await {
                    Next::Over => return,
                    Next::Again if self.stop.is_cancelled() => return,
                    Next::Again => {}
                    Next::Sleep(until) => {
                        let timer = async {
                            match until {
                                Some(until) => tokio::time::sleep_until(until).await,
                                None => std::future::pending().await,
                            }
                        };
                        // All cancel-safe: a permit that is kept, a timer, a flag. Steps are never cut short.
                        tokio::select! {
                            () = self.state.bell.notified() => {}
                            () = timer => {}
                            () = self.stop.cancelled() => return,
                        }
                    }
                }
            }
        }
        .instrument(span)
        .await;
    }

    async fn pass(&mut self) -> Next {
        let began = Instant::now();
        let desired = self.desired.borrow().clone();
        let Some(desired) = desired else { return Next::Sleep(None) };
        let wanted = desired.pods.get(&self.uid).cloned();
        if wanted.is_none() && desired.held.contains(&self.uid) {
            // Wanted in a way that nobody here understands: it is not this agent's to end.
            return Next::Sleep(None);
        }
        if wanted.is_some() {
            self.last.clone_from(&wanted);
        }
        let seen = match self.tools.observer.pod(&self.uid, &self.state, self.last.as_deref()).await {
            Ok(seen) => seen,
            Err(error) => {
                // Of this pod: whether the runtime answers at all is asked elsewhere.
                warn!(error = %chain(&error), "the pod cannot be observed");
                self.tools.metrics.unreadable();
                return Next::Sleep(Some(Instant::now() + RETRY));
            }
        };
        let (steps, wake_ms, over) = match &wanted {
            Some(pod) => self.wanted(&desired, pod, &seen),
            None => plan::abandoned(&seen),
        };
        if steps.is_empty() {
            self.tools.metrics.pass(began.elapsed().as_secs_f64(), 0);
            self.previous = None;
            if wanted.is_none() && over {
                self.tools.prober.forget(&self.uid);
                self.tools.records.remove(&self.uid);
                return Next::Over;
            }
            return Next::Sleep(wake_ms.map(|at| deadline(at, seen.now_ms)));
        }
        if self.stalled(&seen, &steps) {
            self.tools.metrics.stall();
            return Next::Sleep(Some(Instant::now() + STALL));
        }
        let count = steps.len();
        let job =
            Job { uid: self.uid.clone(), pod: self.last.clone(), desired, state: Arc::clone(&self.state) };
        self.tools.apply.run(&job, steps).await;
        self.tools.metrics.pass(began.elapsed().as_secs_f64(), count);
        Next::Again
    }

    /// Plans a pod that is desired (its deletion included) and reports it.
    fn wanted(
        &mut self,
        desired: &Desired,
        pod: &Arc<DesiredPod>,
        seen: &ObservedPod,
    ) -> (Vec<Step>, Option<i64>, bool) {
        let node = self.tools.node.borrow().clone();
        let remind = self.told.elapsed() >= REMIND;
        if remind {
            self.told = Instant::now();
        }
        let standings = if plan::is_new(&pod.pod, seen) { self.standings() } else { Standings::new() };
        let context = Context { desired, node: &node, standings: &standings, remind };
        let plan = plan::pod(&context, pod, seen);
        let PodPlan { steps, probes, status, notices, wake_ms, finished } = plan;
        let event_pod = EventPod::of(pod);
        for notice in notices {
            self.tools.events.notice(&event_pod, notice);
        }
        self.tools.prober.set(&event_pod, &self.state, probes);
        // One copy for the record, the report and the next comparison.
        let known = seen.record.status.as_ref().filter(|known| ***known == status);
        let status = known.cloned().unwrap_or_else(|| Arc::new(status));
        // Written down before it is told: what was told must not be forgotten.
        self.tools.records.update(&self.uid, |record| record.status = Some(Arc::clone(&status)));
        if status.phase.as_deref() == Some("Running")
            && let Some(since) = self.since.take()
            // One that an earlier agent had started says nothing about a start.
            && self.reported.is_some()
        {
            self.tools.metrics.started(since.elapsed().as_secs_f64());
        }
        let news = (status, finished);
        if self.reported.as_ref() != Some(&news) {
            self.tools.upstream.pod_status(PodReport {
                uid: self.uid.clone(),
                name: pod.name.clone(),
                status: news.0.clone(),
                finished,
            });
            self.reported = Some(news);
        }
        (steps, wake_ms, finished)
    }

    /// What is on record of all pods of the node.
    fn standings(&self) -> Standings {
        let mut standings = Standings::new();
        self.tools.records.each(|pod, record| {
            if let Some(status) = &record.status {
                let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
                standings.insert(pod.clone(), over);
            }
        });
        standings
    }

    /// The same steps for the same observation as in the pass before.
    fn stalled(&mut self, seen: &ObservedPod, steps: &[Step]) -> bool {
        let mut timeless = seen.clone();
        timeless.now_ms = 0;
        let now = (timeless, steps.to_vec());
        let same = self.previous.as_ref() == Some(&now);
        self.previous = if same { None } else { Some(now) };
        same
    }
}

/// A wall-clock time as a time to sleep until.
fn deadline(at_ms: i64, now_ms: i64) -> Instant {
    Instant::now() + Duration::from_millis(u64::try_from(at_ms - now_ms).unwrap_or(0))
}
