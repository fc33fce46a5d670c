//! Services and the slices of their endpoints, compiled once for all nodes. In: both as they come and go, in any order.
//! Out: what all nodes are told of them. Never knows which node runs what.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use gantry_proto::node::v1 as pb;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use super::{
    changes::Changes,
    compile,
    item::{Audience, Body, Form, ItemKey, ItemKind, Name, NodeName, Parts, ToAll},
};

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

/// See the module.
#[derive(Default)]
pub(super) struct Services {
    entries: BTreeMap<Name, ServiceEntry>,
    /// The service that each slice belongs to.
    slice_owner: HashMap<Name, Name>,
    /// Those to be compiled again.
    dirty: BTreeSet<Name>,
}

impl Services {
    /// A Service came or changed.
    pub(super) fn service(&mut self, name: &Name, service: Service) {
        self.entries.entry(name.clone()).or_default().service = Some(service);
        self.dirty.insert(name.clone());
    }

    /// A Service was deleted.
    pub(super) fn service_gone(&mut self, name: &Name) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.service = None;
            self.dirty.insert(name.clone());
        }
    }

    /// An EndpointSlice came or changed; `owner` is the service it is labelled with.
    pub(super) fn slice(
        &mut self,
        slice: &Name,
        owner: Option<&str>,
        body: &EndpointSlice,
        changes: &mut Changes,
    ) {
        let owner = owner.map(|o| Name { namespace: slice.namespace.clone(), name: o.into() });
        if self.slice_owner.get(slice) != owner.as_ref() {
            self.slice_gone(slice, changes);
        }
        let Some(owner) = owner else { return };
        let entry = self.entries.entry(owner.clone()).or_default();
        let told = compile::slice(body);
        if entry.slices.get(&slice.name).is_some_and(|(_, old)| old.told == told) {
            return;
        }
        let told = ToAll::new(told);
        entry.parted = changes.advance();
        entry.slices.insert(slice.name.clone(), (entry.parted, told.clone()));
        let key = slice_key(&owner, &slice.name);
        self.slice_owner.insert(slice.clone(), owner.clone());
        self.dirty.insert(owner);
        changes.emit(Audience::All, key, Body::Slice(told));
    }

    /// An EndpointSlice was deleted.
    pub(super) fn slice_gone(&mut self, slice: &Name, changes: &mut Changes) {
        let Some(owner) = self.slice_owner.remove(slice) else { return };
        let Some(entry) = self.entries.get_mut(&owner) else { return };
        if entry.slices.remove(&slice.name).is_some() {
            entry.parted = changes.advance();
            let key = slice_key(&owner, &slice.name);
            self.dirty.insert(owner);
            changes.emit_removed(Audience::All, key);
        }
    }

    /// Other nodes than before may announce load balancer addresses.
    pub(super) fn announcers_changed(&mut self) {
        let balanced =
            |s: &ServiceEntry| s.compiled.as_ref().is_some_and(|(_, c)| !c.told.load_balancer_ips.is_empty());
        self.dirty.extend(self.entries.iter().filter(|(_, s)| balanced(s)).map(|(n, _)| n.clone()));
    }

    /// Compiles what changed since the last call.
    pub(super) fn compile(&mut self, announcers: &BTreeSet<NodeName>, changes: &mut Changes) {
        for name in std::mem::take(&mut self.dirty) {
            self.recompile(&name, announcers, changes);
        }
    }

    /// What a node is told of all of them; those of `after` and before may be left out.
    pub(super) fn told(&self, form: Form, after: u64) -> impl Iterator<Item = (u64, ItemKey, Body)> {
        self.entries.iter().flat_map(move |(name, entry)| entry.told(name, form, after))
    }

    fn recompile(&mut self, name: &Name, announcers: &BTreeSet<NodeName>, changes: &mut Changes) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let key = ItemKey::new(ItemKind::Service, name);
        let mut changed = std::mem::take(&mut entry.parted);
        let Some(service) = &entry.service else {
            let was_sent = entry.compiled.take().is_some();
            entry.whole = None;
            // Slices may outlive their service for a moment, or come before it.
            if entry.slices.is_empty() {
                self.entries.remove(name);
            }
            if was_sent {
                changes.advance();
                changes.emit_removed(Audience::All, key);
            }
            return;
        };
        let slices = entry.slices.values().map(|(_, slice)| slice);
        let compiled = compile::service(service, slices.clone().map(|slice| &slice.told), announcers);
        let same = entry.compiled.as_ref().filter(|(_, old)| old.told == compiled);
        let (service, is_news) = match same {
            Some((_, old)) => (old.clone(), false),
            None => (ToAll::new(compiled), true),
        };
        if is_news {
            changed = changes.advance();
        }
        if changed == 0 {
            return;
        }
        let whole = ToAll::new(Parts { service: service.clone(), slices: slices.cloned().collect() });
        entry.whole = Some((changed, whole.clone()));
        if is_news {
            entry.compiled = Some((changed, service.clone()));
            changes.emit(Audience::All, key.clone(), Body::Service(service));
        }
        changes.emit_of(changed, Audience::All, key, Body::Whole(whole));
    }
}

/// Names a slice of a service.
pub(super) fn slice_key(service: &Name, slice: &str) -> ItemKey {
    let name = format!("{}/{slice}", service.name).into();
    ItemKey::new(ItemKind::Slice, &Name { namespace: service.namespace.clone(), name })
}
