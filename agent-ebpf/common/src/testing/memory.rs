//! A packet and the maps in plain memory.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use super::Book;
use crate::{
    abi::{AffinityKey, AffinityValue, Backend, Flow, FlowKey, FragmentKey, FrontendKey, Head, ROW, Reason},
    admit::Audits,
    flows::{Element, Maps, Scratch},
    guard::{Drops, Ends},
    nat::{Entry, Tuple, pod},
    parse::{Fragments, Kind, Packet},
    policy::{PeerKey, Policies, RangeKey, RuleKey, SetHead},
    select::{Chosen, Tables},
    tag::Tagged,
    wire::{Sum, Wire},
    words::{Handle, Publish},
};

/// A packet.
pub(crate) struct Bytes(pub(crate) RefCell<Vec<u8>>, pub(crate) u32);

impl Bytes {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self::at(bytes, 0)
    }

    /// At an interface.
    pub(crate) fn at(bytes: &[u8], interface: u32) -> Self {
        Self(RefCell::new(bytes.to_vec()), interface)
    }

    fn amend(&self, sum: Sum, from: &[u8], to: &[u8]) -> Option<()> {
        let at = sum.at as usize;
        let old: [u8; 2] = self.0.borrow().get(at..at + 2)?.try_into().ok()?;
        if sum.optional && old == [0, 0] {
            return Some(());
        }
        // RFC 1624, equation 3, word by word.
        let mut new = u16::from_be_bytes(old);
        for (from, to) in from.chunks(2).zip(to.chunks(2)) {
            let (from, to) = (u16::from_be_bytes([from[0], from[1]]), u16::from_be_bytes([to[0], to[1]]));
            let mut total = u32::from(!new) + u32::from(!from) + u32::from(to);
            while total > 0xffff {
                total = (total & 0xffff) + (total >> 16);
            }
            new = !(total as u16);
        }
        if sum.optional && new == 0 {
            new = 0xffff;
        }
        self.0.borrow_mut()[at..at + 2].copy_from_slice(&new.to_be_bytes());
        Some(())
    }
}

impl Wire for Bytes {
    fn interface(&self) -> u32 {
        self.1
    }
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.borrow().get(offset as usize..offset as usize + N)?.try_into().ok()
    }
    fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> Option<()> {
        self.0.borrow_mut().get_mut(offset as usize..offset as usize + N)?.copy_from_slice(bytes);
        Some(())
    }
    fn amend_header(&self, at: u32, from: u32, to: u32) -> Option<()> {
        let sum = Sum { at, optional: false, pseudo: false };
        self.amend(sum, &from.to_ne_bytes(), &to.to_ne_bytes())
    }
    fn amend_half(&self, sum: Sum, from: u16, to: u16) -> Option<()> {
        self.amend(sum, &from.to_ne_bytes(), &to.to_ne_bytes())
    }
    fn amend_word(&self, sum: Sum, from: u32, to: u32) -> Option<()> {
        self.amend(sum, &from.to_ne_bytes(), &to.to_ne_bytes())
    }
    fn amend_wide(&self, sum: Sum, from: &[u32; 4], to: &[u32; 4]) -> Option<()> {
        let bytes = |words: &[u32; 4]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
        self.amend(sum, &bytes(from), &bytes(to))
    }
    fn resize(&self, length: u32) -> Option<()> {
        self.0.borrow_mut().resize(length as usize, 0);
        Some(())
    }
}

/// An element that its readers share.
type Shared<A> = Rc<Cell<Flow<A>>>;

