//! Pod statuses on their way into the store: the latest per pod, one write per pod at a time, several pods at once.

use std::collections::{HashMap, HashSet, VecDeque};

use gantry_proto::node::v1 as pb;
use tokio::task::JoinSet;

use super::pod_status::StatusWriter;

/// Writes of one session that run at once: enough to fill a group commit, not enough to crowd others out.
const AT_ONCE: usize = 32;

/// The queue of one session.
pub(super) struct StatusQueue {
    writer: StatusWriter,
    waiting: HashMap<String, pb::PodStatusUpdate>,
    order: VecDeque<String>,
    busy: HashSet<String>,
    /// Highest sequence seen per pod; the session is of one agent instance.
    seen: HashMap<String, u64>,
    writes: JoinSet<(String, Option<pb::PodStatusReply>)>,
}

impl StatusQueue {
    pub(super) fn new(writer: StatusWriter) -> Self {
        Self {
            writer,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            busy: HashSet::new(),
            seen: HashMap::new(),
            writes: JoinSet::new(),
        }
    }

    /// Takes a report, unless a later one was taken already.
    pub(super) fn push(&mut self, update: pb::PodStatusUpdate) {
        let seen = self.seen.entry(update.uid.clone()).or_default();
        if update.sequence < *seen {
            return;
        }
        *seen = update.sequence;
        let uid = update.uid.clone();
        if self.waiting.insert(uid.clone(), update).is_none() {
            self.order.push_back(uid);
        }
        self.start();
    }

    /// The next write that ended; waits for ever when there is none. Cancel-safe: an ended write stays in the
    /// set until it is returned.
    pub(super) async fn next(&mut self) -> Option<pb::PodStatusReply> {
        loop {
            let Some(joined) = self.writes.join_next().await else { return std::future::pending().await };
            let reply = joined.ok().and_then(|(uid, reply)| {
                self.busy.remove(&uid);
                if reply.as_ref().is_some_and(|r| r.gone) {
                    self.seen.remove(&uid);
                }
                reply
            });
            self.start();
            if reply.is_some() {
                return reply;
            }
        }
    }

    fn start(&mut self) {
        let mut kept = VecDeque::new();
        while self.writes.len() < AT_ONCE
            && let Some(uid) = self.order.pop_front()
        {
            if self.busy.contains(&uid) {
                kept.push_back(uid);
                continue;
            }
            let Some(update) = self.waiting.remove(&uid) else { continue };
            self.busy.insert(uid.clone());
            let writer = self.writer.clone();
            self.writes.spawn(async move { (uid, writer.store(&update).await) });
        }
        kept.append(&mut self.order);
        self.order = kept;
    }
}
