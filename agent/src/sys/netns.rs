//! Network namespace cookies: the number the kernel gives a namespace for its lifetime.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

/// Not in every libc crate; the number is the same on all architectures we build for.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the calling thread's namespace.
pub(crate) fn own_cookie() -> io::Result<u64> {
    let socket: OwnedFd = Socket::new(Domain::IPV4, Type::DGRAM, None)?.into();
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option is a u64; both pointers are to locals of the sizes given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            std::ptr::from_mut(&mut length),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// The cookie of a pinned namespace. A thread of its own enters it and ends there, so that no other thread ever
/// runs in a foreign namespace.
pub(crate) fn cookie_of(path: &Path) -> io::Result<u64> {
    let namespace = File::open(path)?;
    let thread = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        own_cookie()
    });
    thread.join().map_err(|_| io::Error::other("the thread in the namespace panicked"))?
}
