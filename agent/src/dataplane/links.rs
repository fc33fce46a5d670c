//! Attachments: pinned links that survive the agent and are updated in place, so that at every instant exactly
//! one program runs at each hook. Before Linux 6.6 tc has no links; there a clsact filter with a fixed priority
//! and handle is replaced in place, and lives until its interface or an uninstall ends it.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSockAddr, LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::FdLink,
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact, qdisc_detach_program,
        },
    },
};

use super::{DataplaneError, TcAttachment, loader, maps::kernel};
use crate::sys::bpf;

/// Programs of the socket path; the name ends the pin's.
pub(super) const SOCKET_PROGRAMS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// Where our clsact filter sits; fixed, so that a restart replaces it instead of adding another.
const FILTER_PRIORITY: u16 = 71;

/// One program at one side of an interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcHook<'a> {
    pub(super) program: &'static str,
    pub(super) interface: &'a str,
    pub(super) side: TcAttachType,
}

/// Loads every program of the object into the kernel.
pub(super) fn load_programs(object: &mut Ebpf) -> Result<(), DataplaneError> {
    for (name, program) in object.programs_mut() {
        let result = match program {
            aya::programs::Program::CgroupSockAddr(program) => program.load(),
            aya::programs::Program::SchedClassifier(program) => program.load(),
            _ => continue,
        };
        result.map_err(|source| kernel("load", name, source))?;
    }
    Ok(())
}

/// Start of the pins of the socket path at one cgroup: another cgroup has other pins, as its attachments are others.
fn socket_prefix(cgroup: &Path) -> Result<String, DataplaneError> {
    let found =
        fs::metadata(cgroup).map_err(|source| kernel("attach", cgroup.display().to_string(), source))?;
    Ok(format!("socket-{}-", found.ino()))
}

/// Attaches the socket path to `cgroup`, or updates what is attached; then detaches it from any other.
pub(super) fn attach_sockets(object: &mut Ebpf, cgroup: &Path, pins: &Path) -> Result<(), DataplaneError> {
    let directory =
        File::open(cgroup).map_err(|source| kernel("attach", cgroup.display().to_string(), source))?;
    let prefix = socket_prefix(cgroup)?;
    for name in SOCKET_PROGRAMS {
        let program: &mut CgroupSockAddr = program(object, name)?;
        let pin = pins.join(format!("{prefix}{name}"));
        if update_pinned(&pin, program.fd().map_err(|source| kernel("attach", name, source))?.as_fd())? {
            continue;
        }
        // A link always shares its hook with other programs; the flag for that is only for attachments
        // without a link, and refused here.
        let link = program
            .attach(&directory, CgroupAttachMode::Single)
            .and_then(|id| program.take_link(id))
            .map_err(|source| kernel("attach", name, source))?;
        let link = FdLink::try_from(link).map_err(|source| kernel("pin", name, source))?;
        link.pin(&pin).map_err(|source| kernel("pin", name, source))?;
    }
    detach_others(pins, "socket-", &prefix)
}

/// Detaches what is pinned under `family` and not under `keep`: hooks of an earlier configuration.
pub(super) fn detach_others(pins: &Path, family: &str, keep: &str) -> Result<(), DataplaneError> {
    let fail = |source| kernel("detach", pins.display().to_string(), source);
    for pin in pinned(pins, family).map_err(fail)? {
        let is_kept =
            pin.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(keep.as_bytes()));
        if !is_kept {
            detach(&pin).map_err(fail)?;
        }
    }
    Ok(())
}

/// Attaches `hook`, or updates what is attached there under the same pin.
pub(super) fn attach_tc(
    object: &mut Ebpf,
    hook: TcHook<'_>,
    pin: &Path,
    tc: TcAttachment,
) -> Result<(), DataplaneError> {
    let fail = |source| kernel("attach", format!("{} to {}", hook.program, hook.interface), source);
    let program: &mut SchedClassifier = program(object, hook.program)?;
    if !has_tcx(tc) {
        return attach_filter(program, hook).map_err(fail);
    }
    if update_pinned(pin, program.fd().map_err(fail)?.as_fd())? {
        return Ok(());
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(hook.interface, hook.side, options).map_err(fail)?;
    let link = FdLink::try_from(program.take_link(id).map_err(fail)?)
        .map_err(|source| kernel("pin", hook.program, source))?;
    link.pin(pin).map_err(|source| kernel("pin", hook.program, source))?;
    Ok(())
}

fn attach_filter(program: &mut SchedClassifier, hook: TcHook<'_>) -> Result<(), ProgramError> {
    if let Err(error) = qdisc_add_clsact(hook.interface) {
        // The qdisc from before is as good; a real failure shows when the filter is added.
        tracing::debug!(interface = hook.interface, %error, "clsact qdisc not added");
    }
    let handle = TcHandle::from(1);
    let existing = SchedClassifierLink::attached(hook.interface, hook.side, FILTER_PRIORITY, handle, None);
    let replaced = existing.map_err(aya::programs::tc::TcError::IoError).map_err(ProgramError::from)?;
    let id = match program.attach_to_link(replaced) {
        Ok(id) => id,
        Err(_) => program.attach_with_options(
            hook.interface,
            hook.side,
            TcAttachOptions::Netlink(NlOptions { priority: FILTER_PRIORITY, handle, classid: None }),
        )?,
    };
    // Dropping this kind of link would detach it: the filter must outlive the agent.
    let _kept = std::mem::ManuallyDrop::new(program.take_link(id)?);
    Ok(())
}

/// Whether tc has links, and they are to be used.
fn has_tcx(tc: TcAttachment) -> bool {
    tc == TcAttachment::Newest && loader::kernel_at_least(6, 6)
}

/// Puts `program` into the link pinned at `pin`. False when there is none, or only the remains of one whose
/// interface or cgroup is gone (it is unpinned).
fn update_pinned(pin: &Path, program: std::os::fd::BorrowedFd<'_>) -> Result<bool, DataplaneError> {
    let fail = |source| kernel("update", pin.display().to_string(), source);
    let link = match bpf::object_get(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(fail(error)),
    };
    match bpf::link_update(link.as_fd(), program) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            fs::remove_file(pin).map_err(fail)?;
            Ok(false)
        }
        Err(error) => Err(fail(error)),
    }
}

