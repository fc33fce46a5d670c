//! Which objects each node needs, kept incrementally: a change costs what it changes, through reverse indexes,
//! and never a scan. Pure: changes of stored objects go in, items for nodes come out; no IO, no clock.
//!
//! A node is sent its own labels and taints, the pods bound to it, the secrets and config maps that those refer to (as
//! soon as both exist), all services and slices, compiled, and the other nodes. There is no way to ask for more: the
//! audience of an item follows from the objects alone.
//!
//! Generations are one clock for all nodes. A session that resumes at a generation is sent what changed since,
//! as the latest state of each object.

mod compile;
mod item;
mod pod;
mod view;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use gantry_proto::node::v1 as pb;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

pub(crate) use item::{Audience, Body, Form, Item, ItemKey, ItemKind, Name, NodeName, SharedKind};
use item::{Parts, Reference, ToAll};
use pod::PodFacts;
use view::{NodeView, PodView, Tombstones};

use crate::model::{Object, ObjectError, Revision};

/// What the projection needs of a Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    /// Internal addresses.
    pub(crate) addresses: Vec<String>,
    /// Ranges of its pods.
    pub(crate) pod_cidrs: Vec<String>,
    /// Ready, and not excluded from announcing load balancer addresses.
    pub(crate) announces: bool,
    /// What the node is told of itself.
    pub(crate) own: Bytes,
    /// Of the object.
    pub(crate) revision: Revision,
}

struct NodeEntry {
    facts: NodeFacts,
    /// At which generation the node was told of itself.
    told: u64,
    peer: Option<(u64, Arc<ToAll<pb::Peer>>)>,
}

#[derive(Default)]
struct ServiceEntry {
    service: Option<Service>,
    slices: BTreeMap<Arc<str>, (u64, Arc<ToAll<pb::EndpointSlice>>)>,
    /// Without endpoints.
    compiled: Option<(u64, Arc<ToAll<pb::Service>>)>,
    /// With them; put together when the first agent asks for it that does not do so itself.
    whole: Option<(u64, Arc<ToAll<Parts>>)>,
    /// The generation of the latest change of a slice since `whole`; 0 when there was none.
    parted: u64,
}

impl ServiceEntry {
    /// What a node is told of it that is newer than `after`: slices first, so that it is whole when it comes.
    fn told<'a>(
        &'a self,
        name: &'a Name,
        form: Form,
        after: u64,
    ) -> impl Iterator<Item = (u64, ItemKey, Body)> + 'a {
        let (apart, key) = (form == Form::Apart, move || ItemKey::new(ItemKind::Service, name));
        let slices = self.slices.iter().filter(move |(_, (generation, _))| apart && *generation > after);
        let slices = slices.map(move |(slice, (generation, told))| {
            (*generation, slice_key(name, slice), Body::Slice(told.clone()))
        });
        let service = self.compiled.iter().filter(move |_| apart);
        let service = service.map(move |(at, told)| (*at, key(), Body::Service(told.clone())));
        let whole = self.whole.iter().filter(move |_| !apart);
        let whole = whole.map(move |(at, parts)| (*at, key(), Body::Whole(parts.clone())));
        slices.chain(service).chain(whole)
    }
}

/// The whole projection.
#[derive(Default)]
pub(crate) struct Projection {
    generation: u64,
    /// Those that have a node.
    pods: HashMap<Name, PodFacts>,
    /// Bodies of all secrets and config maps.
    shared: HashMap<Reference, Bytes>,
    /// Which nodes have a pod that refers to it.
    users: HashMap<Reference, BTreeSet<NodeName>>,
    views: HashMap<NodeName, NodeView>,
    services: BTreeMap<Name, ServiceEntry>,
    /// The service that each slice belongs to.
    slice_owner: HashMap<Name, Name>,
    dirty: BTreeSet<Name>,
    nodes: BTreeMap<NodeName, NodeEntry>,
    announcers: BTreeSet<NodeName>,
    /// Removed services and peers.
    removed: Tombstones,
    out: Vec<(Audience, Item)>,
}

