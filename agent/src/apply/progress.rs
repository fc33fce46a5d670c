//! When a running pull is worth a word, and which: a line in the pod's status every few seconds, an event at growing
//! distances, so that an hour of pulling makes a dozen of them. Pure: the caller has the clock.

use std::time::Duration;

use crate::images::Progress;

/// Pulls that end sooner say nothing in between.
const FIRST: Duration = Duration::from_secs(5);
/// Between two changes of the status.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// One pull.
#[derive(Debug)]
pub(super) struct Teller {
    image: String,
    next_status: Duration,
    next_event: Duration,
}

/// What is to be told now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// For the container's status.
    pub(super) status: String,
    /// For an event, when it is time for one.
    pub(super) event: Option<String>,
}

impl Teller {
    /// Of a pull that begins now.
    pub(super) fn new(image: &str) -> Self {
        Self { image: image.to_owned(), next_status: FIRST, next_event: FIRST }
    }

    /// `since`: time since the pull began.
    pub(super) fn tell(&mut self, since: Duration, progress: Progress) -> Option<Shown> {
        // Before the manifest is there, nothing is known.
        if since < self.next_status || progress.total == 0 {
            return None;
        }
        self.next_status = since + STATUS_EVERY;
        let text = text(since, progress);
        let event = (since >= self.next_event).then(|| format!("Pulling image {:?}: {text}", self.image));
        if event.is_some() {
            self.next_event = since * 2;
        }
        Some(Shown { status: format!("pulling image {:?}: {text}", self.image), event })
    }
}

/// `120.0 of 300.0 MB (40 %), 24.0 MB/s`
fn text(since: Duration, Progress { done, total }: Progress) -> String {
    // Decimal megabytes, as registries and disks count.
    let mb = |bytes: u64| bytes as f64 / 1e6;
    if done >= total {
        return format!("all {:.1} MB are here, unpacking", mb(total));
    }
    let percent = done.saturating_mul(100) / total;
    let rate = mb(done) / since.as_secs_f64();
    format!("{:.1} of {:.1} MB ({percent} %), {rate:.1} MB/s", mb(done), mb(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    #[test]
    fn says_how_far_and_how_fast() {
        let mut teller = Teller::new("app:1");
        let progress = Progress { done: 120 * MB, total: 300 * MB };
        assert_eq!(teller.tell(Duration::from_secs(4), progress), None);
        assert_eq!(teller.tell(Duration::from_secs(5), Progress::default()), None, "no manifest yet");
        let told = teller.tell(Duration::from_secs(5), progress).unwrap();
        assert_eq!(told.status, "pulling image \"app:1\": 120.0 of 300.0 MB (40 %), 24.0 MB/s");
        assert_eq!(told.event.unwrap(), "Pulling image \"app:1\": 120.0 of 300.0 MB (40 %), 24.0 MB/s");
        let whole =
            teller.tell(Duration::from_secs(20), Progress { done: 300 * MB, total: 300 * MB }).unwrap();
        assert_eq!(whole.status, "pulling image \"app:1\": all 300.0 MB are here, unpacking");
    }

    #[test]
    fn an_hour_is_a_dozen_events() {
        let mut teller = Teller::new("app:1");
        let seconds = 0..3600u64;
        let told: Vec<_> = seconds
            .filter_map(|s| teller.tell(Duration::from_secs(s), Progress { done: s, total: 3600 }))
            .collect();
        assert_eq!(told.len(), 719, "every five seconds");
        assert_eq!(told.iter().filter(|t| t.event.is_some()).count(), 10);
    }
}
