//! Loads the object: bpf file system, pinned maps (checked before they are trusted), programs.
//!
//! Layout below [`DataplaneConfig::pins`]: `v<abi>-<sizes>/` holds the maps of one layout and size, `links/` the
//! attachments, named by their hooks. Programs of one layout never meet maps of another, because the path differs.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use agent_ebpf_common::schema::{ABI_HASH, MAPS};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel, maps::MapInfo, util::KernelVersion};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{DataplaneConfig, DataplaneError, TableSizes, maps::kernel};
use crate::sys::memory;

include!(concat!(env!("OUT_DIR"), "/datapath_object.rs"));

/// Entries of the source range trie: one for each range of each service port.
pub(super) fn source_ranges(sizes: &TableSizes) -> u32 {
    sizes.frontends.div_ceil(4).max(1024)
}
/// Datagrams whose fragments are under way.
const FRAGMENTS: u32 = 8192;
/// Below this, `bpf_ktime_get_coarse_ns`, socket storage in these hooks or namespace cookies are missing.
const OLDEST_KERNEL: (u8, u8) = (5, 15);

/// Why the datapath cannot start on this machine.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Built without the eBPF object.
    #[error("this agent was built without its eBPF programs: run `cargo xtask ebpf`, then build it again")]
    NoObject,
    /// Too old.
    #[error("the kernel is older than 5.15, the oldest this datapath runs on")]
    OldKernel,
    /// Not a bpf file system, and none could be mounted.
    #[error("no bpf file system at {path:?}, and none can be mounted there")]
    NoBpffs {
        /// Where.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A pinned map that is not what its path says.
    #[error(
        "pinned map {path:?} has another layout than this agent's: run `gantry-agent uninstall-datapath`"
    )]
    ForeignMap {
        /// Pin.
        path: PathBuf,
    },
}

/// The loaded object and where its maps are pinned.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) object: Ebpf,
    pub(super) maps: PathBuf,
    /// The maps were there already: what they hold is live.
    pub(super) reused: bool,
}

/// Loads the programs onto the pinned maps, made now where they are missing.
pub(super) fn load(config: &DataplaneConfig) -> Result<Loaded, DataplaneError> {
    let setup = |source| kernel("load", "the datapath", source);
    let object = EMBEDDED.ok_or_else(|| setup(SetupError::NoObject))?;
    let (major, minor) = OLDEST_KERNEL;
    if !kernel_at_least(major, minor) {
        return Err(setup(SetupError::OldKernel));
    }
    prepare_pins(&config.pins).map_err(setup)?;
    let maps = maps_directory(&config.pins, &config.sizes);
    let directory = |path: &Path| {
        make_directory(path).map_err(|source| kernel("pin", path.display().to_string(), source))
    };
    directory(&maps)?;
    directory(&links_directory(&config.pins))?;
    let reused = check_schema(&maps)?;
    let object = load_object(object, &maps, &config.sizes)?;
    Ok(Loaded { object, maps, reused })
}

fn load_object(object: &[u8], maps: &Path, sizes: &TableSizes) -> Result<Ebpf, DataplaneError> {
    // `bpf_set_retval` is 5.18; the programs' branch for it is dead code before.
    let set_retval = u32::from(kernel_at_least(5, 18));
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS).override_global("HAS_SET_RETVAL", &set_retval, true);
    // A set being replaced needs rows for the old and the new one.
    let rows = sizes.frontends + sizes.backends / 8;
    for (name, entries) in [
        ("FRONTENDS", sizes.frontends),
        ("HEADS", sizes.frontends),
        ("CONNECTIONS", sizes.frontends),
        ("SLOTS", rows),
        ("BACKENDS", sizes.backends),
        ("AFFINITY", sizes.affinity),
        ("FLOWS", sizes.flows),
        ("DATAGRAMS", sizes.flows),
        ("FRAGMENTS", FRAGMENTS),
        ("SOURCE_RANGES", source_ranges(sizes)),
        // Pods that are going and coming.
        ("POD_NETNS", sizes.pods * 4),
        ("POD_INTERFACES", sizes.pods * 4),
        ("ENDPOINTS", sizes.pods * 4),
    ] {
        loader.map_max_entries(name, entries);
    }
    for map in MAPS {
        loader.map_pin_path(map.name, maps.join(map.name));
    }
    let loaded = loader.load(object).map_err(|source| kernel("load", "the eBPF object", source));
    // The loader parses the kernel's own type information, 20 MB that nothing needs afterwards.
    drop(loader);
    memory::release_unused();
    loaded
}

/// Whether the running kernel is `major.minor` or newer.
pub(super) fn kernel_at_least(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|running| running >= KernelVersion::new(major, minor, 0))
}

/// The maps of this layout and these sizes: a pinned map keeps the size it was made with, so that other sizes need other
/// maps.
pub(super) fn maps_directory(pins: &Path, sizes: &TableSizes) -> PathBuf {
    let TableSizes { frontends, backends, affinity, flows, pods } = sizes;
    pins.join(format!("v{ABI_HASH:08x}-{frontends}-{backends}-{affinity}-{flows}-{pods}"))
}

/// The attachments.
pub(super) fn links_directory(pins: &Path) -> PathBuf {
    pins.join("links")
}

/// Removes maps of other layouts or sizes, once nothing runs on them.
pub(super) fn remove_other_layouts(pins: &Path, sizes: &TableSizes) -> io::Result<()> {
    let current = maps_directory(pins, sizes);
    for entry in fs::read_dir(pins)? {
        let path = entry?.path();
        let is_layout =
            path.is_dir() && path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"v"));
        if is_layout && path != current {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Makes the directory, on a bpf file system that is mounted there when it is not on one yet.
fn prepare_pins(pins: &Path) -> Result<(), SetupError> {
    let fail = |source| SetupError::NoBpffs { path: pins.to_owned(), source };
    make_directory(pins).map_err(fail)?;
    if !on_bpffs(pins).map_err(fail)? {
        mount(
            Some("bpf"),
            pins,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )
        .map_err(|errno| fail(errno.into()))?;
    }
    fs::set_permissions(pins, fs::Permissions::from_mode(0o700)).map_err(fail)
}

fn on_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Takes everything away below `pins`, and the mount when `pins` is one.
pub(super) fn remove_pins(pins: &Path) -> io::Result<()> {
    if !pins.exists() || !on_bpffs(pins)? {
        return Ok(());
    }
    let parent_is_bpffs = pins.parent().is_some_and(|parent| on_bpffs(parent).unwrap_or(false));
    for entry in fs::read_dir(pins)? {
        let entry = entry?;
        // A mounted bpf file system also holds files of the kernel's own (maps.debug, progs.debug).
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    if !parent_is_bpffs {
        umount2(pins, MntFlags::MNT_DETACH)?;
    }
    fs::remove_dir(pins)
}

/// Whether the maps exist, all with this agent's layout.
fn check_schema(directory: &Path) -> Result<bool, DataplaneError> {
    let mut found = 0;
    for map in MAPS {
        let path = directory.join(map.name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(|source| kernel("open", map.name, source))?;
        if (info.key_size(), info.value_size()) != (map.key, map.value) {
            return Err(kernel("reuse", map.name, SetupError::ForeignMap { path }));
        }
        found += 1;
    }
    Ok(found == MAPS.len())
}