impl Projection {
    /// The latest generation.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The revision of a Node that was told last.
    pub(crate) fn known(&self, node: &str) -> Option<Revision> {
        self.nodes.get(node).map(|entry| entry.facts.revision)
    }

    /// A pod came or changed; `handler` is that of its runtime class, `node` what is newer of its node than what is known.
    pub(crate) fn pod(
        &mut self,
        object: &Arc<Object>,
        handler: impl Fn(&str) -> Option<String>,
        node: impl Fn(&str, Option<Revision>) -> Option<NodeFacts>,
    ) -> Result<(), ObjectError> {
        let name = Name::new(object.key.namespace_str(), &object.key.name);
        let new = PodFacts::read(object, handler)?;
        let old = self.pods.get(&name);
        if old.is_some_and(|old| old.same_for_node(&new)) {
            // Kept for the next snapshot: an agent without memory of the pod starts from this status.
            self.pods.insert(name, new);
            return Ok(());
        }
        if old.is_some_and(|old| old.uid != new.uid || old.node != new.node) {
            self.pod_gone(&name);
        }
        let old_references = self.pods.get(&name).map(|p| p.references.clone()).unwrap_or_default();
        // What no node has is nothing to any.
        let Some(at) = new.node.clone() else { return Ok(()) };
        // Whoever bound it may have done so by a label or a taint that the watch of nodes has not told us yet.
        if !self.pods.contains_key(&name)
            && let Some(newer) = node(&at, self.known(&at))
        {
            self.node(&at, newer);
        }
        let node = at;
        // What it refers to goes first, so that the pod can start when it arrives.
        for reference in new.references.difference(&old_references) {
            self.refer(&node, reference);
        }
        self.generation += 1;
        let view = self.views.entry(node.clone()).or_default();
        view.pods.insert(name.clone(), PodView { uid: new.uid.clone(), generation: self.generation });
        let key = ItemKey::pod(&name, &new.uid);
        if let Some(json) = new.json() {
            self.emit(Audience::One(node.clone()), key, Body::Json(json));
        }
        for reference in old_references.difference(&new.references) {
            self.unrefer(&node, reference);
        }
        self.pods.insert(name, new);
        Ok(())
    }

    /// A pod was deleted.
    pub(crate) fn pod_gone(&mut self, name: &Name) {
        let Some(old) = self.pods.remove(name) else { return };
        let Some(node) = old.node else { return };
        self.generation += 1;
        let key = ItemKey::pod(name, &old.uid);
        let view = self.views.entry(node.clone()).or_default();
        view.pods.remove(name);
        view.removed.push(self.generation, key.clone());
        self.emit(Audience::One(node.clone()), key, Body::Removed);
        for reference in &old.references {
            self.unrefer(&node, reference);
        }
    }

    /// A Secret or ConfigMap came or changed.
    pub(crate) fn shared(&mut self, kind: SharedKind, name: &Name, json: &Bytes) {
        let reference = (kind, name.clone());
        self.shared.insert(reference.clone(), json.clone());
        for node in self.users.get(&reference).cloned().unwrap_or_default() {
            self.give(&node, &reference, json.clone());
        }
    }

    /// A Secret or ConfigMap was deleted.
    pub(crate) fn shared_gone(&mut self, kind: SharedKind, name: &Name) {
        let reference = (kind, name.clone());
        if self.shared.remove(&reference).is_none() {
            return;
        }
        for node in self.users.get(&reference).cloned().unwrap_or_default() {
            self.take_back(&node, &reference);
        }
    }

    /// A Service came or changed.
    pub(crate) fn service(&mut self, name: &Name, service: Service) {
        self.services.entry(name.clone()).or_default().service = Some(service);
        self.dirty.insert(name.clone());
    }

    /// A Service was deleted.
    pub(crate) fn service_gone(&mut self, name: &Name) {
        if let Some(entry) = self.services.get_mut(name) {
            entry.service = None;
            self.dirty.insert(name.clone());
        }
    }

