//! The maps, and the lookups of `agent-ebpf-common` on them.
//!
//! Sizes here are floors; the agent sets the configured ones at load.

use core::cell::Cell;
use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use agent_ebpf_common::{
    abi::{
        AffinityKey, AffinityValue, Backend, Endpoint, Flow, FlowKey, FragmentKey, FrontendKey, Head, Reason,
        Settings, SlotRow, SocketState, SourceRangeKey, TCP,
    },
    family::{V4, V6},
    flows::{Element, Maps, Scratch},
    guard::{Drops, Ends},
    nat::Entry,
    parse::Fragments,
    select::Tables,
    tag::{Digest, Tagged},
    words::{Handle, TICK_SHIFT},
};
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::SkStorage,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns},
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
};

/// Frontend to index into `HEADS`. Insert- and delete-only.
#[map]
static FRONTENDS: HashMap<FrontendKey, Tagged> = HashMap::with_max_entries(1024, 0);

#[map]
static HEADS: Array<Head> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

#[map]
static SLOTS: Array<SlotRow> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

#[map]
static BACKENDS: Array<Backend> = Array::with_max_entries(1024, BPF_F_MMAPABLE);

#[map]
static AFFINITY: LruHashMap<AffinityKey, AffinityValue> = LruHashMap::with_max_entries(4096, 0);

#[map]
static NODE_ADDRESSES: HashMap<u32, u32> = HashMap::with_max_entries(256, 0);

/// Network namespace cookie to index into `ENDPOINTS`. Insert- and delete-only.
#[map]
static POD_NETNS: HashMap<u64, Tagged> = HashMap::with_max_entries(4096, 0);

/// Interface to index into `ENDPOINTS`. Insert- and delete-only.
#[map]
static POD_INTERFACES: HashMap<u32, Tagged> = HashMap::with_max_entries(4096, 0);

#[map]
static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(4096, BPF_F_MMAPABLE);

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketState> = SkStorage::new();

#[map]
static SOURCE_RANGES: LpmTrie<SourceRangeKey, u32> = LpmTrie::with_max_entries(1024, BPF_F_NO_PREALLOC);

#[map]
static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(64, 0);

/// New connections and datagram flows by service index.
#[map]
static CONNECTIONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1024, 0);

/// TCP flows of the packet path. An LRU: elements may be recycled under a reader, so values repeat their key.
#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(4096, 0);

/// Datagram flows: apart, so that a flood of questions to a name server pushes out no idle connection.
#[map]
static DATAGRAMS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(4096, 0);

/// A [`Scratch`], which as a cell could not be a static's.
#[map]
static SCRATCH: PerCpuArray<[u64; size_of::<Scratch<V4>>() / 8]> = PerCpuArray::with_max_entries(1, 0);

#[map]
static FRAGMENTS: LruHashMap<FragmentKey, Tagged> = LruHashMap::with_max_entries(4096, 0);

/// The settings the agent wrote.
#[inline(always)]
pub(crate) fn settings() -> Settings {
    let Some(settings) = SETTINGS.get_ptr(0) else { return Settings::default() };
    // SAFETY: the verifier checked the bounds; the words are aligned and change only by whole stores.
    unsafe {
        Settings {
            host_cookie: read_volatile(addr_of!((*settings).host_cookie)),
            flags_and_uplink: read_volatile(addr_of!((*settings).flags_and_uplink)),
        }
    }
}

/// The address of the pod that owns a network namespace; 0 when none does.
#[inline(always)]
pub(crate) fn client_of(netns: u64) -> V4 {
    let found = own(POD_NETNS.get_ptr(&netns), &netns).and_then(endpoint);
    found.filter(|endpoint| endpoint.netns == netns).map_or(0, |endpoint| endpoint.v4())
}

