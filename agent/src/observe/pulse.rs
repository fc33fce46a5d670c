//! Whether the container runtime answers, asked for the node as a whole and beside everything else: heartbeats and the
//! hello tell what was heard last, so that a runtime that hangs is told about instead of silencing the node. A call that
//! fails for one pod says nothing here.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{images::Images, model::chain, runtime::Runtime};

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(10);
/// Between two questions to a runtime that does not answer: most are only being restarted.
const RETRY: Duration = Duration::from_secs(1);
/// A runtime that takes longer is as good as away.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the runtime said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Whether it was asked at all.
    pub asked: bool,
    /// `containerd://1.6.20`; empty while it has never answered.
    pub version: String,
    /// Names of the images on the node.
    pub images: Arc<Vec<String>>,
}

/// Asks, and tells.
pub struct Pulse {
    /// Asked for its version.
    pub runtime: Arc<dyn Runtime>,
    /// Asked for what is there.
    pub images: Arc<dyn Images>,
    /// Why the runtime does not answer.
    pub health: watch::Sender<Option<String>>,
    /// What it said.
    pub heard: watch::Sender<Heard>,
}

impl Pulse {
    /// Asks until the agent stops.
    pub async fn run(self, stop: CancellationToken) {
        let asking = async {
            loop {
                let healthy = self.ask().await;
                tokio::time::sleep(if healthy { INTERVAL } else { RETRY }).await;
            }
        };
        // Cancel-safe: nothing is changed by asking.
        stop.run_until_cancelled(asking).await;
    }

    /// Whether it answered.
    async fn ask(&self) -> bool {
        let question = async {
            let version = self.runtime.version().await.map_err(|error| chain(&error))?;
            let images = self.images.list().await.map_err(|error| chain(&error))?;
            Ok::<_, String>(Heard { asked: true, version, images: Arc::new(images) })
        };
        let answer = tokio::time::timeout(PATIENCE, question).await;
        let why = match answer.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs()))) {
            Ok(heard) => {
                self.heard.send_replace(heard);
                None
            }
            Err(why) => {
                self.heard.send_modify(|heard| heard.asked = true);
                Some(why)
            }
        };
        let healthy = why.is_none();
        if self.health.send_replace(why.clone()) != why
            && let Some(why) = why
        {
            tracing::warn!(why, "the container runtime does not answer");
        }
        healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeNode;

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_hangs_is_told_about_and_what_it_said_before_stays() {
        let node = FakeNode::new();
        node.state().images.insert("app:1".into());
        let (health, mut why) = watch::channel(None);
        let (heard, said) = watch::channel(Heard::default());
        let pulse = Pulse { runtime: Arc::new(node.clone()), images: Arc::new(node.clone()), health, heard };
        let stop = CancellationToken::new();
        let task = tokio::spawn(pulse.run(stop.clone()));
        let mut first = said.clone();
        first.wait_for(|heard| heard.asked).await.unwrap();
        node.hang(true);
        let hung = why.wait_for(Option::is_some).await.unwrap().clone();
        assert_eq!(hung.as_deref(), Some("no answer within 5 s"));
        assert_eq!((said.borrow().version.as_str(), said.borrow().images.len()), ("fake://1", 1));
        // A call that fails for one pod is that pod's.
        node.hang(false);
        node.fail("list", "broken");
        why.wait_for(Option::is_none).await.unwrap();
        stop.cancel();
        task.await.unwrap();
    }
}
