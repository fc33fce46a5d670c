//! Waits between attempts: doubled each time and scattered, so that the agents of a cluster do not all knock at
//! a scheduler that just came back.

use std::time::Duration;

use rand::Rng;

const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(30);

/// The next wait.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// It worked.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// How long to wait now: between half and all of the doubled time.
    pub(super) fn next(&mut self) -> Duration {
        let full = (FIRST * 2_u32.pow(self.attempts.min(10))).min(LAST);
        self.attempts = self.attempts.saturating_add(1);
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_again() {
        let mut backoff = Backoff::default();
        for attempt in 0..40 {
            let wait = backoff.next();
            let full = (FIRST * 2_u32.pow(attempt.min(10))).min(LAST);
            assert!(wait <= full && wait >= full / 2, "{attempt}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