    /// An EndpointSlice came or changed; `owner` is the service it is labelled with.
    pub(crate) fn slice(&mut self, slice: &Name, owner: Option<&str>, body: &EndpointSlice) {
        let owner = owner.map(|o| Name { namespace: slice.namespace.clone(), name: o.into() });
        if self.slice_owner.get(slice) != owner.as_ref() {
            self.slice_gone(slice);
        }
        let Some(owner) = owner else { return };
        let entry = self.services.entry(owner.clone()).or_default();
        let told = compile::slice(body);
        if entry.slices.get(&slice.name).is_some_and(|(_, old)| old.told == told) {
            return;
        }
        self.generation += 1;
        let told = ToAll::new(told);
        entry.slices.insert(slice.name.clone(), (self.generation, told.clone()));
        entry.parted = self.generation;
        let key = slice_key(&owner, &slice.name);
        self.slice_owner.insert(slice.clone(), owner.clone());
        self.dirty.insert(owner);
        self.emit(Audience::All, key, Body::Slice(told));
    }

    /// An EndpointSlice was deleted.
    pub(crate) fn slice_gone(&mut self, slice: &Name) {
        let Some(owner) = self.slice_owner.remove(slice) else { return };
        let Some(entry) = self.services.get_mut(&owner) else { return };
        if entry.slices.remove(&slice.name).is_some() {
            self.generation += 1;
            entry.parted = self.generation;
            let key = slice_key(&owner, &slice.name);
            self.dirty.insert(owner);
            self.removed.push(self.generation, key.clone());
            self.emit(Audience::All, key, Body::Removed);
        }
    }

    /// A Node came or changed.
    pub(crate) fn node(&mut self, name: &NodeName, facts: NodeFacts) {
        let old = self.nodes.get(name);
        if old.is_some_and(|old| facts.revision < old.facts.revision) {
            return;
        }
        let own_changed = old.is_none_or(|old| old.facts.own != facts.own);
        let moved = old.is_none_or(|old| {
            old.facts.addresses != facts.addresses || old.facts.pod_cidrs != facts.pod_cidrs
        });
        let known = old.is_some_and(|old| old.peer.is_some());
        self.announce(name, facts.announces);
        let mut told = self.nodes.get(name).map_or(0, |old| old.told);
        if own_changed {
            self.generation += 1;
            told = self.generation;
            self.emit(Audience::One(name.clone()), own_key(name), Body::Json(facts.own.clone()));
        }
        if !moved {
            if let Some(entry) = self.nodes.get_mut(name) {
                (entry.facts, entry.told) = (facts, told);
            }
            return;
        }
        // Before it has an address and a range there is nowhere to route to.
        let peer = (!facts.addresses.is_empty() && !facts.pod_cidrs.is_empty()).then(|| {
            let (addresses, pod_cidrs) = (facts.addresses.clone(), facts.pod_cidrs.clone());
            ToAll::new(pb::Peer { addresses, pod_cidrs })
        });
        if peer.is_some() || known {
            self.generation += 1;
            self.emit_peer(name, peer.clone());
        }
        let peer = peer.map(|p| (self.generation, p));
        self.nodes.insert(name.clone(), NodeEntry { facts, told, peer });
    }

    /// A Node was deleted.
    pub(crate) fn node_gone(&mut self, name: &NodeName) {
        self.announce(name, false);
        let Some(old) = self.nodes.remove(name) else { return };
        self.generation += 1;
        let view = self.views.entry(name.clone()).or_default();
        view.removed.push(self.generation, own_key(name));
        self.emit(Audience::One(name.clone()), own_key(name), Body::Removed);
        if old.peer.is_some() {
            self.generation += 1;
            self.emit_peer(name, None);
        }
    }

    /// Everything that the changes since the last call mean for nodes, in order of generations.
    pub(crate) fn flush(&mut self) -> Vec<(Audience, Item)> {
        for name in std::mem::take(&mut self.dirty) {
            self.recompile(&name);
        }
        let mut out = std::mem::take(&mut self.out);
        // A whole service is of the generation of its latest part, and made after all of them.
        out.sort_by_key(|(_, item)| item.generation);
        out
    }