/// A pod's element, without its IPv6 address. The caller compares its name with the one it came by.
#[inline(always)]
fn endpoint(index: u32) -> Option<Endpoint> {
    let endpoint = ENDPOINTS.get_ptr(index)?;
    // SAFETY: in bounds by the verifier; aligned words. It may become another pod's meanwhile: that begins with the
    // name, which is read last.
    unsafe {
        let place = read_volatile(addr_of!((*endpoint).place));
        Some(Endpoint { netns: read_volatile(addr_of!((*endpoint).netns)), place, v6: [0; 4] })
    }
}

/// What an element of a hash map holds for `key`. It may have been deleted since it was looked up, and already be
/// another key's: then there is none.
#[inline(always)]
fn own<K: Digest>(element: Option<*const Tagged>, key: &K) -> Option<u32> {
    // SAFETY: an element of the map, which the kernel frees at the earliest when the program has ended. It may be
    // recycled under the read, which the tag shows.
    unsafe { read_volatile(element?) }.of(key)
}

#[inline(always)]
fn bump(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
        // SAFETY: this CPU's own element; programs of one type do not preempt each other on a CPU.
        unsafe { *counter += 1 };
    }
}

/// The clock in ticks.
#[inline(always)]
fn ticks() -> u32 {
    // SAFETY: no arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
}

/// The kernel's maps as the core reads them.
pub(crate) struct KernelMaps;

