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
