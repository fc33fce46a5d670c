//! What this host refuses a container, found before the runtime stumbles over it: mount propagation that the mount
//! below does not have, kernel parameters that the kernel does not take. The refusal names what was asked for, in the
//! pod's status, and never in the runtime's words.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};

use super::{ContainerSpec, Mount, Propagation, RuntimeError};
use crate::proc;

/// The propagation that the root of a container must have for its mounts, with what is refused. `table` are the mounts
/// of the namespace that the runtime starts containers from.
pub(super) fn root_propagation(
    mounts: &[Mount],
    table: &[proc::Mount],
) -> Result<Option<&'static str>, RuntimeError> {
    let mut needed = None;
    for mount in mounts.iter().filter(|mount| mount.propagation != Propagation::None) {
        let below = below(&mount.source, table);
        let (kind, allowed, word) = match mount.propagation {
            Propagation::Bidirectional => ("Bidirectional", below.shared, "a shared mount"),
            _ => ("HostToContainer", below.shared || below.slave, "a shared or slave mount"),
        };
        if !allowed {
            let (source, target) = (mount.source.display(), &mount.target);
            let point = below.point.display();
            return Err(RuntimeError::Config {
                message: format!(
                    "mountPropagation {kind} of {target:?} is not possible on this node: path {source} is mounted on \
                     {point} but it is not {word}"
                ),
            });
        }
        match mount.propagation {
            Propagation::Bidirectional => needed = Some("rshared"),
            _ => needed = needed.or(Some("rslave")),
        }
    }
    Ok(needed)
}

/// The mount that a path is on. Of mounts over each other the last counts: it is the one that is seen.
fn below(path: &Path, table: &[proc::Mount]) -> proc::Mount {
    let on = table.iter().filter(|mount| path.starts_with(&mount.point));
    let none = proc::Mount { point: PathBuf::new(), shared: false, slave: false };
    on.max_by_key(|mount| mount.point.as_os_str().len()).cloned().unwrap_or(none)
}

/// Sets the pod's kernel parameters in its namespaces, which all its containers share.
pub(super) async fn set_sysctls(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    if spec.sysctls.is_empty() {
        return Ok(());
    }
    let opened = |path: &Option<PathBuf>| path.as_ref().map(fs::File::open).transpose();
    let namespaces = opened(&spec.netns).and_then(|net| Ok((net, opened(&spec.ipcns)?)));
    let config = |message| RuntimeError::Config { message };
    let (net, ipc) = namespaces.map_err(|error| config(format!("the pod's namespaces: {error}")))?;
    // The node's own are not a pod's to set.
    let whose = |name: &String| if name.starts_with("net.") { &spec.netns } else { &spec.ipcns };
    if let Some(name) = spec.sysctls.keys().find(|name| whose(name).is_none()) {
        return Err(config(format!(
            "sysctl {name:?} is the node's: the pod has no namespace of its own for it"
        )));
    }
    let (net, ipc) = (net.map(OwnedFd::from), ipc.map(OwnedFd::from));
    let sysctls = spec.sysctls.clone();
    // A thread of its own: one that has entered a namespace is never used again.
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(done.send(set(net, ipc, &sysctls))));
    result.await.unwrap_or_else(|_| Err("the thread ended early".to_owned())).map_err(config)
}

fn set(net: Option<OwnedFd>, ipc: Option<OwnedFd>, sysctls: &BTreeMap<String, String>) -> Result<(), String> {
    for (namespace, flag) in [(net, CloneFlags::CLONE_NEWNET), (ipc, CloneFlags::CLONE_NEWIPC)] {
        if let Some(namespace) = namespace {
            setns(namespace, flag).map_err(|error| format!("the pod's namespaces: {error}"))?;
        }
    }
    for (name, value) in sysctls {
        write(&parameter(name), value).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => "there is no such parameter".to_owned(),
                _ => error.to_string(),
            };
            format!("sysctl {name:?} cannot be set to {value:?} on this node: {why}")
        })?;
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    io::Write::write_all(&mut fs::OpenOptions::new().write(true).open(path)?, value.as_bytes())
}

/// Dots part the names of directories; a slash is a dot within a name.
fn parameter(name: &str) -> PathBuf {
    let swapped = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    Path::new("/proc/sys").join(name.chars().map(swapped).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<proc::Mount> {
        let mount = |point: &str, shared, slave| proc::Mount { point: point.into(), shared, slave };
        vec![
            mount("/", false, false),
            mount("/shared one", false, false),
            mount("/shared one", true, false),
            mount("/slave", false, true),
            mount("/shared one/below", false, false),
        ]
    }

    fn mount(source: &str, propagation: Propagation) -> Mount {
        Mount { source: source.into(), target: "/data".into(), read_only: false, propagation }
    }

    #[test]
    fn propagation_needs_a_mount_that_has_it() {
        use Propagation::{Bidirectional, HostToContainer, None as Off};
        let root = |mounts: &[Mount]| root_propagation(mounts, &table()).map_err(|error| error.to_string());
        assert_eq!(root(&[mount("/a", Off)]), Ok(None));
        assert_eq!(root(&[mount("/slave/a", HostToContainer)]), Ok(Some("rslave")));
        assert_eq!(
            root(&[mount("/shared one/a", Bidirectional), mount("/slave", HostToContainer)]),
            Ok(Some("rshared"))
        );
        let refused = root(&[mount("/shared one/below/a", HostToContainer)]).unwrap_err();
        assert!(refused.ends_with("on /shared one/below but it is not a shared or slave mount"), "{refused}");
        let refused = root(&[mount("/slave/a", Bidirectional)]).unwrap_err();
        assert!(refused.contains("Bidirectional of \"/data\"") && refused.ends_with("not a shared mount"));
    }

    #[test]
    fn the_kernels_refusal_of_a_parameter_names_it() {
        assert_eq!(
            parameter("net.ipv4.conf.eth0/1.forwarding"),
            Path::new("/proc/sys/net/ipv4/conf/eth0.1/forwarding")
        );
        let one = |name: &str| BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        let missing = set(None, None, &one("net.ipv4.nosuch")).unwrap_err();
        assert_eq!(
            missing,
            "sysctl \"net.ipv4.nosuch\" cannot be set to \"1\" on this node: there is no such parameter"
        );
    }
}
