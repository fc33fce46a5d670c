//! What the objects of a table are found by besides their names, so that no change of one object costs a look at the
//! others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{Cached, Id};

/// Labels, shared by all that bear them.
pub(super) type Labels = Arc<BTreeMap<String, String>>;

/// By what an object is found besides its name and its controller.
#[derive(Clone, Debug, Default)]
pub struct Found<'a> {
    /// The node that it is bound to.
    pub node: Option<&'a str>,
    /// Its labels, where objects of its kind are selected.
    pub labels: Option<&'a Arc<BTreeMap<String, String>>>,
    /// The service that it belongs to.
    pub service: Option<&'a str>,
    /// Whom it selects.
    pub selects: Selects<'a>,
    /// Whether it is looked for while it has no controller.
    pub as_orphan: bool,
    /// Whether it has done all that it ever will.
    pub finished: bool,
}

/// Whom an object selects, as far as the index knows it.
#[derive(Clone, Copy, Debug, Default)]
pub enum Selects<'a> {
    /// Nobody.
    #[default]
    Nobody,
    /// Only who bears this label.
    With(&'a str, &'a str),
    /// Whom, its selector tells.
    Some,
}

/// One thing to find objects by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum By {
    /// The uid in the controller reference.
    Controller(Arc<str>),
    /// The node that they are bound to.
    Node(Arc<str>),
    /// The namespace, of those that have no controller.
    Orphans(Arc<str>),
    /// That they are finished.
    Finished,
    /// Namespace and labels, and whether they have a controller.
    Labels(Arc<str>, Labels, bool),
    /// Namespace and name of the service that they belong to.
    Service(Arc<str>, Arc<str>),
    /// The namespace, and a label that whom they select must bear, if there is one.
    Selects(Arc<str>, Option<(Arc<str>, Arc<str>)>),
}

/// Who is found by what.
#[derive(Default)]
pub(super) struct Index {
    ids: HashMap<By, HashSet<Id>>,
    /// The label sets of each namespace, of those that have a controller and of those that have none.
    labels: HashMap<(Arc<str>, bool), HashSet<Labels>>,
}

impl Index {
    /// An object changed from `old` to `new`, of which one at least is there.
    pub(super) fn change<T: Cached>(&mut self, id: &Id, old: Option<&T>, new: Option<&T>) {
        let (before, after) = (keys(id, old), keys(id, new));
        for gone in before.difference(&after) {
            if let Some(ids) = self.ids.get_mut(gone) {
                ids.remove(id);
                if ids.is_empty() {
                    self.ids.remove(gone);
                    self.forget(gone);
                }
            }
        }
        for came in after.difference(&before) {
            self.ids.entry(came.clone()).or_default().insert(id.clone());
            if let By::Labels(namespace, labels, owned) = came {
                self.labels.entry((namespace.clone(), *owned)).or_default().insert(labels.clone());
            }
        }
    }

    fn forget(&mut self, by: &By) {
        let By::Labels(namespace, labels, owned) = by else { return };
        let place = (namespace.clone(), *owned);
        if let Some(sets) = self.labels.get_mut(&place) {
            sets.remove(labels);
            if sets.is_empty() {
                self.labels.remove(&place);
            }
        }
    }

    /// Those that are found by this.
    pub(super) fn find<'a>(&'a self, by: &By) -> impl Iterator<Item = &'a Id> + use<'a> {
        self.ids.get(by).into_iter().flatten()
    }

    /// Those of a namespace, with a controller or without one as `owned` says, whose labels pass `keep`, which is asked
    /// once for each set of labels that either bear.
    pub(super) fn labelled<'a>(
        &'a self,
        namespace: &'a Arc<str>,
        owned: &'a [bool],
        keep: impl Fn(&BTreeMap<String, String>) -> bool,
    ) -> impl Iterator<Item = &'a Id> {
        let sets = owned.iter().flat_map(move |owned| {
            let sets = self.labels.get(&(namespace.clone(), *owned)).into_iter().flatten();
            sets.map(move |labels| (labels, *owned))
        });
        sets.filter(move |(labels, _)| keep(labels))
            .flat_map(move |(labels, owned)| self.find(&By::Labels(namespace.clone(), labels.clone(), owned)))
    }

    /// Those of a namespace that may select who bears these labels.
    pub(super) fn may_select<'a>(
        &'a self,
        namespace: &'a Arc<str>,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Id> {
        let each = labels.iter().map(|(key, value)| Some((key.as_str().into(), value.as_str().into())));
        each.chain([None]).flat_map(move |label| self.find(&By::Selects(namespace.clone(), label)))
    }

    /// The nodes that anything is bound to.
    pub(super) fn nodes(&self) -> Vec<Arc<str>> {
        let nodes = self.ids.keys().filter_map(|by| match by {
            By::Node(node) => Some(node.clone()),
            _ => None,
        });
        nodes.collect()
    }
}

fn keys<T: Cached>(id: &Id, object: Option<&T>) -> BTreeSet<By> {
    let Some(object) = object else { return BTreeSet::new() };
    let namespace = || id.namespace.clone();
    let owners = object.metadata().owner_references.as_deref().unwrap_or_default();
    let controller = owners.iter().find(|owner| owner.controller == Some(true));
    let Found { node, labels, service, selects, as_orphan, finished } = object.found_by();
    let selects = match selects {
        Selects::Nobody => None,
        Selects::With(key, value) => Some(Some((key.into(), value.into()))),
        Selects::Some => Some(None),
    };
    let keys = [
        controller.map(|owner| By::Controller(owner.uid.as_str().into())),
        node.map(|node| By::Node(node.into())),
        labels.map(|labels| By::Labels(namespace(), labels.clone(), controller.is_some())),
        service.map(|service| By::Service(namespace(), service.into())),
        selects.map(|label| By::Selects(namespace(), label)),
        (as_orphan && controller.is_none()).then(|| By::Orphans(namespace())),
        finished.then_some(By::Finished),
    ];
    keys.into_iter().flatten().collect()
}
