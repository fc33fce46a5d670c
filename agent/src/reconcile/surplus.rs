//! When memory that work needed for a moment goes back to the kernel: once the work is over. The allocator keeps what is
//! freed, 4 MB after a hundred pods were started, and nobody else gets it.
//!
//! In: signs of work, and the passes there have been. Out: when to look, and then whether it is over. Never reads a clock.

use std::time::Duration;

use tokio::time::Instant;

/// Work is over when there was no pass for as long: starts of pods are seconds apart at most while many are started.
const QUIET: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    due: Option<Instant>,
    passes: u64,
}

impl Surplus {
    /// There is work.
    pub(super) fn stir(&mut self, now: Instant) {
        self.due.get_or_insert(now + QUIET);
    }

    /// When to look whether it is over; never for one who did not work.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// It is due. True when no pass came since the last look: memory is to be given back, once. False: look again.
    pub(super) fn is_over(&mut self, now: Instant, passes: u64) -> bool {
        let over = passes == self.passes;
        self.passes = passes;
        self.due = (!over).then_some(now + QUIET);
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_when_work_is_over() {
        let (mut surplus, start) = (Surplus::default(), Instant::now());
        assert_eq!(surplus.due(), None, "nobody worked");
        surplus.stir(start);
        surplus.stir(start + QUIET / 2);
        assert_eq!(surplus.due(), Some(start + QUIET), "work that goes on does not put it off for ever");
        assert!(!surplus.is_over(start + QUIET, 7), "there were passes");
        assert_eq!(surplus.due(), Some(start + 2 * QUIET));
        assert!(!surplus.is_over(start + 2 * QUIET, 8));
        assert!(surplus.is_over(start + 3 * QUIET, 8));
        assert_eq!(surplus.due(), None, "and not again until somebody works");
    }
}
