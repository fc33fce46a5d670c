//! Named points between two steps of a port, at which a test kills the agent (docs/adr/0024-kills-between-any-two-steps.md).
//!
//! In: the environment of a debug build, `GANTRY_FAILPOINT=<point>@<pod>`. Out: nothing; the process is gone, by SIGKILL and
//! at that instruction. Never: a word of it in a release build.

/// Ends the process when a test named this point and the pod that `whose` belongs to: a uid, or what contains one.
#[inline]
pub fn reach(point: &str, whose: &str) {
    #[cfg(debug_assertions)]
    armed::reach(point, whose);
    #[cfg(not(debug_assertions))]
    let _ = (point, whose);
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;

    use nix::{
        sys::signal::{Signal, raise},
        unistd::pause,
    };

    static ARMED: LazyLock<Option<(String, String)>> = LazyLock::new(|| {
        let named = std::env::var("GANTRY_FAILPOINT").ok()?;
        let (point, pod) = named.split_once('@')?;
        Some((point.to_owned(), pod.to_owned()))
    });

    pub(super) fn reach(point: &str, whose: &str) {
        let Some((named, pod)) = &*ARMED else { return };
        if named == point && whose.contains(pod.as_str()) {
            eprintln!("killed at {point} of {whose}");
            // Of a signal that cannot be refused nothing comes back.
            let _ = raise(Signal::SIGKILL);
            loop {
                pause();
            }
        }
    }
}
