//! The datapath's kernel in plain memory: the maps as the table writes them, read by the code that the kernel runs.
//!
//! In: what a table writes, and when it dies. Out: what each address leads to, at any moment. It outlives the tables on
//! it, as the kernel outlives agents: all clones are one kernel. Readers are modelled at their slowest: each word that
//! was ever loaded must lead to the set that it led to until a grace period ends. Never: a decision of its own.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use agent_ebpf_common::{
    abi::{AffinityKey, AffinityValue, Backend, FrontendKey, Head, INSIDE, ROW},
    select::{self, Selection, Tables},
    words::{Handle, LOCAL, Publish},
};
use ipnet::Ipv4Net;

use super::{
    DataplaneError, lock,
    table::{Array, TableMaps},
};

/// The maps. A frontend that is inserted twice or removed when absent is an error, as it is to a kernel's reader.
#[derive(Debug)]
pub(super) struct Memory {
    kernel: Arc<Kernel>,
    /// Words of each array that whoever holds this has reached.
    reached: [usize; 3],
}

/// The same kernel, for somebody who has reached nothing yet.
impl Clone for Memory {
    fn clone(&self) -> Self {
        Self { kernel: Arc::clone(&self.kernel), reached: [0; 3] }
    }
}

#[derive(Debug)]
struct Kernel {
    /// By the number of the array.
    arrays: [Vec<AtomicU64>; 3],
    capacity: u32,
    random: AtomicU32,
    hashes: Mutex<Hashes>,
    script: Mutex<Script>,
}

#[derive(Debug, Default)]
struct Hashes {
    frontends: BTreeMap<FrontendKey, u32>,
    ranges: BTreeSet<(u32, Ipv4Net)>,
    /// By service index, what was counted.
    connections: BTreeMap<u32, u64>,
    node_addresses: BTreeSet<u32>,
    /// Changes so far.
    writes: usize,
}

#[derive(Default)]
struct Script {
    /// Writes of any kind so far.
    writes: usize,
    /// Writes that are still done; then the writer is dead.
    left: Option<usize>,
    /// After how many changes of a hash map the kernel refuses one.
    refuse_after: Option<usize>,
    /// Of which array the kernel lets nobody reach more.
    refuse_reach: Option<Array>,
    /// Looks at the maps before each write.
    observer: Option<Observer>,
    /// Words that a reader may still hold, with the set that each led to.
    held: BTreeMap<(u32, u64), Vec<Option<Destination>>>,
}

type Observer = Box<dyn FnMut(&Memory) + Send>;

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script")
            .field("writes", &self.writes)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// What a writer that dies is unwound with.
#[derive(Debug)]
struct Killed;

/// A backend as a reader gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Destination {
    pub(super) address: SocketAddrV4,
    pub(super) local: bool,
}

/// What is served at a frontend: the same on two kernels that were told the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// In the order of the slots; `None` is a slot that leads nowhere.
    pub(super) targets: Vec<Option<Destination>>,
    pub(super) flags: u16,
    pub(super) timeout: u32,
    pub(super) ranges: BTreeSet<Ipv4Net>,
}

/// What a frontend leads to.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) set: Set,
    /// Whom connections are counted and clients remembered for.
    pub(super) service: u32,
    /// By which flows and clients are bound.
    pub(super) handles: Vec<Handle>,
}

impl Memory {
    /// Where connections from inside go, by what the kernel runs: a client draws, and so often that what is never drawn is not
    /// there. `None` when nothing is reached there; empty when it is refused.
    ///
    /// # Panics
    /// When a connection would be dropped: of the services here, none may be.
    pub(super) fn answers(&self, to: SocketAddrV4, protocol: u8) -> Option<BTreeSet<SocketAddrV4>> {
        let address = u32::from_ne_bytes(to.ip().octets());
        let index = select::frontend(self, address, to.port().to_be(), protocol, INSIDE, false)?;
        let drawn = |_| match select::select(self, index, || 1) {
            Selection::Chosen(chosen) => Some(SocketAddrV4::new(
                chosen.backend.addr_be().to_ne_bytes().into(),
                u16::from_be(chosen.backend.port_be()),
            )),
            Selection::Refuse => None,
            Selection::Drop(reason) => panic!("dropped: {reason:?}"),
        };
        Some((0..400).filter_map(drawn).collect())
    }

