//! A sink that keeps what it heard, and lets a test wait for something to be said.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::{FailedObject, NodeEvent, PodReport, PodUid, Upstream};

/// Everything that was said.
#[derive(Debug)]
pub struct Heard {
    said: Mutex<Said>,
    count: watch::Sender<usize>,
}

/// See [`Heard`].
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Pod statuses in order.
    pub reports: Vec<PodReport>,
    /// Events in order.
    pub events: Vec<NodeEvent>,
    /// Acknowledged generations with what of them failed.
    pub programmed: Vec<(u64, Vec<FailedObject>)>,
}

impl Default for Heard {
    fn default() -> Self {
        Self { said: Mutex::default(), count: watch::channel(0).0 }
    }
}

impl Heard {
    /// A copy of it.
    pub fn said(&self) -> Said {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last report of a pod.
    pub fn last(&self, pod: &PodUid) -> Option<PodReport> {
        self.said().reports.into_iter().rfind(|report| report.uid == *pod)
    }

    /// Waits until this holds of what was said.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Said) -> bool) -> Said {
        let mut count = self.count.subscribe();
        let wait = async {
            loop {
                let said = self.said();
                if holds(&said) {
                    return said;
                }
                if count.changed().await.is_err() {
                    return said;
                }
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(3600), wait).await {
            Ok(said) => said,
            Err(_) => {
                let said = self.said();
                let last = said.reports.last();
                panic!("never heard: {what}; last report {last:#?}; events {:#?}", said.events)
            }
        }
    }

    fn hear(&self, add: impl FnOnce(&mut Said)) {
        add(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner));
        self.count.send_modify(|count| *count += 1);
    }
}

impl Upstream for Heard {
    fn pod_status(&self, report: PodReport) {
        self.hear(|said| said.reports.push(report));
    }

    fn event(&self, event: NodeEvent) {
        self.hear(|said| said.events.push(event));
    }

    fn programmed(&self, _epoch: u64, generation: u64, failed: Vec<FailedObject>) {
        self.hear(|said| said.programmed.push((generation, failed)));
    }
}
