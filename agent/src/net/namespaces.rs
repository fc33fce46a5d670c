//! A pod's namespaces: made on a thread of their own, pinned by bind mount under the run directory, so that
//! they outlive the agent and need no pause process.
//!
//! A pod's directory appears under its name only when every pin in it is mounted and everything in the
//! namespaces is configured: what was under construction when the agent died was held by descriptors alone and
//! went with it. Nothing here runs on a tokio worker: a thread that has entered a namespace is never reused.

use std::{
    fs,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{FsType, fstatfs},
    unistd::sethostname,
};
use tokio::{runtime::Handle, sync::oneshot};

use super::{NetError, netlink::Netlink};
use crate::{failpoint, model::PodUid};

/// `statfs` magic of a namespace file (`NSFS_MAGIC`).
const NSFS: FsType = FsType(0x6e73_6673);

/// What the CRI gives every pod: unprivileged ping, and ports below 1024 for any user.
const SYSCTLS: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
];

/// Where one pod's pins are.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    scratch: PathBuf,
    host_network: bool,
}

/// Namespaces that are held by descriptors only: dropping them ends them.
pub(super) struct Fresh {
    net: Option<OwnedFd>,
    ipc: OwnedFd,
    uts: OwnedFd,
    /// A socket in the network namespace.
    pub(super) netlink: Option<Netlink>,
}

impl Fresh {
    /// The network namespace, where there is one.
    pub(super) fn net(&self) -> Option<&OwnedFd> {
        self.net.as_ref()
    }
}

impl Pins {
    pub(super) fn of(root: &Path, pod: &PodUid, host_network: bool) -> Self {
        Self { directory: root.join(pod.as_str()), scratch: root.join(format!(".{pod}")), host_network }
    }

    /// Reads which kind the pod's pins are from the directory itself.
    pub(super) fn existing(root: &Path, pod: &PodUid) -> Self {
        let pins = Self::of(root, pod, false);
        let host_network = !pins.net().exists();
        Self { host_network, ..pins }
    }

    pub(super) fn host_network(&self) -> bool {
        self.host_network
    }

    pub(super) fn net(&self) -> PathBuf {
        self.directory.join("net")
    }

    pub(super) fn ipc(&self) -> PathBuf {
        self.directory.join("ipc")
    }

    pub(super) fn uts(&self) -> PathBuf {
        self.directory.join("uts")
    }

    /// Whether every pin is a mounted namespace.
    pub(super) fn complete(&self) -> bool {
        (self.host_network || is_namespace(&self.net()))
            && is_namespace(&self.ipc())
            && is_namespace(&self.uts())
    }

    /// Pins `fresh` under the pod's name, all of it or nothing.
    pub(super) fn publish(&self, fresh: &Fresh) -> Result<(), NetError> {
        self.remove()?;
        let failed = |source| NetError::Namespace { operation: "pin", path: self.directory.clone(), source };
        let pinned: io::Result<()> = (|| {
            fs::DirBuilder::new().mode(0o700).create(&self.scratch)?;
            for (name, fd) in
                [("net", fresh.net.as_ref()), ("ipc", Some(&fresh.ipc)), ("uts", Some(&fresh.uts))]
            {
                if let Some(fd) = fd {
                    bind(fd, &self.scratch.join(name))?;
                }
            }
            failpoint::reach("net.publish.bound", &self.directory.to_string_lossy());
            fs::rename(&self.scratch, &self.directory)?;
            failpoint::reach("net.publish.named", &self.directory.to_string_lossy());
            Ok(())
        })();
        pinned.inspect_err(|_| drop(clear(&self.scratch))).map_err(failed)
    }