    pub(super) fn new(frontends: u32, rows: usize, backends: usize) -> Self {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        let kernel = Arc::new(Kernel {
            arrays: [
                zeros(frontends as usize * Array::Heads.words()),
                zeros(rows * Array::Slots.words()),
                zeros(backends * Array::Backends.words()),
            ],
            capacity: frontends,
            random: AtomicU32::new(1),
            hashes: Mutex::default(),
            script: Mutex::default(),
        });
        Self { kernel, reached: [0; 3] }
    }

    fn array(&self, array: Array) -> &[AtomicU64] {
        &self.kernel.arrays[array as usize]
    }

    fn hashes(&self) -> MutexGuard<'_, Hashes> {
        lock(&self.kernel.hashes)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.kernel.script)
    }

    /// Changes of hash maps so far.
    pub(super) fn hash_writes(&self) -> usize {
        self.hashes().writes
    }

    /// Writes of any kind so far.
    pub(super) fn writes(&self) -> usize {
        self.script().writes
    }

    /// Frontends and source ranges there are.
    pub(super) fn sizes(&self) -> (usize, usize) {
        let hashes = self.hashes();
        (hashes.frontends.len(), hashes.ranges.len())
    }

    /// The kernel refuses the change of a hash map after so many more.
    pub(super) fn refuse_after(&self, changes: Option<usize>) {
        self.script().refuse_after = changes;
    }

    /// The kernel lets nobody reach more of this array.
    pub(super) fn refuse_reach(&self, array: Option<Array>) {
        self.script().refuse_reach = array;
    }

    /// Words of each array that this holder has reached.
    pub(super) fn reached(&self) -> [usize; 3] {
        self.reached
    }

    /// A word of an array, whoever has reached it.
    pub(super) fn raw(&self, array: Array, index: usize) -> &AtomicU64 {
        &self.array(array)[index]
    }

    /// Runs `work` and kills it when it wants to write once more than so often: none of its writes comes after that, no
    /// matter what it would have done. `None` when it was killed.
    pub(super) fn kill_after<T>(&self, writes: usize, work: impl FnOnce() -> T) -> Option<T> {
        self.script().left = Some(writes);
        let done = panic::catch_unwind(AssertUnwindSafe(work));
        self.script().left = None;
        match done {
            Ok(value) => Some(value),
            Err(cause) if is_kill(&*cause) => None,
            Err(cause) => panic::resume_unwind(cause),
        }
    }

    /// `observer` sees the maps before each write that `work` makes.
    pub(super) fn observed<T>(
        &self,
        observer: impl FnMut(&Self) + Send + 'static,
        work: impl FnOnce() -> T,
    ) -> T {
        self.script().observer = Some(Box::new(observer));
        let done = work();
        self.script().observer = None;
        done
    }

    /// All that read when this is called have ended.
    pub(super) fn grace(&self) {
        self.script().held.clear();
    }

    /// The node's own addresses, at which its ports answer.
    pub(super) fn set_node_addresses(&self, addresses: impl Iterator<Item = u32>) {
        self.hashes().node_addresses = addresses.collect();
    }

    /// A machine that was switched off knows nothing.
    pub(super) fn reboot(&self) {
        for word in self.kernel.arrays.iter().flatten() {
            word.store(0, Ordering::Release);
        }
        *self.hashes() = Hashes::default();
        *self.script() = Script::default();
    }

    /// Counts a connection to each frontend's service.
    pub(super) fn connect_to_all(&self) {
        let services: BTreeSet<u32> = self.served().values().map(|served| served.service).collect();
        let mut hashes = self.hashes();
        for service in services {
            *hashes.connections.entry(service).or_default() += 1;
        }
    }

    /// Connections counted by service index.
    pub(super) fn connections(&self, service: u32) -> u64 {
        self.hashes().connections.get(&service).copied().unwrap_or_default()
    }

    /// What each frontend leads to.
    pub(super) fn served(&self) -> BTreeMap<FrontendKey, Served> {
        let hashes = self.hashes();
        let served = hashes.frontends.iter().filter_map(|(&key, &index)| {
            let head = Tables::head(self, index)?;
            let (service, set) = (head.service(), Publish::unpack(head.word));
            let ranges = hashes.ranges.iter().filter(|(owner, _)| *owner == service);
            let served = Set {
                targets: self.set(set),
                flags: set.flags,
                timeout: head.timeout(),
                ranges: ranges.map(|(_, range)| *range).collect(),
            };
            Some((key, Served { set: served, service, handles: self.handles(set) }))
        });
        served.collect()
    }

    /// What each word that a reader may still hold no longer leads to.
    pub(super) fn broken_promises(&self) -> Vec<String> {
        let broken = |((_, word), set): (&(u32, u64), &Vec<Option<Destination>>)| {
            let now = self.set(Publish::unpack(*word));
            (now != *set).then(|| format!("{set:?} became {now:?}"))
        };
        self.script().held.iter().filter_map(broken).collect()
    }

    /// A reader loads the word behind each frontend, and takes its time.
    fn load_words(&self) {
        let indices: BTreeSet<u32> = self.hashes().frontends.values().copied().collect();
        for index in indices {
            let Some(head) = Tables::head(self, index) else { continue };
            let set = self.set(Publish::unpack(head.word));
            self.script().held.entry((index, head.word)).or_insert(set);
        }
    }

    fn handles(&self, set: Publish) -> Vec<Handle> {
        let handle = |slot| self.handle(set.row + slot / ROW, slot % ROW);
        (0..u32::from(set.slots)).filter_map(handle).collect()
    }

    fn set(&self, set: Publish) -> Vec<Option<Destination>> {
        let destination = |handle: Handle| {
            let backend = Tables::backend(self, handle.index()).filter(|backend| backend.alive(handle))?;
            let address = Ipv4Addr::from(backend.addr_be().to_ne_bytes());
            let address = SocketAddrV4::new(address, u16::from_be(backend.port_be()));
            Some(Destination { address, local: backend.flags() & LOCAL != 0 })
        };
        self.handles(set).into_iter().map(destination).collect()
    }

    /// What comes before every write.
    fn about_to_write(&self) {
        {
            let mut script = self.script();
            if script.left == Some(0) {
                drop(script);
                self.load_words();
                // No hook, no message: nobody hears of a SIGKILL.
                panic::resume_unwind(Box::new(Killed));
            }
            script.left = script.left.map(|left| left - 1);
            script.writes += 1;
        }
        let observer = self.script().observer.take();
        if let Some(mut observer) = observer {
            self.load_words();
            observer(self);
            self.script().observer = Some(observer);
        }
    }

    fn change(&self) -> Result<MutexGuard<'_, Hashes>, DataplaneError> {
        let left = self.script().refuse_after;
        if let Some(left) = left {
            self.script().refuse_after = left.checked_sub(1);
            if left == 0 {
                let (operation, subject) = ("update", "a map".to_owned());
                return Err(DataplaneError::Kernel { operation, subject, source: "refused".into() });
            }
        }
        self.about_to_write();
        let mut hashes = self.hashes();
        hashes.writes += 1;
        Ok(hashes)
    }
}

