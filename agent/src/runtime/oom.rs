//! How low an oom_score_adj the runtime may give a container. To lower one below what its process began with takes
//! CAP_SYS_RESOURCE in the machine's own user namespace; where that is missing, the runtime fails to start what asks
//! for it, so that the agent asks for less. Tried on the agent's own process, and read of containerd's.

use std::{fs, io, path::Path};

use crate::proc::{Proc, SELF};

/// The lowest there is.
pub const LOWEST: i32 = -1000;
/// `CAP_SYS_RESOURCE`
const RESOURCE: u64 = 1 << 24;
const OWN: &str = "/proc/self/oom_score_adj";

/// What a process may do about oom_score_adj.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rights {
    /// It has the capability.
    capable: bool,
    /// Its own value, which its children may always have.
    current: i32,
}

/// The lowest value that containers may get from the containerd at this socket.
pub fn floor(socket: &Path) -> i32 {
    let proc = Proc::new();
    let tried = lowest_accepted(|value| fs::write(OWN, value.to_string()), || proc.oom_score_adj(SELF));
    let daemon = daemon(socket).and_then(|pid| rights(&proc, &pid.to_string()));
    let own = rights(&proc, SELF);
    decide(tried, own, daemon)
}

/// The process that listens at a socket; `None` when there is none, or it is in another PID namespace.
pub(super) fn daemon(socket: &Path) -> Option<i32> {
    let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    Some(peer.pid()).filter(|pid| *pid > 0)
}

/// The runtime's rights count. Where they cannot be read, or only the trial can tell (a user namespace that has all
/// capabilities but not this right), it is the agent's.
fn decide(tried: i32, own: Option<Rights>, daemon: Option<Rights>) -> i32 {
    let Some(daemon) = daemon else { return tried };
    match (daemon.capable, own.is_some_and(|own| own.capable)) {
        (false, _) => daemon.current,
        // Taken from the agent alone.
        (true, false) => LOWEST,
        (true, true) => tried,
    }
}

fn rights(proc: &Proc, process: &str) -> Option<Rights> {
    let capable = proc.capabilities(process)?.effective & RESOURCE != 0;
    Some(Rights { capable, current: proc.oom_score_adj(process)? })
}

/// Lowers and puts back: raising is always allowed. The kernel refuses everything below one value and nothing from it
/// on, so that the search may halve.
fn lowest_accepted(write: impl Fn(i32) -> io::Result<()>, read: impl Fn() -> Option<i32>) -> i32 {
    let Some(before) = read() else { return 0 };
    let mut accepted = before;
    if write(LOWEST).is_ok() {
        accepted = LOWEST;
    } else {
        let mut refused = LOWEST;
        while accepted - refused > 1 {
            let middle = refused.midpoint(accepted);
            if write(middle).is_ok() { accepted = middle } else { refused = middle }
        }
    }
    if let Err(error) = write(before) {
        tracing::warn!(%error, value = before, "the agent's own oom_score_adj cannot be put back");
    }
    accepted
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn accepted(floor: i32, before: i32) -> (i32, i32) {
        let value = Cell::new(before);
        let write = |wanted: i32| {
            if wanted < floor {
                return Err(io::Error::from(io::ErrorKind::PermissionDenied));
            }
            value.set(wanted);
            Ok(())
        };
        let found = lowest_accepted(write, || Some(value.get()));
        (found, value.get())
    }

    #[test]
    fn the_lowest_value_is_found_and_the_own_one_put_back() {
        assert_eq!(accepted(LOWEST, 0), (LOWEST, 0));
        for floor in [-999, -998, -500, -1, 0] {
            assert_eq!(accepted(floor, 0), (floor, 0));
            assert_eq!(accepted(floor, 300), (floor, 300));
        }
        assert_eq!(accepted(17, 17), (17, 17));
    }

    #[test]
    fn the_runtimes_rights_count() {
        let rights = |capable, current| Some(Rights { capable, current });
        assert_eq!(decide(LOWEST, rights(true, 0), rights(true, 0)), LOWEST);
        assert_eq!(decide(0, rights(false, 0), rights(false, 0)), 0);
        assert_eq!(decide(LOWEST, rights(true, -999), rights(false, -500)), -500, "taken from containerd");
        assert_eq!(decide(0, rights(false, 0), rights(true, -999)), LOWEST, "taken from the agent");
        assert_eq!(decide(0, rights(true, 0), rights(true, 0)), 0, "a user namespace");
        assert_eq!(decide(-20, rights(false, 0), None), -20);
    }

    #[test]
    fn this_machine_says_what_it_takes() {
        let proc = Proc::new();
        let floor = lowest_accepted(|value| fs::write(OWN, value.to_string()), || proc.oom_score_adj(SELF));
        let own = rights(&proc, SELF).unwrap();
        // Without the capability nothing below what the process was given.
        assert!(floor <= own.current && (own.capable || floor > LOWEST), "{floor} {own:?}");
        assert_eq!(proc.oom_score_adj(SELF), Some(own.current));
    }
}
