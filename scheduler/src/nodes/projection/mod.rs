//! Which objects each node needs, kept incrementally: a change costs what it changes, through reverse indexes,
//! and never a scan. Pure: changes of stored objects go in, items for nodes come out; no IO, no clock.
//!
//! A node is sent its own labels and taints, the pods bound to it, the secrets and config maps that those refer to (as
//! soon as both exist), all services and slices, compiled, and the other nodes. There is no way to ask for more: the
//! audience of an item follows from the objects alone.
//!
//! Generations are one clock for all nodes. A session that resumes at a generation is sent what changed since,
//! as the latest state of each object.

mod changes;
mod cluster;
mod compile;
mod item;
mod needs;
mod pod;
mod services;
mod view;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use changes::Changes;
pub(crate) use cluster::NodeFacts;
use cluster::{Cluster, own_key};
pub(crate) use item::{Audience, Body, Form, Item, ItemKey, ItemKind, Name, NodeName, SharedKind};
use needs::Needs;
use pod::PodFacts;
use services::Services;

use crate::model::{Object, ObjectError, Revision};

/// The whole projection.
#[derive(Default)]
pub(crate) struct Projection {
    needs: Needs,
    services: Services,
    cluster: Cluster,
    changes: Changes,
}

impl Projection {
    /// The latest generation.
    pub(crate) fn generation(&self) -> u64 {
        self.changes.generation()
    }

    /// The revision of a Node that was told last.
    pub(crate) fn known(&self, node: &str) -> Option<Revision> {
        self.cluster.known(node)
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
        let old = self.needs.pod(&name);
        if old.is_some_and(|old| old.same_for_node(&new)) {
            self.needs.keep(name, new);
            return Ok(());
        }
        if old.is_some_and(|old| old.uid != new.uid || old.node != new.node) {
            self.pod_gone(&name);
        }
        // What no node has is nothing to any.
        let Some(at) = new.node.clone() else { return Ok(()) };
        // Whoever bound it may have done so by a label or a taint that the watch of nodes has not told us yet.
        if self.needs.pod(&name).is_none()
            && let Some(newer) = node(&at, self.known(&at))
        {
            self.node(&at, newer);
        }
        self.needs.pod_changed(name, new, &at, &mut self.changes);
        Ok(())
    }

    /// A pod was deleted.
    pub(crate) fn pod_gone(&mut self, name: &Name) {
        self.needs.pod_gone(name, &mut self.changes);
    }

    /// A Secret or ConfigMap came or changed.
    pub(crate) fn shared(&mut self, kind: SharedKind, name: &Name, json: &Bytes) {
        self.needs.shared(kind, name, json, &mut self.changes);
    }

    /// A Secret or ConfigMap was deleted.
    pub(crate) fn shared_gone(&mut self, kind: SharedKind, name: &Name) {
        self.needs.shared_gone(kind, name, &mut self.changes);
    }

    /// A Service came or changed.
    pub(crate) fn service(&mut self, name: &Name, service: Service) {
        self.services.service(name, service);
    }

    /// A Service was deleted.
    pub(crate) fn service_gone(&mut self, name: &Name) {
        self.services.service_gone(name);
    }

    /// An EndpointSlice came or changed; `owner` is the service it is labelled with.
    pub(crate) fn slice(&mut self, slice: &Name, owner: Option<&str>, body: &EndpointSlice) {
        self.services.slice(slice, owner, body, &mut self.changes);
    }

    /// An EndpointSlice was deleted.
    pub(crate) fn slice_gone(&mut self, slice: &Name) {
        self.services.slice_gone(slice, &mut self.changes);
    }

    /// A Node came or changed.
    pub(crate) fn node(&mut self, name: &NodeName, facts: NodeFacts) {
        if self.cluster.node(name, facts, &mut self.changes) {
            self.services.announcers_changed();
        }
    }

    /// A Node was deleted.
    pub(crate) fn node_gone(&mut self, name: &NodeName) {
        if self.cluster.known(name).is_some() {
            self.needs.node_gone(name, own_key(name), &mut self.changes);
        }
        if self.cluster.node_gone(name, &mut self.changes) {
            self.services.announcers_changed();
        }
    }

    /// Everything that the changes since the last call mean for nodes, in order of generations.
    pub(crate) fn flush(&mut self) -> Vec<(Audience, Item)> {
        self.services.compile(self.cluster.announcers(), &mut self.changes);
        self.changes.take()
    }

    /// Everything that `node` needs now: what pods refer to before the pods. Call after `flush`.
    pub(crate) fn snapshot(&self, node: &str, form: Form) -> Vec<Item> {
        self.state_after(node, form, 0).collect()
    }

    /// What changed for `node` after `generation`, in order; `None` when removals since were forgotten or the
    /// generation is not one of ours.
    pub(crate) fn since(&self, node: &str, form: Form, generation: u64) -> Option<Vec<Item>> {
        if generation > self.generation() {
            return None;
        }
        let removed = self.changes.removed().after(generation)?;
        let mut items: Vec<Item> = self.state_after(node, form, generation).collect();
        let removal = |(generation, key): &(u64, ItemKey)| Item {
            generation: *generation,
            key: key.clone(),
            body: Body::Removed,
        };
        let others = removed.filter(|(_, k)| k.kind != ItemKind::Peer || &*k.name.name != node);
        items.extend(others.map(removal).filter(|item| item.is_for(form)));
        if let Some(view) = self.needs.view(node) {
            items.extend(view.removed.after(generation)?.map(removal));
        }
        items.sort_by_key(|i| i.generation);
        Some(items)
    }

    fn state_after<'a>(&'a self, node: &'a str, form: Form, after: u64) -> impl Iterator<Item = Item> + 'a {
        let (own, peers) = (self.cluster.own(node), self.cluster.peers(node));
        let all = own.into_iter().chain(peers).chain(self.services.told(form, after));
        let newer =
            all.chain(self.needs.told(node, after)).filter(move |(generation, ..)| *generation > after);
        newer.map(|(generation, key, body)| Item { generation, key, body })
    }
}