impl Tables<V4> for KernelMaps {
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        own(FRONTENDS.get_ptr(key), key)
    }

    #[inline(always)]
    fn is_node_address(&self, address: V4) -> bool {
        NODE_ADDRESSES.get_ptr(&address).is_some()
    }

    #[inline(always)]
    fn head(&self, index: u32) -> Option<Head> {
        let head = HEADS.get_ptr(index)?;
        // SAFETY: in bounds by the verifier; `word` is one aligned load, published by one aligned store.
        Some(unsafe {
            let word = read_volatile(addr_of!((*head).word));
            Head { word, aux: read_volatile(addr_of!((*head).aux)) }
        })
    }

    #[inline(always)]
    fn handle(&self, row: u32, lane: u32) -> Option<Handle> {
        let row = SLOTS.get_ptr(row)?.cast::<u32>();
        // SAFETY: a row has 16 lanes, the mask keeps within it, which is also what the verifier wants to see.
        Some(Handle(unsafe { read_volatile(row.add((lane & 15) as usize)) }))
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<Backend> {
        let backend = BACKENDS.get_ptr(index)?;
        // SAFETY: in bounds by the verifier; two aligned words, checked against the handle's generation after. The
        // state first: while it says "active" of the old owner, the grace period before a new one waits for this run.
        Some(unsafe {
            let state = read_volatile(addr_of!((*backend).state));
            Backend { target: read_volatile(addr_of!((*backend).target)), state }
        })
    }

    #[inline(always)]
    fn address(&self, _handle: Handle, backend: &Backend) -> Option<V4> {
        Some(backend.addr_be())
    }

    #[inline(always)]
    fn affinity(&self, key: AffinityKey) -> Option<AffinityValue> {
        // SAFETY: the element may be recycled under the read; the caller compares the repeated key.
        unsafe { AFFINITY.get(&key) }.copied()
    }

    #[inline(always)]
    fn remember(&self, value: AffinityValue) {
        // A full table evicts; when even that fails the client is bound at its next connection.
        let _ = AFFINITY.insert(&value.key, &value, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn touch(&self, key: AffinityKey, now: u32) {
        if let Some(value) = AFFINITY.get_ptr_mut(&key) {
            // SAFETY: an element of the map. Should it have been recycled meanwhile, another client stays bound
            // a little longer.
            unsafe { write_volatile(addr_of_mut!((*value).last), now) };
        }
    }

    #[inline(always)]
    fn in_source_range(&self, service: u32, client_be: u32) -> bool {
        let key = Key::new(64, SourceRangeKey { service_be: service.to_be(), addr_be: client_be });
        SOURCE_RANGES.get(&key).is_some()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        ticks()
    }
}

impl Fragments<V4> for KernelMaps {
    #[inline(always)]
    fn ports(&self, key: &FragmentKey) -> Option<u32> {
        own(FRAGMENTS.get_ptr(key), key)
    }

    #[inline(always)]
    fn remember_ports(&self, key: &FragmentKey, ports: u32) {
        // A full table evicts.
        let _ = FRAGMENTS.insert(key, &Tagged::new(key, ports), u64::from(BPF_ANY));
    }
}

impl Maps<V4> for KernelMaps {
    type Element = FlowElement;

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<FlowElement> {
        let element = if key.proto == TCP { FLOWS.get_ptr_mut(key) } else { DATAGRAMS.get_ptr_mut(key) };
        element.map(FlowElement)
    }

    #[inline(always)]
    fn add_flow(&self, entry: &Cell<Entry<V4>>) -> Result<(), Reason> {
        write(entry, BPF_NOEXIST)
    }

    #[inline(always)]
    fn put_flow(&self, entry: &Cell<Entry<V4>>) -> Result<(), Reason> {
        write(entry, BPF_ANY)
    }

    #[inline(always)]
    fn scratch(&self) -> Option<&Scratch<V4>> {
        let scratch = SCRATCH.get_ptr(0)?;
        // SAFETY: this CPU's own element of the same size, aligned to eight bytes; packet programs do not preempt each
        // other on a CPU. Any bytes are an entry, and zeros or what was written are a packet.
        Some(unsafe { &*scratch.cast::<Scratch<V4>>() })
    }

    #[inline(always)]
    fn node(&self) -> V4 {
        (settings().flags_and_uplink >> 32) as u32
    }

    #[inline(always)]
    fn count_connection(&self, service: u32) {
        bump(CONNECTIONS.get_ptr_mut(service));
    }
}

impl Drops for KernelMaps {
    #[inline(always)]
    fn count_drop(&self, reason: Reason) {
        bump(DROPS.get_ptr_mut(reason as u32));
    }
}

impl Ends<V4> for KernelMaps {
    #[inline(always)]
    fn pod_behind(&self, interface: u32) -> Option<V4> {
        let found = own(POD_INTERFACES.get_ptr(&interface), &interface).and_then(endpoint);
        found.filter(|endpoint| endpoint.interface() == interface).map(|endpoint| endpoint.v4())
    }
}

impl Ends<V6> for KernelMaps {
    #[inline(always)]
    fn pod_behind(&self, interface: u32) -> Option<V6> {
        let index = own(POD_INTERFACES.get_ptr(&interface), &interface)?;
        // SAFETY: in bounds by the verifier; aligned. It may become another pod's meanwhile: that begins with the name,
        // which is read after it.
        let v6 = unsafe { read_volatile(addr_of!((*ENDPOINTS.get_ptr(index)?).v6)) };
        endpoint(index).filter(|endpoint| endpoint.interface() == interface).map(|_| v6)
    }
}

#[inline(always)]
fn write(entry: &Cell<Entry<V4>>, flags: u32) -> Result<(), Reason> {
    // SAFETY: of the scratch, which nobody writes meanwhile.
    let (key, flow) = unsafe { (&(*entry.as_ptr()).key, &(*entry.as_ptr()).flow) };
    let flags = u64::from(flags);
    let written =
        if key.proto == TCP { FLOWS.insert(key, flow, flags) } else { DATAGRAMS.insert(key, flow, flags) };
    written.map_err(|_| Reason::FlowTableFull)
}

/// An element of `FLOWS` or `DATAGRAMS`.
pub(crate) struct FlowElement(*mut Flow);

impl Element<V4> for FlowElement {
    #[inline(always)]
    fn read(&self) -> Flow {
        // SAFETY: an element of the map; it may be recycled meanwhile, which the tag shows.
        unsafe { read_volatile(self.0) }
    }

    #[inline(always)]
    fn set_last(&self, last: u32) {
        // SAFETY: as above; what a recycled element then says is harmless by this method's contract.
        unsafe { write_volatile(addr_of_mut!((*self.0).last), last) };
    }

    #[inline(always)]
    fn set_flags(&self, flags: u32) {
        // SAFETY: as above.
        unsafe { write_volatile(addr_of_mut!((*self.0).flags), flags) };
    }
}
