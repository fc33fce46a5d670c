//! Writing what was decided, beside the loop that decides: several bindings in one commit of the store, and the
//! condition and event of a pod that found no node.

use std::sync::Arc;

use k8s_openapi::{api::core::v1::PodCondition, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde_json::json;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{COMPONENT, Metrics, follow::Told, follow::is_pending, queue::Attempt};
use crate::{
    cache::{Client, Id, Pod, WriteError},
    events::{Note, Recorder},
    kinds::Subresource,
    model::Reason,
    objects::Binding,
};

/// Bindings in one commit: it bounds how long the first waits for the last.
const BATCH: usize = 128;
/// Commits under way: while one is written, the next is prepared.
const COMMITS: usize = 2;

/// A decision that is to be written.
pub(super) struct Decided {
    pub(super) attempt: Attempt,
    pub(super) pod: Arc<Pod>,
    pub(super) uid: Arc<str>,
    pub(super) node: Arc<str>,
    /// When the decision began.
    pub(super) since: Instant,
}

/// Writes what the loop decided.
#[derive(Clone)]
pub(super) struct Binder {
    pub(super) client: Client,
    pub(super) recorder: Recorder,
    pub(super) metrics: Metrics,
}

impl Binder {
    /// Binds what comes, as many at once as there are; tells `outcomes` of those that were refused.
    ///
    /// Cancel-safe: what was taken and not written yet is decided again at the next start.
    pub(super) async fn run(
        self,
        mut decided: mpsc::UnboundedReceiver<Decided>,
        outcomes: mpsc::UnboundedSender<Told>,
        tracker: TaskTracker,
    ) {
        let commits = Arc::new(Semaphore::new(COMMITS));
        loop {
            // Never closed.
            let Ok(permit) = commits.clone().acquire_owned().await else { return };
            let mut batch = Vec::with_capacity(BATCH);
            if decided.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            let (binder, outcomes) = (self.clone(), outcomes.clone());
            tracker.spawn(async move {
                binder.bind(batch, &outcomes).await;
                drop(permit);
            });
        }
    }

    async fn bind(&self, batch: Vec<Decided>, outcomes: &mpsc::UnboundedSender<Told>) {
        let binding = |decided: &Decided| Binding {
            namespace: decided.attempt.id.namespace.clone(),
            name: decided.attempt.id.name.clone(),
            uid: decided.uid.clone(),
            node: decided.node.clone(),
        };
        let bindings: Vec<Binding> = batch.iter().map(binding).collect();
        let bound = self.client.objects().bind_all(&bindings, self.client.options()).await;
        for (decided, bound) in batch.into_iter().zip(bound) {
            let Decided { attempt, pod, uid, node, since } = decided;
            let seconds = since.elapsed().as_secs_f64();
            let Err(error) = bound else {
                self.metrics.attempt("scheduled", seconds);
                let message = format!("Successfully assigned {} to {node}", attempt.id);
                self.recorder.note(&*pod, COMPONENT, &Note::normal("Scheduled", message));
                continue;
            };
            self.metrics.attempt("error", seconds);
            if !matches!(error.reason, Reason::NotFound | Reason::Conflict) {
                tracing::warn!(pod = %attempt.id, %node, %error, "binding refused");
            }
            // The loop may have ended: then there is nothing to undo.
            let _ = outcomes.send(Told::NotBound { attempt, uid });
        }
    }

    /// Tells in the pod's condition and in an event why it is pending.
    pub(super) async fn refuse(self, pod: Arc<Pod>, message: Arc<str>) {
        self.recorder.note(&*pod, COMPONENT, &Note::warning("FailedScheduling", &*message));
        self.condition(&Id::of(&pod.metadata), "Unschedulable", &message).await;
    }

    /// Tells in the pod's condition that its gates keep it.
    pub(super) async fn gated(self, id: Id) {
        let message = "Scheduling is blocked due to non-empty scheduling gates";
        self.condition(&id, "SchedulingGated", message).await;
    }

    async fn condition(&self, id: &Id, reason: &str, message: &str) {
        if let Err(error) = self.set_condition(id, reason, message).await
            && !error.is_not_found()
        {
            tracing::warn!(pod = %id, %error, "condition PodScheduled not written");
        }
    }

    async fn set_condition(&self, id: &Id, reason: &str, message: &str) -> Result<(), WriteError> {
        let Some(pod) = self.client.cached::<Pod>(id) else { return Ok(()) };
        if !is_pending(&pod) {
            return Ok(());
        }
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let old = conditions.iter().find(|c| c.type_ == "PodScheduled");
        let generation = pod.metadata.generation;
        let told = |c: &&PodCondition| {
            // What was said of gates when the pod was made is said of no generation in particular.
            c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(message)
                && (c.observed_generation.is_none() || c.observed_generation == generation)
        };
        if old.as_ref().is_some_and(told) {
            return Ok(());
        }
        let since = old.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
        let since = since.map_or_else(Timestamp::now, |t| t.0);
        let patch = json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": Time(since),
        }]}});
        self.client.strategic::<Pod>(id, Some(Subresource::Status), patch).await.map(|_| ())
    }
}