/// The maps.
pub(crate) struct Memory<A> {
    pub(crate) frontends: HashMap<FrontendKey<A>, u32>,
    heads: Vec<Head>,
    slots: Vec<Handle>,
    backends: Vec<(Backend, A)>,
    pub(crate) node_addresses: HashSet<A>,
    pub(crate) node: A,
    pub(crate) pods: HashMap<u32, A>,
    affinity: RefCell<HashMap<AffinityKey<A>, AffinityValue<A>>>,
    pub(crate) flows: RefCell<HashMap<FlowKey<A>, Shared<A>>>,
    fragments: RefCell<HashMap<FragmentKey<A>, u32>>,
    /// Classes of addresses, and of sets their heads and rules.
    pub(crate) classes: HashMap<A, u32>,
    pub(crate) sets: HashMap<u32, SetHead>,
    pub(crate) rules: HashSet<RuleKey>,
    pub(crate) audited: Cell<u32>,
    /// No flow can be added any more.
    pub(crate) full: bool,
    pub(crate) drops: RefCell<Vec<Reason>>,
    pub(crate) connections: Cell<u32>,
    random: Cell<u32>,
    scratch: Scratch<A>,
    pub(crate) now: Cell<u32>,
}

fn nowhere<A: Book>() -> Tuple<A> {
    Tuple { src_be: A::NONE, dst_be: A::NONE, sport_be: 0, dport_be: 0, proto: 0 }
}

fn no_packet<A: Book>() -> Cell<Packet<A>> {
    Cell::new(Packet { tuple: nowhere(), l4: 0, tcp_flags: 0, kind: Kind::Other })
}

fn nothing<A: Book>() -> Cell<Entry<A>> {
    let chosen =
        Chosen { handle: Handle(0), backend: Backend::default(), addr_be: A::NONE, service: 0, flags: 0 };
    Cell::new(pod(nowhere(), &chosen, 0).0)
}

impl<A: Book> Memory<A> {
    pub(crate) fn new(node: IpAddr) -> Self {
        Self {
            frontends: HashMap::new(),
            heads: Vec::new(),
            slots: Vec::new(),
            backends: Vec::new(),
            node_addresses: [A::of(node)].into(),
            node: A::of(node),
            pods: HashMap::new(),
            affinity: RefCell::default(),
            flows: RefCell::default(),
            fragments: RefCell::default(),
            classes: HashMap::new(),
            sets: HashMap::new(),
            rules: HashSet::new(),
            audited: Cell::new(0),
            full: false,
            drops: RefCell::default(),
            connections: Cell::new(0),
            random: Cell::new(1),
            scratch: Scratch {
                packet: no_packet(),
                there: nothing(),
                back: nothing(),
                exit: nothing(),
                reply: nothing(),
            },
            now: Cell::new(1000),
        }
    }

    /// A set of its own for each service; the index of its head.
    pub(crate) fn put_set(&mut self, flags: u16, backends: &[SocketAddr], backend_flags: u8) -> u32 {
        let service = self.heads.len() as u32;
        let row = self.slots.len() as u32 / ROW;
        let publish = Publish { row, slots: backends.len() as u16, flags, epoch: 0 };
        self.heads.push(Head { word: publish.pack(), aux: Head::aux(service, 1000) });
        for end in backends {
            self.slots.push(Handle::new(self.backends.len() as u32, 3));
            let backend = Backend::new(0, end.port().to_be(), 3, backend_flags, service);
            self.backends.push((backend, A::of(end.ip())));
        }
        self.slots.resize(self.slots.len().next_multiple_of(ROW as usize), Handle(0));
        service
    }

    /// Serves an address and port from a set.
    pub(crate) fn serve(&mut self, at: Option<IpAddr>, port: u16, proto: u8, scope: u8, index: u32) {
        let key = FrontendKey { addr_be: at.map_or(A::NONE, A::of), port_be: port.to_be(), proto, scope };
        assert_eq!(self.frontends.insert(key, index), None);
    }
}