    /// Unmounts and removes the pins, finished or not.
    pub(super) fn remove(&self) -> Result<(), NetError> {
        for directory in [&self.directory, &self.scratch] {
            clear(directory).map_err(|source| NetError::Namespace {
                operation: "remove",
                path: directory.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// A netlink socket inside the pinned network namespace, with a descriptor of the namespace.
    pub(super) async fn enter(&self) -> Result<(Netlink, OwnedFd), NetError> {
        let path = self.net();
        let failed = {
            let path = path.clone();
            move |source| NetError::Namespace { operation: "enter", path, source }
        };
        on_thread(move || {
            let namespace: OwnedFd = fs::File::open(&path).map_err(failed.clone())?.into();
            setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|e| failed(e.into()))?;
            Ok((Netlink::open()?, namespace))
        })
        .await
    }
}

/// Makes IPC and UTS namespaces, and a network namespace unless the pod has the host's.
pub(super) async fn create(pins: &Pins, hostname: &str) -> Result<Fresh, NetError> {
    let host_network = pins.host_network;
    let hostname = hostname.to_owned();
    let path = pins.directory.clone();
    let failed = move |source| NetError::Namespace { operation: "create", path, source };
    on_thread(move || {
        let mut flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        flags.set(CloneFlags::CLONE_NEWNET, !host_network);
        let made = (|| {
            unshare(flags)?;
            sethostname(&hostname)?;
            if !host_network {
                for (file, value) in SYSCTLS {
                    write_file(Path::new(file), value)?;
                }
            }
            let open = |name| fs::File::open(format!("/proc/thread-self/ns/{name}")).map(OwnedFd::from);
            let net = if host_network { None } else { Some(open("net")?) };
            Ok((net, open("ipc")?, open("uts")?))
        })();
        let (net, ipc, uts) = made.map_err(failed)?;
        let netlink = if net.is_some() { Some(Netlink::open()?) } else { None };
        Ok(Fresh { net, ipc, uts, netlink })
    })
    .await
}

/// Pods with a directory, complete or not; and left-overs of a publication that did not finish.
pub(super) fn listed(root: &Path) -> Result<(Vec<PodUid>, Vec<PathBuf>), NetError> {
    let failed = |source| NetError::State { operation: "read", path: root.to_owned(), source };
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        Err(error) => return Err(failed(error)),
    };
    let (mut pods, mut scratch) = (Vec::new(), Vec::new());
    for entry in entries {
        let entry = entry.map_err(failed)?;
        match entry.file_name().to_str() {
            Some(name) if name.starts_with('.') => scratch.push(entry.path()),
            Some(name) => pods.push(PodUid::from(name)),
            None => {}
        }
    }
    Ok((pods, scratch))
}

/// Unmounts everything in a pod's directory and removes it; absence is fine.
pub(super) fn clear(directory: &Path) -> io::Result<()> {
    for name in ["net", "ipc", "uts"] {
        let pin = directory.join(name);
        // EINVAL: not mounted. Detached, so that a reader elsewhere cannot keep it.
        while umount2(&pin, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
        ignore_absent(fs::remove_file(&pin))?;
        failpoint::reach("net.remove.unpinned", &directory.to_string_lossy());
    }
    ignore_absent(fs::remove_dir(directory))
}

/// Writes one value to a file under /proc/sys.
pub(super) fn write_file(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn bind(namespace: &OwnedFd, pin: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(pin)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", namespace.as_raw_fd()));
    mount(Some(&source), pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

fn is_namespace(path: &Path) -> bool {
    fs::File::open(path)
        .and_then(|file| Ok(fstatfs(file.as_fd())?.filesystem_type() == NSFS))
        .unwrap_or(false)
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Runs `work` on a new thread that ends with it; sockets it opens are driven by the caller's runtime.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    let runtime = Handle::current();
    let (done, result) = oneshot::channel();
    let spawned = thread::Builder::new().name("pod-namespaces".into()).spawn(move || {
        let _runtime = runtime.enter();
        // The caller may have been cancelled: then nobody wants the namespaces, and they end here.
        drop(done.send(work()));
    });
    let lost = |source| NetError::Namespace { operation: "create", path: "thread".into(), source };
    spawned.map_err(lost)?;
    result.await.map_err(|_| lost(io::Error::other("the thread ended early")))?
}
