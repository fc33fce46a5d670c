//! What waits to be told to the scheduler: the latest status of each pod until it is confirmed, events while
//! there is room, and how far the reconcilers are. Writers never wait; what a session cannot send stays.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gantry_proto::node::v1 as pb;
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::Notify, time::Instant};

use super::convert;
use crate::model::{FailedObject, NodeEvent, NodeName, PodReport, PodUid, Upstream};

/// Events that wait; the oldest go first when there are more.
const EVENTS: usize = 1024;
/// A status that is not confirmed in this time is sent again.
const AGAIN: Duration = Duration::from_secs(15);

struct Waiting {
    report: PodReport,
    sequence: u64,
    /// When it was sent in this session.
    sent: Option<Instant>,
}

#[derive(Default)]
struct Inner {
    sequence: u64,
    statuses: HashMap<PodUid, Waiting>,
    /// Pods with something to send, oldest first; each at most once.
    order: VecDeque<PodUid>,
    events: VecDeque<NodeEvent>,
    programmed: Programmed,
    /// Objects whose last update was not understood.
    not_understood: Vec<FailedObject>,
    unknown_kinds: BTreeSet<i32>,
    acked: bool,
}

/// How far the reconcilers are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Programmed {
    pub(super) epoch: u64,
    pub(super) generation: u64,
    pub(super) failed: Vec<FailedObject>,
}

/// The outbox; shared by the session and everyone who reports.
pub(super) struct Outbox {
    node: NodeName,
    inner: Mutex<Inner>,
    changed: Notify,
    dropped: Counter,
}

impl Outbox {
    pub(super) fn new(node: NodeName, dropped: Counter) -> Self {
        Self { node, inner: Mutex::default(), changed: Notify::new(), dropped }
    }

    /// Waits until there may be something to take. Cancel-safe: a permit that was not consumed stays.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A new session: what was not confirmed is sent again.
    pub(super) fn begin(&self) {
        let mut inner = self.lock();
        inner.acked = false;
        for waiting in inner.statuses.values_mut() {
            waiting.sent = None;
        }
        requeue(&mut inner, |_| true);
        drop(inner);
        self.changed.notify_one();
    }

    /// Looks after statuses that were sent and not confirmed.
    pub(super) fn retry(&self) {
        let mut inner = self.lock();
        requeue(&mut inner, |w| w.sent.is_some_and(|at| at.elapsed() >= AGAIN));
        drop(inner);
        self.changed.notify_one();
    }

    /// The next thing to send. An ack comes first: the scheduler may wait for it.
    pub(super) fn take(&self, accepted: u64, epoch: u64) -> Option<pb::AgentMessage> {
        let mut inner = self.lock();
        if !inner.acked {
            inner.acked = true;
            let programmed = &inner.programmed;
            // What is programmed of an earlier epoch says nothing in this one, and what a power cut would undo is not
            // programmed yet.
            let generation = if programmed.epoch == epoch { programmed.generation } else { 0 };
            let failed = programmed.failed.iter().chain(&inner.not_understood);
            return Some(convert::ack(accepted, generation.min(accepted), failed, &inner.unknown_kinds));
        }
        while let Some(uid) = inner.order.pop_front() {
            if let Some(waiting) = inner.statuses.get_mut(&uid) {
                waiting.sent = Some(Instant::now());
                return Some(convert::pod_status(&waiting.report, waiting.sequence));
            }
        }
        inner.events.pop_front().map(|event| convert::event(event, &self.node))
    }

    /// The scheduler has stored a status, or never will.
    pub(super) fn confirm(&self, reply: &pb::PodStatusReply) {
        let uid = PodUid::from(reply.uid.as_str());
        let mut inner = self.lock();
        if inner.statuses.get(&uid).is_some_and(|w| reply.gone || w.sequence <= reply.sequence) {
            inner.statuses.remove(&uid);
        }
    }

    /// The generation in force, for the hello of a new session.
    pub(super) fn in_force(&self, epoch: u64) -> u64 {
        let inner = self.lock();
        if inner.programmed.epoch == epoch { inner.programmed.generation } else { 0 }
    }

    /// Something else became durable: the next `take` acknowledges.
    pub(super) fn acknowledge(&self) {
        self.lock().acked = false;
        self.changed.notify_one();
    }

