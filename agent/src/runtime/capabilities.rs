//! The capability set of a container: the default one of the other runtimes, plus and minus what the pod says.

use std::collections::HashSet;

use oci_spec::runtime::Capability;

use super::RuntimeError;

const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

const ALL: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYSLOG",
    "WAKE_ALARM",
];

/// Every capability of the kernels we support.
pub(super) fn all() -> HashSet<Capability> {
    ALL.iter().filter_map(|name| name.parse().ok()).collect()
}

/// Additions win over `drop: ALL`, drops win over `add: ALL`, as users of Kubernetes expect.
pub(super) fn effective(add: &[String], drop: &[String]) -> Result<HashSet<Capability>, RuntimeError> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set: HashSet<_> = DEFAULT.into();
    if add.iter().any(is_all) {
        set = all();
    }
    if drop.iter().any(is_all) {
        set.clear();
    }
    for name in add.iter().filter(|n| !is_all(n)) {
        set.insert(parse(name)?);
    }
    for name in drop.iter().filter(|n| !is_all(n)) {
        set.remove(&parse(name)?);
    }
    Ok(set)
}

fn parse(name: &str) -> Result<Capability, RuntimeError> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    bare.parse().map_err(|_| RuntimeError::Config { message: format!("unknown capability \"CAP_{bare}\"") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&n| n.to_owned()).collect()
    }

    #[test]
    fn every_name_of_all_parses() {
        assert_eq!(all().len(), ALL.len());
    }

    #[test]
    fn drop_all_then_add_one() {
        let set = effective(&names(&["NET_BIND_SERVICE"]), &names(&["ALL"])).unwrap();
        assert_eq!(set, [Capability::NetBindService].into());
    }

    #[test]
    fn add_all_but_one() {
        let set = effective(&names(&["all"]), &names(&["CAP_SYS_ADMIN"])).unwrap();
        assert_eq!(set.len(), ALL.len() - 1);
    }

    #[test]
    fn unknown_name_is_a_configuration_error() {
        let error = effective(&names(&["FLY"]), &[]).unwrap_err();
        assert!(
            matches!(error, RuntimeError::Config { message } if message == "unknown capability \"CAP_FLY\"")
        );
    }
}
