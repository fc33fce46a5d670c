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

/// By their numbers.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Every capability among those `given`, a bit for each number.
pub(super) fn among(given: u64) -> HashSet<Capability> {
    let names = ALL.iter().enumerate().filter(|(number, _)| given & (1 << number) != 0);
    names.filter_map(|(_, name)| name.parse().ok()).collect()
}

/// Additions win over `drop: ALL`, drops win over `add: ALL`, as users of Kubernetes expect.
pub(super) fn effective(
    add: &[String],
    drop: &[String],
    given: u64,
) -> Result<HashSet<Capability>, RuntimeError> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set: HashSet<_> = DEFAULT.into();
    if add.iter().any(is_all) {
        set = among(given);
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
        assert_eq!(among(u64::MAX).len(), ALL.len());
    }

    #[test]
    fn what_the_host_lacks_is_not_asked_for() {
        let set = among(0x0000_01ff_feff_ffff);
        assert_eq!(set.len(), ALL.len() - 1);
        assert!(!set.contains(&Capability::SysResource));
    }

    #[test]
    fn drop_all_then_add_one() {
        let set = effective(&names(&["NET_BIND_SERVICE"]), &names(&["ALL"]), u64::MAX).unwrap();
        assert_eq!(set, [Capability::NetBindService].into());
    }

    #[test]
    fn add_all_but_one() {
        let set = effective(&names(&["all"]), &names(&["CAP_SYS_ADMIN"]), u64::MAX).unwrap();
        assert_eq!(set.len(), ALL.len() - 1);
    }

    #[test]
    fn unknown_name_is_a_configuration_error() {
        let error = effective(&names(&["FLY"]), &[], u64::MAX).unwrap_err();
        assert!(
            matches!(error, RuntimeError::Config { message } if message == "unknown capability \"CAP_FLY\"")
        );
    }
}