    /// Objects that are not as the scheduler wants them, because it could not be understood: told with every
    /// acknowledgement, with the kinds that are not known.
    pub(super) fn not_understood(&self, failed: Vec<FailedObject>, unknown_kinds: BTreeSet<i32>) {
        let mut inner = self.lock();
        if inner.not_understood != failed || inner.unknown_kinds != unknown_kinds {
            inner.not_understood = failed;
            inner.unknown_kinds = unknown_kinds;
            inner.acked = false;
            drop(inner);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn requeue(inner: &mut Inner, which: impl Fn(&Waiting) -> bool) {
    let mut due: Vec<_> = inner
        .statuses
        .iter()
        .filter(|(uid, w)| which(w) && !inner.order.contains(uid))
        .map(|(uid, w)| (w.sequence, uid.clone()))
        .collect();
    due.sort();
    inner.order.extend(due.into_iter().map(|(_, uid)| uid));
}

impl Upstream for Outbox {
    fn pod_status(&self, report: PodReport) {
        let mut inner = self.lock();
        inner.sequence += 1;
        let (uid, sequence) = (report.uid.clone(), inner.sequence);
        inner.statuses.insert(uid.clone(), Waiting { report, sequence, sent: None });
        if !inner.order.contains(&uid) {
            inner.order.push_back(uid);
        }
        drop(inner);
        self.changed.notify_one();
    }

    fn event(&self, event: NodeEvent) {
        let mut inner = self.lock();
        if inner.events.len() >= EVENTS {
            inner.events.pop_front();
            self.dropped.inc();
        }
        inner.events.push_back(event);
        drop(inner);
        self.changed.notify_one();
    }

    fn programmed(&self, epoch: u64, generation: u64, failed: Vec<FailedObject>) {
        let new = Programmed { epoch, generation, failed };
        let mut inner = self.lock();
        if inner.programmed != new {
            inner.programmed = new;
            inner.acked = false;
            drop(inner);
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodStatus;

    use super::*;
    use crate::model::{EventSubject, EventType, PodName};

    fn report(uid: &str, phase: &str) -> PodReport {
        PodReport {
            uid: uid.into(),
            name: PodName { namespace: "d".into(), name: uid.into() },
            status: PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() }.into(),
            finished: false,
        }
    }

    fn drain(outbox: &Outbox) -> Vec<pb::PodStatusUpdate> {
        std::iter::from_fn(|| outbox.take(0, 0))
            .filter_map(|m| match m.kind {
                Some(pb::agent_message::Kind::PodStatus(status)) => Some(status),
                _ => None,
            })
            .collect()
    }

    fn outbox() -> Outbox {
        Outbox::new("n".into(), Counter::default())
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_status_is_sent_until_it_is_confirmed() {
        let outbox = outbox();
        for phase in ["Pending", "Running"] {
            outbox.pod_status(report("a", phase));
        }
        outbox.pod_status(report("b", "Running"));
        let sent = drain(&outbox);
        assert_eq!(sent.iter().map(|s| s.uid.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(String::from_utf8_lossy(&sent[0].status_json).contains("Running"));
        assert!(drain(&outbox).is_empty());

        // A newer report is not confirmed by the older one's confirmation.
        outbox.pod_status(report("a", "Failed"));
        outbox.confirm(&pb::PodStatusReply { uid: "a".into(), sequence: sent[0].sequence, gone: false });
        outbox.confirm(&pb::PodStatusReply { uid: "b".into(), sequence: sent[1].sequence, gone: false });
        assert_eq!(drain(&outbox).len(), 1);
        outbox.retry();
        assert!(drain(&outbox).is_empty(), "not yet");
        tokio::time::advance(AGAIN).await;
        outbox.retry();
        assert_eq!(drain(&outbox).len(), 1);
        outbox.begin();
        assert_eq!(drain(&outbox).len(), 1, "a new session");
        outbox.confirm(&pb::PodStatusReply { uid: "a".into(), sequence: 0, gone: true });
        outbox.begin();
        assert!(drain(&outbox).is_empty());
    }

    #[test]
    fn old_events_make_room_and_are_counted() {
        let outbox = outbox();
        for i in 0..EVENTS + 3 {
            outbox.event(NodeEvent {
                subject: EventSubject::Node,
                kind: EventType::Normal,
                reason: "Starting",
                message: i.to_string(),
                time_ms: 0,
            });
        }
        assert_eq!(outbox.dropped.get(), 3);
        outbox.take(0, 0).expect("the ack");
        let Some(pb::agent_message::Kind::Event(first)) = outbox.take(0, 0).unwrap().kind else { panic!() };
        assert_eq!((first.message.as_str(), first.object_name.as_str()), ("3", "n"));
    }

    #[test]
    fn an_ack_of_another_epoch_says_nothing_and_none_says_what_a_power_cut_would_undo() {
        let outbox = outbox();
        outbox.programmed(1, 9, Vec::new());
        let ack = |accepted, epoch| match outbox.take(accepted, epoch).map(|m| m.kind) {
            Some(Some(pb::agent_message::Kind::Ack(ack))) => (ack.accepted, ack.programmed),
            other => panic!("{other:?}"),
        };
        for (accepted, epoch, expected) in [(4, 1, (4, 4)), (12, 1, (12, 9)), (4, 2, (4, 0))] {
            assert_eq!(ack(accepted, epoch), expected);
            outbox.acknowledge();
        }
    }

    #[test]
    fn kinds_that_are_not_known_are_named_in_the_ack() {
        let outbox = outbox();
        let named = || match outbox.take(0, 0).map(|m| m.kind) {
            Some(Some(pb::agent_message::Kind::Ack(ack))) => Some(ack.unknown_kinds),
            _ => None,
        };
        assert_eq!(named(), Some(Vec::new()));
        outbox.not_understood(Vec::new(), [99, 7].into());
        assert_eq!(named(), Some(vec![7, 99]));
        outbox.not_understood(Vec::new(), [99, 7].into());
        assert_eq!(named(), None, "no news");
    }
}
