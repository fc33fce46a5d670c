//! The `bpf(2)` commands that aya 0.14 does not offer: updating a cgroup link in place, and a map of maps used
//! as a wait for an RCU grace period.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// `union bpf_attr` for BPF_MAP_CREATE, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// ... for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// ... for BPF_OBJ_GET.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// ... for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct ObjGetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of `struct bpf_link_info` as it is for a tc link.
#[repr(C)]
#[derive(Default)]
struct TcLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    interface: u32,
    side: u32,
}

/// ... for BPF_LINK_UPDATE.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// ... for BPF_LINK_DETACH.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

fn bpf<A>(command: libc::c_int, attributes: &A) -> io::Result<libc::c_long> {
    // SAFETY: every `A` above is repr(C), laid out as the head of `union bpf_attr` for its command, lives across
    // the call and is passed with its true size; the kernel takes the rest as zero. Pointers inside it are valid
    // for the call (their callers hold the data).
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(descriptor: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(descriptor as libc::c_int) }
}

fn raw(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// Opens a pinned map, program or link.
pub(crate) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    bpf(BPF_OBJ_GET, &attributes).map(owned)
}

/// Replaces the program of a link in one step: at every instant exactly one of the two is attached.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = LinkUpdate { link_fd: raw(link), new_prog_fd: raw(program), flags: 0, old_prog_fd: 0 };
    bpf(BPF_LINK_UPDATE, &attributes).map(drop)
}

/// Index of the interface that a tc link is at; 0 when the interface is gone.
pub(crate) fn tc_link_interface(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = TcLinkInfo::default();
    let (bpf_fd, info_len) = (raw(link), size_of::<TcLinkInfo>() as u32);
    let attributes = ObjGetInfo { bpf_fd, info_len, info: std::ptr::from_mut(&mut info) as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(info.interface)
}

/// Detaches a link from its hook, also while others hold it.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &LinkDetach { link_fd: raw(link) }).map(drop)
}

/// Waits until every program that was running has ended.
///
/// A store into a map of maps returns to user space only after an RCU grace period, because a program may hold
/// the old inner map (`maybe_wait_bpf_programs`, since 5.0). Nothing reads this map: the wait is all it is for.
/// It takes some 10 ms, so it belongs in a batch off the publish path.
#[derive(Debug)]
pub(crate) struct GracePeriod {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl GracePeriod {
    /// Makes the two maps.
    pub(crate) fn new() -> io::Result<Self> {
        let array = MapCreate {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            ..MapCreate::default()
        };
        let inner = bpf(BPF_MAP_CREATE, &array).map(owned)?;
        let of_maps =
            MapCreate { map_type: BPF_MAP_TYPE_ARRAY_OF_MAPS, inner_map_fd: raw(inner.as_fd()), ..array };
        let outer = bpf(BPF_MAP_CREATE, &of_maps).map(owned)?;
        Ok(Self { outer, inner })
    }

    /// Waits.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let (key, value) = (0_u32, raw(self.inner.as_fd()));
        let attributes = MapUpdate {
            map_fd: raw(self.outer.as_fd()),
            pad: 0,
            key: std::ptr::from_ref(&key) as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &attributes).map(drop)
    }
}

#[cfg(test)]
mod tests;
