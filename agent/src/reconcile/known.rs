//! The desired state from when on there is one.

use std::sync::Arc;

use tokio::sync::watch;

use super::DesiredState;
use crate::{
    lifecycle::{Drain, Gate},
    model::Desired,
};

/// Follows `from`, once it tells something: from the ledger or a whole snapshot. Until then nothing on the node may be
/// taken for an orphan. The gate opens with the first.
pub fn known(mut from: watch::Receiver<Arc<Desired>>, gate: Gate, drain: &Drain) -> DesiredState {
    let is_known = |desired: &Arc<Desired>| desired.epoch != 0 || !desired.pods.is_empty();
    let first = from.borrow_and_update().clone();
    let (to, known) = watch::channel(Some(first).filter(is_known));
    let stop = drain.stop.clone();
    drain.spawn(async move {
        loop {
            if to.borrow().is_some() {
                gate.open();
            }
            // Both cancel-safe: a watch and a flag.
            tokio::select! {
                changed = from.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            let now = from.borrow_and_update().clone();
            if is_known(&now) || to.borrow().is_some() {
                to.send_replace(Some(now));
            }
        }
    });
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lifecycle::Gates, testing::desired};

    #[tokio::test(start_paused = true)]
    async fn nothing_is_desired_until_somebody_said_so() {
        let (from, told) = watch::channel(Arc::default());
        let (gates, drain) = (Gates::default(), Drain::default());
        let mut known = known(told, gates.register("desired state"), &drain);
        assert!(known.borrow().is_none());
        from.send_replace(Arc::new(Desired { generation: 7, ..Desired::default() }));
        tokio::task::yield_now().await;
        assert!(
            known.borrow().is_none() && !gates.closed().is_empty(),
            "a generation of no epoch says nothing"
        );
        // That there is no pod is something to know, and later on nothing is that.
        from.send_replace(Arc::new(desired([])));
        known.wait_for(Option::is_some).await.unwrap();
        gates.all_open().await;
        from.send_replace(Arc::default());
        known.wait_for(|now| now.as_ref().is_some_and(|now| now.epoch == 0)).await.unwrap();
    }
}
