//! Heartbeats between the half of a session that reads and the store: few may wait, the newest is worth no more than
//! the one before it, and what is dropped is told with what was measured of it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gantry_proto::node::v1 as pb;
use tokio::{sync::mpsc, time::Instant};

/// How many heartbeats wait to be stored.
const WAITING: usize = 4;

/// Since when a heartbeat is being stored; shared by both ends.
#[derive(Clone, Default)]
struct Storing(Arc<Mutex<Option<Instant>>>);

impl Storing {
    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }
}

/// Where heartbeats go in.
pub(super) struct Heard {
    sender: mpsc::Sender<pb::Heartbeat>,
    storing: Storing,
    /// When the last one that found room came.
    last: Option<Instant>,
}

/// A heartbeat that found no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dropped {
    /// How many wait.
    pub(super) waiting: usize,
    /// For how long the store has been at the one in hand; `None`: none was given to it, the session itself had no
    /// turn since they came.
    pub(super) storing: Option<Duration>,
    /// How long ago the last of those that wait came.
    pub(super) since_last: Duration,
}

impl Heard {
    /// Passes one on, unless too many wait: the next one says the same.
    pub(super) fn push(&mut self, heartbeat: pb::Heartbeat) -> Result<(), Dropped> {
        if self.sender.try_send(heartbeat).is_ok() {
            self.last = Some(Instant::now());
            return Ok(());
        }
        Err(Dropped {
            waiting: WAITING,
            storing: self.storing.age(),
            since_last: self.last.map(|at| at.elapsed()).unwrap_or_default(),
        })
    }
}

/// Where they come out.
pub(super) struct Beats {
    receiver: mpsc::Receiver<pb::Heartbeat>,
    storing: Storing,
}

impl Beats {
    /// The next one; from now on it counts as being stored.
    pub(super) async fn next(&mut self) -> Option<pb::Heartbeat> {
        self.storing.set(None);
        let heartbeat = self.receiver.recv().await?;
        self.storing.set(Some(Instant::now()));
        Some(heartbeat)
    }
}

/// Both ends.
pub(super) fn channel() -> (Heard, Beats) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let storing = Storing::default();
    (Heard { sender, storing: storing.clone(), last: None }, Beats { receiver, storing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_after_a_stall_is_not_the_stores_fault() {
        let (mut heard, mut beats) = channel();
        let mut push = || heard.push(pb::Heartbeat::default());
        assert!((0..WAITING).all(|_| push().is_ok()));
        let burst = Dropped { waiting: WAITING, storing: None, since_last: Duration::ZERO };
        assert_eq!(push(), Err(burst), "nothing was given to the store yet");
        assert!(beats.next().await.is_some());
        assert_eq!(push(), Ok(()));
        tokio::time::advance(Duration::from_secs(3)).await;
        let (storing, since_last) = (Some(Duration::from_secs(3)), Duration::from_secs(3));
        assert_eq!(push(), Err(Dropped { waiting: WAITING, storing, since_last }));
    }
}