    /// Everything that `node` needs now: what pods refer to before the pods. Call after `flush`.
    pub(crate) fn snapshot(&self, node: &str, form: Form) -> Vec<Item> {
        self.state_after(node, form, 0).collect()
    }

    /// What changed for `node` after `generation`, in order; `None` when removals since were forgotten or the
    /// generation is not one of ours.
    pub(crate) fn since(&self, node: &str, form: Form, generation: u64) -> Option<Vec<Item>> {
        if generation > self.generation {
            return None;
        }
        let removed = self.removed.after(generation)?;
        let mut items: Vec<Item> = self.state_after(node, form, generation).collect();
        let removal = |(generation, key): &(u64, ItemKey)| Item {
            generation: *generation,
            key: key.clone(),
            body: Body::Removed,
        };
        let others = removed.filter(|(_, k)| k.kind != ItemKind::Peer || &*k.name.name != node);
        items.extend(others.map(removal).filter(|item| item.is_for(form)));
        if let Some(view) = self.views.get(node) {
            items.extend(view.removed.after(generation)?.map(removal));
        }
        items.sort_by_key(|i| i.generation);
        Some(items)
    }

    fn state_after<'a>(&'a self, node: &'a str, form: Form, after: u64) -> impl Iterator<Item = Item> + 'a {
        let item = move |generation: u64, key: ItemKey, body: Body| {
            (generation > after).then_some(Item { generation, key, body })
        };
        let peers =
            self.nodes.iter().filter(move |(name, _)| &***name != node).filter_map(move |(name, n)| {
                let (generation, peer) = n.peer.as_ref()?;
                item(*generation, peer_key(name), Body::Peer(peer.clone()))
            });
        let services = self.services.iter().flat_map(move |(name, s)| s.told(name, form, after));
        let services = services.filter_map(move |(generation, key, body)| item(generation, key, body));
        let view = self.views.get(node);
        let shared = view.into_iter().flat_map(|v| &v.shared).filter_map(move |(reference, s)| {
            let body = Body::Json(self.shared.get(reference)?.clone());
            item(s.generation?, ItemKey::new(reference.0.into(), &reference.1), body)
        });
        let pods = view.into_iter().flat_map(|v| &v.pods).filter_map(move |(name, p)| {
            let body = Body::Json(self.pods.get(name)?.json()?);
            item(p.generation, ItemKey::pod(name, &p.uid), body)
        });
        let own = self
            .nodes
            .get_key_value(node)
            .and_then(|(name, entry)| item(entry.told, own_key(name), Body::Json(entry.facts.own.clone())));
        own.into_iter().chain(peers).chain(services).chain(shared).chain(pods)
    }

    /// One more pod of `node` refers to it.
    fn refer(&mut self, node: &NodeName, reference: &Reference) {
        let view = self.views.entry(node.clone()).or_default();
        let shared = view.shared.entry(reference.clone()).or_default();
        shared.users += 1;
        if shared.users == 1 {
            self.users.entry(reference.clone()).or_default().insert(node.clone());
            if let Some(json) = self.shared.get(reference).cloned() {
                self.give(node, reference, json);
            }
        }
    }