fn is_kill(cause: &(dyn Any + Send)) -> bool {
    cause.is::<Killed>()
}

fn wrong(subject: &str, source: &'static str) -> DataplaneError {
    DataplaneError::Kernel { operation: "update", subject: subject.to_owned(), source: source.into() }
}

impl TableMaps for Memory {
    fn elements(&self, array: Array) -> usize {
        self.array(array).len() / array.words()
    }

    /// What is not mapped cannot be read, and what is not there cannot be mapped.
    fn word(&self, array: Array, index: usize) -> &AtomicU64 {
        let reached = self.reached[array as usize];
        assert!(index < reached, "word {index} of {array:?}, of which {reached} are reached");
        &self.array(array)[index]
    }

    fn reach(&mut self, array: Array, elements: u32) -> Result<(), DataplaneError> {
        let words = elements as usize * array.words();
        assert!(words <= self.array(array).len(), "{elements} elements of {array:?}");
        let refused = self.script().refuse_reach == Some(array);
        let reached = &mut self.reached[array as usize];
        if words > *reached && refused {
            let (operation, subject) = ("map", format!("{array:?}"));
            return Err(DataplaneError::Kernel { operation, subject, source: "refused".into() });
        }
        *reached = words.max(*reached);
        Ok(())
    }

    fn keep(&mut self, array: Array, elements: u32) {
        let reached = &mut self.reached[array as usize];
        *reached = (*reached).min(elements as usize * array.words());
    }

