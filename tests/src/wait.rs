//! Waiting on a state with a deadline. The check returns `Ok(Some(value))` when the state holds and an
//! explanation when it does not, so that a failure says what was there instead.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The usual patience: image pulls and the tutorial's initial probe delays fit in.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Waits until `check` returns a value.
pub fn eventually<T>(what: &str, check: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    eventually_within(PATIENCE, what, check)
}

/// [`eventually`] with a patience of one's own.
pub fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut check: impl FnMut() -> Result<Result<T, String>>,
) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        let seen = match check() {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => seen,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > end {
            bail!("waited {} s for {what}; last seen: {seen}", patience.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