/// Pins below `directory` whose names start with `prefix`.
pub(super) fn pinned(directory: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let mut pins = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            pins.push(entry.path());
        }
    }
    Ok(pins)
}

/// Puts this agent's programs into the links at interfaces that an earlier one left; drops those whose interface is gone.
/// At a pod's that the maps do not know yet (they are of a new layout) the earlier program goes on until the pod is
/// attached: this agent's would take the pod for a stranger's and let nothing out.
pub(super) fn update_interfaces(
    object: &mut Ebpf,
    directory: &Path,
    is_known: impl Fn(u32) -> bool,
) -> Result<(), DataplaneError> {
    let pins = |family| pinned(directory, family).map_err(|source| kernel("update", "links", source));
    let pods = pins("pod-")?.into_iter().map(|pin| (pin, ["from_pod", "to_pod"]));
    let uplinks = pins("uplink-")?.into_iter().map(|pin| (pin, ["uplink_in", "uplink_out"]));
    for (pin, [inward, outward]) in pods.chain(uplinks) {
        if inward == "from_pod" && !is_at(&pin, &is_known)? {
            continue;
        }
        let name = if pin.as_os_str().as_encoded_bytes().ends_with(b"-in") { inward } else { outward };
        let program: &mut SchedClassifier = program(object, name)?;
        update_pinned(&pin, program.fd().map_err(|source| kernel("update", name, source))?.as_fd())?;
    }
    Ok(())
}

/// Whether a pinned tc link is at an interface that `is_known`, or at none any more.
fn is_at(pin: &Path, is_known: impl Fn(u32) -> bool) -> Result<bool, DataplaneError> {
    let interface = bpf::object_get(pin).and_then(|link| bpf::tc_link_interface(link.as_fd()));
    let interface = interface.map_err(|source| kernel("read", pin.display().to_string(), source))?;
    Ok(interface == 0 || is_known(interface))
}

/// Detaches and unpins; a link that is gone is fine.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    match bpf::object_get(pin) {
        Ok(link) => {
            // Refused when its hook is gone already, which is what is wanted.
            let _ = bpf::link_detach(link.as_fd());
            fs::remove_file(pin)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes our clsact filter; only where tc has no links of ours.
pub(super) fn remove_filter(hook: TcHook<'_>, tc: TcAttachment) {
    if !has_tcx(tc)
        && let Err(error) = qdisc_detach_program(hook.interface, hook.side, hook.program)
    {
        tracing::debug!(interface = hook.interface, %error, "no filter removed");
    }
}

/// Removes our clsact filters of these programs from whatever interface has them, but for `keep`.
pub(super) fn remove_filters(programs: &[&'static str], keep: Option<&str>, tc: TcAttachment) {
    let Ok(interfaces) = fs::read_dir("/sys/class/net") else { return };
    for interface in interfaces.flatten().filter(|_| !has_tcx(tc)) {
        let interface = interface.file_name().to_string_lossy().into_owned();
        if keep == Some(interface.as_str()) {
            continue;
        }
        for program in programs {
            for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                remove_filter(TcHook { program, interface: &interface, side }, tc);
            }
        }
    }
}

fn program<'a, P>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, DataplaneError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    object
        .program_mut(name)
        .ok_or_else(|| kernel("find", name, io::Error::from(io::ErrorKind::NotFound)))?
        .try_into()
        .map_err(|source| kernel("find", name, source))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::dataplane::DataplaneConfig;

    fn output(line: &str) -> String {
        let mut words = line.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What kernels before 6.6 use, on whatever kernel this is.
    #[test]
    #[ignore = "needs root: run by cargo xtask test"]
    fn a_filter_is_replaced_in_place_and_outlives_its_agent() {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        output("ip link add va type veth peer name vb");
        let scratch = tempfile::tempdir().unwrap();
        let config =
            DataplaneConfig { tc: TcAttachment::Filters, ..DataplaneConfig::scratch(scratch.path()) };
        let hook = TcHook { program: "from_pod", interface: "va", side: TcAttachType::Ingress };
        for _ in 0..3 {
            let mut loaded = loader::load(&config).unwrap();
            load_programs(&mut loaded.object).unwrap();
            attach_filter(program(&mut loaded.object, hook.program).unwrap(), hook).unwrap();
        }
        let filters = output("tc filter show dev va ingress");
        assert_eq!(filters.matches("handle 0x1 from_pod").count(), 1, "{filters}");
        qdisc_detach_program(hook.interface, hook.side, hook.program).unwrap();
        assert!(!output("tc filter show dev va ingress").contains("from_pod"));
        loader::remove_pins(&config.pins).unwrap();
    }
}
