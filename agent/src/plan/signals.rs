//! Signals by the names that specifications and images give them. Pure.

use std::str::FromStr;

use k8s_openapi::api::core::v1::Container;
use nix::sys::signal::Signal;

use super::standing::STOP_SIGNAL_LABEL;
use crate::model::{ImageInfo, ObservedContainer};

/// SIGTERM.
const TERM: i32 = Signal::SIGTERM as i32;
/// The real-time signals as containers see them: the C library of this program keeps two for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal: `SIGQUIT`, `quit`, `SIGRTMIN+3`, `3`.
pub(super) fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(signal) = Signal::from_str(&format!("SIG{name}")) {
        return Some(signal as i32);
    }
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(digits) => digits.parse::<i32>().ok().filter(|n| (0..=RTMAX - RTMIN).contains(n)),
        None => rest.is_empty().then_some(0),
    };
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => Some(RTMIN + offset(rest, '+')?),
        (_, Some(rest)) => Some(RTMAX - offset(rest, '-')?),
        _ => None,
    }
}

/// What a container is to be stopped with: `lifecycle.stopSignal`, the image's STOPSIGNAL, or SIGTERM. One that is no
/// signal is told before the container runs: later it could only be ended by another.
pub(super) fn of_launch(container: &Container, image: &ImageInfo) -> Result<i32, String> {
    let wanted = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    if let Some(wanted) = wanted {
        return number(wanted).ok_or_else(|| format!("stopSignal {wanted:?} is no signal of this node"));
    }
    match image.stop_signal.as_str() {
        "" => Ok(TERM),
        said => {
            number(said).ok_or_else(|| format!("the image's STOPSIGNAL {said:?} is no signal of this node"))
        }
    }
}

/// What an attempt was made to be stopped with. One that an earlier agent made does not say.
pub(super) fn of_attempt(observed: &ObservedContainer, container: Option<&Container>) -> i32 {
    let noted = observed.labels.get(STOP_SIGNAL_LABEL).map(String::as_str);
    let lifecycle = container.and_then(|container| container.lifecycle.as_ref());
    noted.or_else(|| lifecycle?.stop_signal.as_deref()).and_then(number).unwrap_or(TERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_as_runtimes_read_them() {
        for (text, expected) in [
            ("SIGTERM", 15),
            ("sigquit", 3),
            ("QUIT", 3),
            ("9", 9),
            ("64", 64),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGRTMAX", 64),
        ] {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in
            ["", "0", "65", "-1", "SIG", "SIGFOO", "SIGRTMIN+31", "SIGRTMIN-1", "SIGRTMAX+1", "RTMIN+-1"]
        {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
