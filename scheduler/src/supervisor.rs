//! What systemd is told: ready, alive, stopping. Without systemd all of it does nothing.

use sd_notify::NotifyState;

use crate::model::Chain;

/// Everything is up.
pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The stop has begun.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Says now and then that the runtime still turns; never returns.
pub(crate) async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    // Twice within the limit, so that one late wake-up is no reason for a restart.
    let mut beat = tokio::time::interval(limit / 2);
    loop {
        beat.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(error = %Chain(&error), "cannot tell systemd");
    }
}
