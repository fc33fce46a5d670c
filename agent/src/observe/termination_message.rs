//! The termination message of an ended container: its file, else (when the policy says so and it failed) the end
//! of its log.

use std::{path::Path, time::Duration};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::{
    model::{DesiredPod, Layout, ObservedContainer, spec},
    volumes::Volumes,
};

/// Of the log: at most so many bytes of text, and lines. Upstream's limits.
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// How long a logger may take to write what the container said before it ended. A process that the container left
/// behind may keep it at work for ever.
const LOGGER_GRACE: Duration = Duration::from_millis(500);
const LOGGER_POLL: Duration = Duration::from_millis(10);

/// Reads termination messages below this layout.
#[derive(Clone, Debug)]
pub struct TerminationMessages {
    layout: Layout,
}

impl TerminationMessages {
    /// Below this layout.
    pub fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// What the container left, if anything.
    pub async fn of(
        &self,
        volumes: &dyn Volumes,
        pod: &DesiredPod,
        container: &ObservedContainer,
        code: i32,
    ) -> Option<String> {
        let written = volumes.termination_message(&pod.uid, &container.container, container.attempt).await;
        if written.as_ref().is_some_and(|text| !text.is_empty()) {
            return written;
        }
        let fallback = pod.pod.spec.as_ref().and_then(|spec| {
            let found = spec::find(spec, &container.container)?;
            found.termination_message_policy.as_deref()
        });
        if code == 0 || fallback != Some("FallbackToLogsOnError") {
            return None;
        }
        let log = self.layout.container_log(&pod.name, &pod.uid, &container.container, container.attempt);
        logger_ended(&log).await;
        tail(&log).await
    }
}

/// Waits until the log's writer, which holds a lock on it meanwhile, has ended; not for long.
async fn logger_ended(log: &Path) {
    let locked = async {
        while let Ok(file) = std::fs::File::open(log)
            && matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
        {
            tokio::time::sleep(LOGGER_POLL).await;
        }
    };
    // What is there by then is what there is to tell.
    let _ = tokio::time::timeout(LOGGER_GRACE, locked).await;
}

/// The end of a log in the CRI format, without its time stamps.
async fn tail(log: &Path) -> Option<String> {
    let mut file = tokio::fs::File::open(log).await.ok()?;
    let length = file.metadata().await.ok()?.len();
    // Four times the text leaves room for the stamps of short lines.
    let wanted = u64::try_from(MAX_LOG_BYTES * 4).ok()?;
    file.seek(std::io::SeekFrom::Start(length.saturating_sub(wanted))).await.ok()?;
    let mut bytes = Vec::new();
    file.take(wanted).read_to_end(&mut bytes).await.ok()?;
    Some(text_of(&String::from_utf8_lossy(&bytes), length > wanted))
}

/// `cut`: the text begins somewhere in a record.
fn text_of(records: &str, cut: bool) -> String {
    let mut records: Vec<&str> = records.lines().collect();
    let mut joined = String::new();
    if cut && !records.is_empty() {
        // Without its stamp it cannot be told from text: it counts only when there is nothing else.
        let first = records.remove(0);
        if records.is_empty() {
            joined = format!("{first}\n");
        }
    }
    for record in records {
        let mut parts = record.splitn(4, ' ').skip(2);
        let (Some(tag), Some(text)) = (parts.next(), parts.next()) else { continue };
        joined.push_str(text);
        // A long line is several records, of which only the last ends it.
        if tag != "P" {
            joined.push('\n');
        }
    }
    let lines = joined.lines().count();
    let mut text = joined.as_str();
    for _ in MAX_LOG_LINES..lines {
        text = text.split_once('\n').map_or("", |(_, rest)| rest);
    }
    while text.len() > MAX_LOG_BYTES
        && let Some((_, rest)) = text.split_once('\n').filter(|(_, rest)| !rest.is_empty())
    {
        text = rest;
    }
    // One line that is too long: its end says most.
    let from = text.len().saturating_sub(MAX_LOG_BYTES);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_has_no_time_stamps_and_a_limit() {
        let log = "2026-01-01T00:00:00Z stdout F first line\n2026-01-01T00:00:01Z stderr F second\n";
        assert_eq!(text_of(log, false), "first line\nsecond\n");
        // A last line without a line end gets none.
        assert_eq!(text_of("2026-01-01T00:00:00Z stdout P DONE\n", false), "DONE");
        let long = "2026-01-01T00:00:00Z stdout F 0123456789012345678901234567890123456789\n".repeat(200);
        let text = text_of(&long, true);
        assert!(text.len() <= MAX_LOG_BYTES && text.lines().count() <= MAX_LOG_LINES, "{}", text.len());
        assert!(text.ends_with("0123456789\n"));
    }

    #[tokio::test]
    async fn what_the_logger_still_writes_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        let file = std::fs::File::create(&log).unwrap();
        let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
        let logger = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            std::io::Write::write_all(&mut *file, b"2026-01-01T00:00:00Z stderr F the end\n").unwrap();
        });
        logger_ended(&log).await;
        assert_eq!(tail(&log).await.as_deref(), Some("the end\n"));
        logger.join().unwrap();
    }

    #[test]
    fn of_one_long_line_the_end_is_kept() {
        let end = "x".repeat(3000) + "the end";
        let whole = format!("2026-01-01T00:00:00Z stderr P {end}\n2026-01-01T00:00:00Z stderr F !\n");
        let text = text_of(&whole, false);
        assert!(text.len() == MAX_LOG_BYTES && text.ends_with("the end!\n"), "{text}");
        // All that was read is the middle of one record.
        let text = text_of(&format!("ä{end}\n"), true);
        assert!(text.len() <= MAX_LOG_BYTES && text.ends_with("the end\n"), "{text}");
        assert_eq!(text_of("of a record\n2026-01-01T00:00:00Z stdout F whole\n", true), "whole\n");
    }
}
