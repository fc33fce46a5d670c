//! Pod statuses on their way into the store: the latest per pod, one write per pod at a time, several pods at once.
//! Only statuses of the node's own pods get in, and only so many: beyond that the session stops reading, and what the
//! agent has to say waits on its side.

use std::collections::{HashMap, HashSet, VecDeque};

use gantry_proto::node::v1 as pb;
use tokio::task::JoinSet;

use super::pod_status::StatusWriter;

/// Writes of one session that run at once: enough to fill a group commit, not enough to crowd others out.
const AT_ONCE: usize = 32;

/// Statuses that may wait: more than one node has pods, in the usual case.
const WAITING: usize = 256;

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

    /// Whether another report may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING
    }

    /// Takes a report, unless a later one was taken already. One about a pod that is not the node's is answered at
    /// once: it must not take up room.
    pub(super) fn push(&mut self, update: pb::PodStatusUpdate) -> Option<pb::PodStatusReply> {
        if let Some(refusal) = self.writer.refusal(&update) {
            self.seen.remove(&update.uid);
            return Some(refusal);
        }
        let seen = self.seen.entry(update.uid.clone()).or_default();
        if update.sequence < *seen {
            return None;
        }
        *seen = update.sequence;
        let uid = update.uid.clone();
        if self.waiting.insert(uid.clone(), update).is_none() {
            self.order.push_back(uid);
        }
        self.start();
        None
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        model::Resource,
        nodes::pod_status::Place,
        objects::{Objects, WriteOptions},
    };

    async fn pod(objects: &Objects, name: &str, node: &str) -> pb::PodStatusUpdate {
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        let options = WriteOptions::controller("test");
        let written = objects.create(Resource::PODS, Some("default"), body, &options).await.unwrap();
        pb::PodStatusUpdate {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: written.object.uid.to_string(),
            sequence: 1,
            status_json: json!({"phase": "Running"}).to_string().into(),
            finished: false,
        }
    }

    #[tokio::test]
    async fn only_the_nodes_own_pods_get_in_and_only_so_many() {
        let objects = Objects::in_memory(Vec::new()).await.unwrap();
        let place = Place { node: "n1".to_owned(), ..Place::default() };
        let writer = StatusWriter::new(objects.clone(), WriteOptions::controller("test"), place);
        let mut queue = StatusQueue::new(writer);
        let foreign = pod(&objects, "foreign", "n2").await;
        let mut gone = pod(&objects, "gone", "n1").await;
        gone.uid = "another".to_owned();
        for update in [foreign, gone] {
            assert!(queue.push(update).is_some_and(|reply| reply.gone));
        }
        assert!(queue.waiting.is_empty() && queue.seen.is_empty() && queue.writes.is_empty());
        let mut taken = 0;
        while queue.has_room() {
            let update = pod(&objects, &format!("p{taken}"), "n1").await;
            assert_eq!(queue.push(update), None);
            taken += 1;
        }
        assert_eq!(queue.waiting.len(), WAITING);
        for _ in 0..taken {
            assert!(queue.next().await.is_some_and(|reply| !reply.gone));
            assert!(queue.has_room(), "each write that ends makes room");
        }
        let stored = objects.get(Resource::PODS, Some("default"), "p0").await.unwrap();
        assert_eq!(stored.decode::<Value>().unwrap()["status"]["phase"], "Running");
    }
}