    fn store(&self, word: &AtomicU64, value: u64, order: Ordering) {
        self.about_to_write();
        word.store(value, order);
    }

    fn wait_for_readers(&self) -> Result<(), DataplaneError> {
        self.grace();
        Ok(())
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, DataplaneError> {
        Ok(self.hashes().frontends.iter().map(|(&key, &index)| (key, index)).collect())
    }

    fn frontend_capacity(&self) -> u32 {
        self.kernel.capacity
    }

    fn source_ranges(&self) -> Result<Vec<(u32, Ipv4Net)>, DataplaneError> {
        Ok(self.hashes().ranges.iter().copied().collect())
    }

    fn insert_frontend(&mut self, key: FrontendKey, index: u32) -> Result<(), DataplaneError> {
        let capacity = self.kernel.capacity;
        if self.hashes().frontends.len() as u32 == capacity {
            return Err(DataplaneError::Full { map: "FRONTENDS", capacity, option: "frontends" });
        }
        match self.change()?.frontends.insert(key, index) {
            None => Ok(()),
            Some(_) => Err(wrong("FRONTENDS", "an element was replaced")),
        }
    }

    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), DataplaneError> {
        let removed = self.change()?.frontends.remove(&key);
        removed.map(drop).ok_or_else(|| wrong("FRONTENDS", "an element was removed twice"))
    }

    fn insert_source_range(&mut self, service: u32, range: Ipv4Net) -> Result<(), DataplaneError> {
        self.change()?.ranges.insert((service, range));
        Ok(())
    }

    fn remove_source_range(&mut self, service: u32, range: Ipv4Net) -> Result<(), DataplaneError> {
        let removed = self.change()?.ranges.remove(&(service, range));
        if removed { Ok(()) } else { Err(wrong("SOURCE_RANGES", "an element was removed twice")) }
    }

    fn reset_connections(&mut self, service: u32) {
        self.about_to_write();
        self.hashes().connections.remove(&service);
    }
}

/// The kernel's reads. (Affinity has its own tests with the core.)
impl Tables for Memory {
    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        self.hashes().frontends.get(key).copied()
    }

    fn is_node_address(&self, address: u32) -> bool {
        self.hashes().node_addresses.contains(&address)
    }

    fn address(&self, _handle: Handle, backend: &Backend) -> Option<u32> {
        Some(backend.addr_be())
    }

    fn head(&self, index: u32) -> Option<Head> {
        let words = self.array(Array::Heads).get(index as usize * 2..index as usize * 2 + 2)?;
        Some(Head { word: words[0].load(Ordering::Acquire), aux: words[1].load(Ordering::Relaxed) })
    }

    fn handle(&self, row: u32, lane: u32) -> Option<Handle> {
        let word = self.array(Array::Slots).get((row * 8 + lane / 2) as usize)?.load(Ordering::Relaxed);
        Some(Handle((word >> (lane % 2 * 32)) as u32))
    }

    fn backend(&self, index: u32) -> Option<Backend> {
        let words = self.array(Array::Backends).get(index as usize * 2..index as usize * 2 + 2)?;
        Some(Backend { target: words[0].load(Ordering::Acquire), state: words[1].load(Ordering::Relaxed) })
    }

    fn affinity(&self, _key: AffinityKey) -> Option<AffinityValue> {
        None
    }

    fn remember(&self, _value: AffinityValue) {}

    fn touch(&self, _key: AffinityKey, _now: u32) {}

    fn in_source_range(&self, service: u32, client_be: u32) -> bool {
        let client = Ipv4Addr::from(client_be.to_ne_bytes());
        let hashes = self.hashes();
        hashes.ranges.iter().any(|(owner, range)| *owner == service && range.contains(&client))
    }

    fn random(&self) -> u32 {
        let next = |seed: u32| Some(seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let drawn = self.kernel.random.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        drawn.unwrap_or_else(|seed| seed)
    }

    fn now(&self) -> u32 {
        0
    }
}