    /// One pod less of `node` refers to it.
    fn unrefer(&mut self, node: &NodeName, reference: &Reference) {
        let Some(view) = self.views.get_mut(node) else { return };
        let Some(shared) = view.shared.get_mut(reference) else { return };
        shared.users -= 1;
        if shared.users > 0 {
            return;
        }
        self.take_back(node, reference);
        if let Some(view) = self.views.get_mut(node) {
            view.shared.remove(reference);
        }
        if let Some(nodes) = self.users.get_mut(reference) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.users.remove(reference);
            }
        }
    }

    fn give(&mut self, node: &NodeName, reference: &Reference, json: Bytes) {
        self.generation += 1;
        if let Some(shared) = self.views.get_mut(node).and_then(|v| v.shared.get_mut(reference)) {
            shared.generation = Some(self.generation);
        }
        let key = ItemKey::new(reference.0.into(), &reference.1);
        self.emit(Audience::One(node.clone()), key, Body::Json(json));
    }

    fn take_back(&mut self, node: &NodeName, reference: &Reference) {
        let Some(view) = self.views.get_mut(node) else { return };
        let Some(shared) = view.shared.get_mut(reference) else { return };
        if shared.generation.take().is_none() {
            return;
        }
        self.generation += 1;
        let key = ItemKey::new(reference.0.into(), &reference.1);
        view.removed.push(self.generation, key.clone());
        self.emit(Audience::One(node.clone()), key, Body::Removed);
    }

    fn announce(&mut self, node: &NodeName, announces: bool) {
        let changed =
            if announces { self.announcers.insert(node.clone()) } else { self.announcers.remove(node) };
        if changed {
            let balanced = |s: &ServiceEntry| {
                s.compiled.as_ref().is_some_and(|(_, c)| !c.told.load_balancer_ips.is_empty())
            };
            self.dirty.extend(self.services.iter().filter(|(_, s)| balanced(s)).map(|(n, _)| n.clone()));
        }
    }

    fn recompile(&mut self, name: &Name) {
        let Some(entry) = self.services.get_mut(name) else { return };
        let key = ItemKey::new(ItemKind::Service, name);
        let mut changed = std::mem::take(&mut entry.parted);
        let Some(service) = &entry.service else {
            let was_sent = entry.compiled.take().is_some();
            entry.whole = None;
            // Slices may outlive their service for a moment, or come before it.
            if entry.slices.is_empty() {
                self.services.remove(name);
            }
            if was_sent {
                self.generation += 1;
                self.removed.push(self.generation, key.clone());
                self.emit(Audience::All, key, Body::Removed);
            }
            return;
        };
        let slices = entry.slices.values().map(|(_, slice)| slice);
        let compiled = compile::service(service, slices.clone().map(|slice| &slice.told), &self.announcers);
        let same = entry.compiled.as_ref().filter(|(_, old)| old.told == compiled);
        let (service, is_news) = match same {
            Some((_, old)) => (old.clone(), false),
            None => (ToAll::new(compiled), true),
        };
        if is_news {
            self.generation += 1;
            changed = self.generation;
        }
        if changed == 0 {
            return;
        }
        let whole = ToAll::new(Parts { service: service.clone(), slices: slices.cloned().collect() });
        entry.whole = Some((changed, whole.clone()));
        if is_news {
            entry.compiled = Some((changed, service.clone()));
            self.emit(Audience::All, key.clone(), Body::Service(service));
        }
        self.out.push((Audience::All, Item { generation: changed, key, body: Body::Whole(whole) }));
    }

    fn emit_peer(&mut self, name: &NodeName, peer: Option<Arc<ToAll<pb::Peer>>>) {
        let key = peer_key(name);
        if peer.is_none() {
            self.removed.push(self.generation, key.clone());
        }
        self.emit(Audience::AllBut(name.clone()), key, peer.map_or(Body::Removed, Body::Peer));
    }

    fn emit(&mut self, audience: Audience, key: ItemKey, body: Body) {
        self.out.push((audience, Item { generation: self.generation, key, body }));
    }
}

fn peer_key(name: &NodeName) -> ItemKey {
    of_cluster(ItemKind::Peer, name)
}

fn own_key(name: &NodeName) -> ItemKey {
    of_cluster(ItemKind::Node, name)
}

fn of_cluster(kind: ItemKind, name: &NodeName) -> ItemKey {
    ItemKey::new(kind, &Name { namespace: "".into(), name: name.clone() })
}

fn slice_key(service: &Name, slice: &str) -> ItemKey {
    let name = format!("{}/{slice}", service.name).into();
    ItemKey::new(ItemKind::Slice, &Name { namespace: service.namespace.clone(), name })
}