impl<A: Book> Tables<A> for Memory<A> {
    fn frontend(&self, key: &FrontendKey<A>) -> Option<u32> {
        self.frontends.get(key).copied()
    }
    fn is_node_address(&self, address: A) -> bool {
        self.node_addresses.contains(&address)
    }
    fn head(&self, index: u32) -> Option<Head> {
        self.heads.get(index as usize).copied()
    }
    fn handle(&self, row: u32, lane: u32) -> Option<Handle> {
        self.slots.get((row * ROW + lane) as usize).copied()
    }
    fn backend(&self, index: u32) -> Option<Backend> {
        self.backends.get(index as usize).map(|(backend, _)| *backend)
    }
    fn address(&self, handle: Handle, _backend: &Backend) -> Option<A> {
        self.backends.get(handle.index() as usize).map(|(_, address)| *address)
    }
    fn affinity(&self, key: AffinityKey<A>) -> Option<AffinityValue<A>> {
        self.affinity.borrow().get(&key).copied()
    }
    fn remember(&self, value: AffinityValue<A>) {
        self.affinity.borrow_mut().insert(value.key, value);
    }
    fn touch(&self, key: AffinityKey<A>, now: u32) {
        if let Some(value) = self.affinity.borrow_mut().get_mut(&key) {
            value.last = now;
        }
    }
    fn in_source_range(&self, _service: u32, _client: A) -> bool {
        false
    }
    fn random(&self) -> u32 {
        self.random.set(self.random.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        self.random.get()
    }
    fn now(&self) -> u32 {
        self.now.get()
    }
}

impl<A: Book> Fragments<A> for Memory<A> {
    fn ports(&self, key: &FragmentKey<A>) -> Option<u32> {
        self.fragments.borrow().get(key).copied()
    }
    fn remember_ports(&self, key: &FragmentKey<A>, ports: u32) {
        self.fragments.borrow_mut().insert(*key, ports);
    }
}

impl<A: Book> Element<A> for Shared<A> {
    fn read(&self) -> Flow<A> {
        self.get()
    }
    fn set_last(&self, last: u32) {
        self.set(Flow { last, ..self.get() });
    }
    fn set_flags(&self, flags: u32) {
        self.set(Flow { flags, ..self.get() });
    }
}

impl<A: Book> Maps<A> for Memory<A> {
    type Element = Shared<A>;
    fn flow(&self, key: &FlowKey<A>) -> Option<Self::Element> {
        self.flows.borrow().get(key).cloned()
    }
    fn add_flow(&self, entry: &Cell<Entry<A>>) -> Result<(), Reason> {
        if self.flows.borrow().contains_key(&entry.get().key) {
            return Err(Reason::FlowTableFull);
        }
        self.put_flow(entry)
    }
    fn put_flow(&self, entry: &Cell<Entry<A>>) -> Result<(), Reason> {
        if self.full {
            return Err(Reason::FlowTableFull);
        }
        let Entry { key, flow } = entry.get();
        self.flows.borrow_mut().insert(key, Rc::new(Cell::new(flow)));
        Ok(())
    }
    fn scratch(&self) -> Option<&Scratch<A>> {
        Some(&self.scratch)
    }
    fn node(&self) -> A {
        self.node
    }
    fn count_connection(&self, _service: u32) {
        self.connections.set(self.connections.get() + 1);
    }
}

impl<A: Book> Drops for Memory<A> {
    fn count_drop(&self, reason: Reason) {
        self.drops.borrow_mut().push(reason);
    }
}

impl<A: Book> Ends<A> for Memory<A> {
    fn pod_behind(&self, interface: u32) -> Option<A> {
        self.pods.get(&interface).copied()
    }
}

impl<A: Book> Audits for Memory<A> {
    fn count_audited(&self) {
        self.audited.set(self.audited.get() + 1);
    }
}

/// Without peers and ranges, which have tests of their own.
impl<A: Book> Policies<A> for Memory<A> {
    fn peer(&self, _key: &PeerKey<A>) -> Option<u32> {
        None
    }
    fn peer_word(&self, _index: u32) -> Option<Tagged> {
        None
    }
    fn world(&self, address: A) -> Option<u32> {
        self.classes.get(&address).copied()
    }
    fn set(&self, set: u32) -> Option<SetHead> {
        self.sets.get(&set).copied()
    }
    fn rule(&self, key: &RuleKey) -> Option<u32> {
        self.rules.contains(key).then_some(1)
    }
    fn range(&self, _key: &RangeKey) -> Option<u32> {
        None
    }
}
