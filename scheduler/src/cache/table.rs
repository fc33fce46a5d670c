//! One kind's objects in memory. Two sources feed it, the watch and our own writes; revisions decide which of
//! them is newer, so neither can put an old state over a new one or bring back what was deleted.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;

use super::{
    Cached,
    index::{By, Index},
};
use crate::model::{Object, ObjectError, Revision};

/// Namespace and name; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// The namespace or the empty string.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Id {
    /// From the two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Of an object.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
    }

    /// The namespace, `None` when cluster-scoped.
    pub fn scope(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(&*self.namespace)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope() {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One change of a table. At least one side is there.
pub struct Change<'a, T> {
    /// The state before.
    pub old: Option<&'a Arc<T>>,
    /// The state after; `None` when deleted.
    pub new: Option<&'a Arc<T>>,
}

impl<'a, T> Change<'a, T> {
    /// The state after, or the last one before the deletion.
    pub fn either(&self) -> Option<&'a Arc<T>> {
        self.new.or(self.old)
    }

    /// Both states that exist.
    pub fn both(&self) -> impl Iterator<Item = &'a Arc<T>> {
        self.old.into_iter().chain(self.new)
    }
}

type Handler<T> = Box<dyn Fn(&Change<'_, T>) + Send + Sync>;

struct Entry<T> {
    value: Arc<T>,
    revision: Revision,
}

struct State<T> {
    items: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Entry<T>>>,
    index: Index,
    len: usize,
}

/// Order of writes: everything that decides what is newer.
#[derive(Default)]
struct Order {
    /// The newest revision the watch has delivered.
    seen: Revision,
    /// UIDs that our own deletes removed and whose `Deleted` event has not come yet.
    gone: HashSet<String>,
}

/// All objects of one kind.
pub struct Table<T: Cached> {
    state: RwLock<State<T>>,
    order: Mutex<Order>,
    handlers: RwLock<Vec<Handler<T>>>,
    synced: watch::Sender<bool>,
    shared: T::Shared,
    /// How many objects were handed out besides those that were asked for by name.
    #[cfg(test)]
    given: std::sync::atomic::AtomicUsize,
}

impl<T: Cached> Default for Table<T> {
    fn default() -> Self {
        Self {
            state: RwLock::new(State { items: BTreeMap::new(), index: Index::default(), len: 0 }),
            order: Mutex::default(),
            handlers: RwLock::default(),
            synced: watch::Sender::new(false),
            shared: T::Shared::default(),
            #[cfg(test)]
            given: std::sync::atomic::AtomicUsize::default(),
        }
    }
}

impl<T: Cached> Table<T> {
    /// One object.
    pub fn get(&self, id: &Id) -> Option<Arc<T>> {
        let state = self.read();
        Some(state.items.get(&id.namespace)?.get(&id.name)?.value.clone())
    }

    /// All objects, ordered by namespace and name.
    pub fn all(&self) -> Vec<Arc<T>> {
        let state = self.read();
        self.giving(state.items.values().flat_map(BTreeMap::values).map(|e| e.value.clone()).collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.read().len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of one namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        let state = self.read();
        let names = state.items.get(namespace).into_iter();
        self.giving(names.flat_map(BTreeMap::values).map(|e| e.value.clone()).collect())
    }

    /// The objects whose controller reference points at `uid`.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<T>> {
        self.find(&By::Controller(uid.into()))
    }

    /// The objects that are bound to a node.
    pub fn on_node(&self, node: &str) -> Vec<Arc<T>> {
        self.find(&By::Node(node.into()))
    }

    /// The nodes that objects are bound to, whether they are there or not.
    pub fn nodes(&self) -> Vec<Arc<str>> {
        self.read().index.nodes()
    }

    /// The objects of a namespace that have no controller, where those are looked for.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<T>> {
        self.find(&By::Orphans(namespace.into()))
    }

    /// The objects that are finished.
    pub fn finished(&self) -> Vec<Arc<T>> {
        self.find(&By::Finished)
    }

    /// The objects that belong to a service.
    pub fn of_service(&self, service: &Id) -> Vec<Arc<T>> {
        self.find(&By::Service(service.namespace.clone(), service.name.clone()))
    }

    /// The objects of a namespace whose labels pass `keep`, ordered by name. It is asked once for each set of labels,
    /// however many bear it.
    pub fn labelled(&self, namespace: &str, keep: impl Fn(&BTreeMap<String, String>) -> bool) -> Vec<Arc<T>> {
        let state = self.read();
        self.giving(state.values(state.index.labelled(&namespace.into(), &[false, true], keep)))
    }

    /// Those of them that have no controller.
    pub fn unowned(&self, namespace: &str, keep: impl Fn(&BTreeMap<String, String>) -> bool) -> Vec<Arc<T>> {
        let state = self.read();
        self.giving(state.values(state.index.labelled(&namespace.into(), &[false], keep)))
    }

    /// The objects of a namespace that may select who bears these labels, ordered by name: those that pass `keep`, and no
    /// others are asked than those whose selectors name one of the labels, or none.
    pub fn selecting(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        keep: impl Fn(&T) -> bool,
    ) -> Vec<Arc<T>> {
        let state = self.read();
        let mut found = self.giving(state.values(state.index.may_select(&namespace.into(), labels)));
        found.retain(|object| keep(object));
        found
    }

    fn find(&self, by: &By) -> Vec<Arc<T>> {
        let state = self.read();
        self.giving(state.values(state.index.find(by)))
    }

    #[cfg(test)]
    fn giving(&self, found: Vec<Arc<T>>) -> Vec<Arc<T>> {
        self.given.fetch_add(found.len(), std::sync::atomic::Ordering::Relaxed);
        found
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests count what is handed out")]
    const fn giving(&self, found: Vec<Arc<T>>) -> Vec<Arc<T>> {
        found
    }

    /// How many objects were handed out besides those that were asked for by name.
    #[cfg(test)]
    pub(crate) fn given(&self) -> usize {
        self.given.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Calls `handler` for every later change, in order, while the table's order is locked: it must be quick
    /// and must not write to this table. Register before [`super::Cache::start`] to see everything.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, T>) + Send + Sync + 'static) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(handler));
    }

    /// Reads a stored object, to be kept here.
    pub(super) fn read_object(&self, object: &Object) -> Result<Arc<T>, ObjectError> {
        T::read(object, &self.shared).map(Arc::new)
    }

    /// Takes a state that the watch delivered.
    pub(super) fn observe(&self, value: &Arc<T>, revision: Revision) {
        let mut order = self.order();
        order.seen = order.seen.max(revision);
        if !order.gone.contains(uid(&**value)) {
            self.insert(value, revision);
        }
    }

    /// Takes a deletion that the watch delivered.
    pub(super) fn observe_deleted(&self, last: &T, revision: Revision) {
        let mut order = self.order();
        order.seen = order.seen.max(revision);
        order.gone.remove(uid(last));
        self.remove(&Id::of(last.metadata()), |entry| entry.revision <= revision);
    }

    /// Takes the result of a write of ours, unless the watch is already past it.
    pub(super) fn wrote(&self, value: &Arc<T>, revision: Revision) {
        let order = self.order();
        if revision > order.seen && !order.gone.contains(uid(&**value)) {
            self.insert(value, revision);
        }
    }

    /// Takes it that our own delete removed the object with `uid` for good.
    pub(super) fn wrote_deleted(&self, id: &Id, gone: &str) {
        let mut order = self.order();
        if self.remove(id, |entry| uid(&*entry.value) == gone) {
            order.gone.insert(gone.to_owned());
        }
    }

    /// Ends a fresh list: what it did not contain exists no more.
    pub(super) fn retain(&self, listed: &HashSet<Id>, at: Revision) {
        let mut order = self.order();
        order.seen = order.seen.max(at);
        order.gone.clear();
        let stale: Vec<Id> =
            self.all().iter().map(|o| Id::of(o.metadata())).filter(|id| !listed.contains(id)).collect();
        for id in stale {
            self.remove(&id, |entry| entry.revision <= at);
        }
        self.synced.send_replace(true);
    }

    /// Waits until everything that was stored when the watch began is here.
    pub async fn synced(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    pub(super) fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    fn insert(&self, value: &Arc<T>, revision: Revision) {
        let mut id = Id::of(value.metadata());
        let old = {
            let mut state = self.write();
            if let Some((namespace, _)) = state.items.get_key_value(&id.namespace) {
                id.namespace = namespace.clone();
            }
            let known = state.items.get(&id.namespace).and_then(|names| names.get(&id.name));
            if known.is_some_and(|entry| entry.revision >= revision) {
                return;
            }
            let entry = Entry { value: value.clone(), revision };
            let old = state.items.entry(id.namespace.clone()).or_default().insert(id.name.clone(), entry);
            state.reindex(&id, old.as_ref().map(|e| &*e.value), Some(&**value));
            old
        };
        self.notify(&Change { old: old.as_ref().map(|e| &e.value), new: Some(value) });
    }

    fn remove(&self, id: &Id, when: impl Fn(&Entry<T>) -> bool) -> bool {
        let old = {
            let mut state = self.write();
            let Some(names) = state.items.get_mut(&id.namespace) else { return false };
            if !names.get(&id.name).is_some_and(when) {
                return false;
            }
            let old = names.remove(&id.name);
            if names.is_empty() {
                state.items.remove(&id.namespace);
            }
            state.reindex(id, old.as_ref().map(|e| &*e.value), None);
            old
        };
        self.notify(&Change { old: old.as_ref().map(|e| &e.value), new: None });
        true
    }

    fn notify(&self, change: &Change<'_, T>) {
        for handler in self.handlers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            handler(change);
        }
    }

    // No code between lock and unlock panics half-way through a change, so a poisoned lock is still sound.
    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<T>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Cached> State<T> {
    /// Ordered by namespace and name, as everything that is found.
    fn values<'a>(&self, ids: impl Iterator<Item = &'a Id>) -> Vec<Arc<T>> {
        let mut ids: Vec<&Id> = ids.collect();
        ids.sort_unstable();
        let value = |id: &Id| Some(self.items.get(&id.namespace)?.get(&id.name)?.value.clone());
        ids.into_iter().filter_map(value).collect()
    }

    fn reindex(&mut self, id: &Id, old: Option<&T>, new: Option<&T>) {
        if old.is_none() {
            self.len += 1;
        }
        if new.is_none() {
            self.len -= 1;
        }
        self.index.change(id, old, new);
    }
}

fn uid<T: Cached>(object: &T) -> &str {
    object.metadata().uid.as_deref().unwrap_or("")
}
