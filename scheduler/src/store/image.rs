//! The in-memory image: current objects and recent changes of each resource. Every implementation of the
//! store keeps one; reads and watches are served from it alone.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use serde_json::Value;
use tokio::sync::watch;

use super::{Change, Event, Expect, Scan, Snapshot, StoreError, Watcher};
use crate::model::{Key, Object, Paths, Resource, Revision, Shared};

/// What the histories of all resources may keep alive besides the present objects, in bytes. A watcher that was away
/// for as long as so much took to change resumes without a new list; one that is away longer lists again. Every
/// resource reaches back to the same revision: a busy one shortens the memory of a quiet one by no more than its share.
const HISTORY_BYTES: usize = 16 << 20;
/// What an object takes besides its JSON, about.
const OVERHEAD: usize = 512;

/// The label sets of all objects, each once: most objects are one of many that bear the same.
type LabelSets = Shared<BTreeMap<String, String>>;

/// The image behind its lock.
#[derive(Debug, Default)]
pub(super) struct Image {
    state: RwLock<State>,
    labels: Mutex<LabelSets>,
}

#[derive(Debug, Default)]
struct State {
    revision: Revision,
    tables: HashMap<Resource, Table>,
    /// The resources of the events in all histories, oldest first, each with its revision and weight.
    order: VecDeque<(Resource, usize)>,
    /// Weight of all histories.
    weight: usize,
    /// History before this was never here: the store was opened at it.
    opened: Revision,
}

#[derive(Debug)]
struct Table {
    objects: BTreeMap<Key, Arc<Object>>,
    history: VecDeque<Arc<Event>>,
    /// The newest revision that the history no longer has.
    compacted: Revision,
    /// Wakes watchers.
    changed: watch::Sender<()>,
    /// What its objects are indexed by, where that changed since the store was opened.
    paths: Option<Paths>,
}

impl Table {
    fn new(compacted: Revision) -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            compacted,
            changed: watch::Sender::new(()),
            paths: None,
        }
    }

    fn apply(&mut self, event: Arc<Event>) {
        // Written by whoever has not heard of the change yet.
        let late = self.paths.as_ref().filter(|paths| !event.object.fields.are_at(paths));
        let event = late.map(|paths| Arc::new(indexed(&event, paths))).unwrap_or(event);
        if event.deleted {
            self.objects.remove(&event.object.key);
        } else {
            self.objects.insert(event.object.key.clone(), event.object.clone());
        }
        self.history.push_back(event);
    }

    fn renew(&mut self, paths: &Paths, form: &dyn Fn(&mut Value)) {
        for object in self.objects.values_mut() {
            if let Some(renewed) = object.renewed(paths, form) {
                *object = Arc::new(renewed);
            }
        }
        for event in self.history.iter_mut().filter(|event| !event.object.fields.are_at(paths)) {
            *event = Arc::new(indexed(event, paths));
        }
        self.paths = Some(paths.clone());
    }

    fn forget_oldest(&mut self) {
        if let Some(event) = self.history.pop_front() {
            self.compacted = event.revision();
        }
    }

    fn after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.history.range(self.history.partition_point(|e| e.revision() <= revision)..)
    }

    fn check(&self, requested: Revision, current: Revision) -> Result<(), StoreError> {
        if requested < self.compacted {
            return Err(StoreError::Compacted { requested, oldest: self.compacted });
        }
        if requested > current {
            return Err(StoreError::Future { requested, current });
        }
        Ok(())
    }
}

/// What is kept of these, no more than the limit.
fn cut<'a>(
    mut objects: impl Iterator<Item = &'a Arc<Object>>,
    limit: Option<usize>,
    keep: &dyn Fn(&Object) -> bool,
    revision: Revision,
) -> Snapshot {
    let chosen = objects.by_ref().filter(|object| keep(object)).cloned();
    let items: Vec<_> = chosen.take(limit.unwrap_or(usize::MAX)).collect();
    // The iterator goes on behind the last one that was chosen.
    let rest = if Some(items.len()) == limit { objects.count() } else { 0 };
    Snapshot { items, rest, revision }
}

fn indexed(event: &Event, paths: &Paths) -> Event {
    let of = |object: &Arc<Object>| Arc::new(object.indexed(paths));
    Event { object: of(&event.object), previous: event.previous.as_ref().map(of), deleted: event.deleted }
}

impl Image {
    /// The image of a store that is opened with these objects at `revision`.
    pub(super) fn load(objects: Vec<Object>, revision: Revision) -> Self {
        let mut state = State { revision, opened: revision, ..State::default() };
        let mut labels = LabelSets::default();
        for mut object in objects {
            object.labels = labels.one(object.labels);
            let table = state.table(object.key.resource);
            table.objects.insert(object.key.clone(), Arc::new(object));
        }
        Self { state: RwLock::new(state), labels: Mutex::new(labels) }
    }

    pub(super) fn revision(&self) -> Revision {
        self.read().revision
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.read().tables.get(&key.resource)?.objects.get(key).cloned()
    }

    pub(super) fn scan(&self, scan: &Scan, keep: &dyn Fn(&Object) -> bool) -> Result<Snapshot, StoreError> {
        let state = self.read();
        let revision = scan.at.unwrap_or(state.revision);
        let Some(table) = state.tables.get(&scan.resource) else {
            Table::new(state.opened).check(revision, state.revision)?;
            return Ok(Snapshot { items: Vec::new(), rest: 0, revision });
        };
        table.check(revision, state.revision)?;
        let start = match (&scan.after, &scan.namespace) {
            (Some(key), _) => Bound::Excluded(key.clone()),
            (None, Some(ns)) => Bound::Included(Key::namespaced(scan.resource, ns, "")),
            (None, None) => Bound::Unbounded,
        };
        let inside = |key: &Key| scan.namespace.is_none() || key.namespace == scan.namespace;
        // The first key behind the namespace: no key is looked at only to tell where it ends.
        let end = scan.namespace.as_ref().map_or(Bound::Unbounded, |ns| {
            Bound::Excluded(Key::namespaced(scan.resource, &format!("{ns}\0"), ""))
        });
        // A place that was named from outside may lie behind the end.
        let crossed =
            matches!((&start, &end), (Bound::Excluded(a) | Bound::Included(a), Bound::Excluded(b)) if a >= b);
        let range = (!crossed).then(|| table.objects.range((start.clone(), end)));
        let present = range.into_iter().flatten().map(|(_, object)| object);
        if revision == state.revision || table.after(revision).next().is_none() {
            return Ok(cut(present, scan.limit, keep, revision));
        }
        let mut past: BTreeMap<Key, Arc<Object>> = present.map(|o| (o.key.clone(), o.clone())).collect();
        for event in table.after(revision).rev().filter(|e| inside(&e.object.key)) {
            let key = &event.object.key;
            if matches!(&start, Bound::Excluded(first) if key <= first) {
                continue;
            }
            match &event.previous {
                Some(object) => past.insert(key.clone(), object.clone()),
                None => past.remove(key),
            };
        }
        Ok(cut(past.values(), scan.limit, keep, revision))
    }

    pub(super) fn watch(self: &Arc<Self>, resource: Resource, from: Revision) -> Result<Watcher, StoreError> {
        let mut state = self.write();
        let current = state.revision;
        let table = state.table(resource);
        table.check(from, current)?;
        let changed = table.changed.subscribe();
        drop(state);
        Ok(Watcher::new(self.clone(), resource, from, changed))
    }

    /// Up to `limit` changes after `from`, and the revision up to which nothing else happened.
    pub(super) fn changes(
        &self,
        resource: Resource,
        from: Revision,
        limit: usize,
    ) -> Result<(Vec<Arc<Event>>, Revision), StoreError> {
        let state = self.read();
        let Some(table) = state.tables.get(&resource) else { return Ok((Vec::new(), state.revision)) };
        table.check(from, state.revision)?;
        let events: Vec<_> = table.after(from).take(limit).cloned().collect();
        let reached = match events.last() {
            Some(last) if events.len() == limit => last.revision(),
            _ => state.revision,
        };
        Ok((events, reached))
    }

    #[cfg(test)]
    pub(super) fn compact(&self, upto: Revision) {
        let mut state = self.write();
        let oldest = |state: &State| {
            let resource = state.order.front()?.0;
            state.tables.get(&resource)?.history.front().map(|event| event.revision())
        };
        while oldest(&state).is_some_and(|revision| revision <= upto) {
            state.forget_oldest();
        }
    }

    /// Brings the present objects of a resource into another form, and indexes them by other paths, the past ones that
    /// watchers may still see among them.
    pub(super) fn renew(&self, resource: Resource, paths: &Paths, form: &dyn Fn(&mut Value)) {
        self.write().table(resource).renew(paths, form);
    }

    /// How many objects there are of each resource that has any.
    pub(super) fn census(&self) -> BTreeMap<Resource, usize> {
        let state = self.read();
        let counts = state.tables.iter().map(|(resource, table)| (*resource, table.objects.len()));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Makes staged events visible to reads. Those who watch hear of them by [`News::tell`].
    pub(super) fn apply(&self, events: impl IntoIterator<Item = Arc<Event>>) -> News {
        let mut state = self.write();
        let mut resources: Vec<Resource> = Vec::new();
        for event in events {
            let resource = event.object.key.resource;
            if !resources.contains(&resource) {
                resources.push(resource);
            }
            state.apply(event);
        }
        News(resources.into_iter().map(|resource| state.table(resource).changed.clone()).collect())
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn table(&mut self, resource: Resource) -> &mut Table {
        let opened = self.opened;
        self.tables.entry(resource).or_insert_with(|| Table::new(opened))
    }

    fn apply(&mut self, event: Arc<Event>) {
        let (resource, weight) = (event.object.key.resource, weight(&event));
        self.revision = event.revision();
        self.order.push_back((resource, weight));
        self.weight += weight;
        self.table(resource).apply(event);
        // The newest stays, however large: those who watch have not seen it yet.
        while self.weight > HISTORY_BYTES && self.order.len() > 1 {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((resource, weight)) = self.order.pop_front() else { return };
        self.weight -= weight;
        self.table(resource).forget_oldest();
    }
}

/// What an event keeps alive: the state before it, and that of a deletion, which is no present object.
fn weight(event: &Event) -> usize {
    let of = |object: &Arc<Object>| object.json.len() + OVERHEAD;
    let last = if event.deleted { of(&event.object) } else { 0 };
    event.previous.as_ref().map_or(0, of) + last + size_of::<Event>()
}

/// Changes that are visible to reads, and that nobody who watches was told of yet.
#[must_use = "whoever watches waits for it"]
#[derive(Default)]
pub(super) struct News(Vec<watch::Sender<()>>);

impl News {
    /// Wakes those who watch.
    pub(super) fn tell(self) {
        for changed in self.0 {
            changed.send_replace(());
        }
    }
}

/// Changes that were checked and given revisions but are not visible yet: one group commit.
pub(super) struct Stage<'a> {
    image: &'a Image,
    next: Revision,
    events: Vec<Arc<Event>>,
    overlay: HashMap<Key, Option<Arc<Object>>>,
}

impl<'a> Stage<'a> {
    /// On top of the image. Only the image's single writer may stage.
    pub(super) fn new(image: &'a Image) -> Self {
        Self { next: image.revision(), image, events: Vec::new(), overlay: HashMap::new() }
    }

    /// Adds a batch, all or nothing; returns the events of it.
    pub(super) fn add(&mut self, changes: Vec<Change>) -> Result<Vec<Arc<Event>>, StoreError> {
        let (mut next, mut events) = (self.next, Vec::with_capacity(changes.len()));
        let mut overlay: HashMap<Key, Option<Arc<Object>>> = HashMap::new();
        for change in changes {
            let key = change.key();
            let previous = match overlay.get(key).or_else(|| self.overlay.get(key)) {
                Some(staged) => staged.clone(),
                None => self.image.get(key),
            };
            next.0 += 1;
            let event = event_of(change, previous, next, &self.image.labels)?;
            let now = (!event.deleted).then(|| event.object.clone());
            overlay.insert(event.object.key.clone(), now);
            events.push(Arc::new(event));
        }
        self.next = next;
        self.overlay.extend(overlay);
        self.events.extend(events.iter().cloned());
        Ok(events)
    }

    /// All events added, in revision order.
    pub(super) fn events(&self) -> &[Arc<Event>] {
        &self.events
    }
}

fn share(labels: &Mutex<LabelSets>, object: &mut Object) {
    let mut labels = labels.lock().unwrap_or_else(PoisonError::into_inner);
    object.labels = labels.one(Arc::clone(&object.labels));
}

fn event_of(
    change: Change,
    previous: Option<Arc<Object>>,
    next: Revision,
    labels: &Mutex<LabelSets>,
) -> Result<Event, StoreError> {
    let found = previous.as_ref().map(|o| o.revision);
    match change {
        Change::Put { draft, expect: Expect::Absent } if found.is_none() => {
            let mut object = draft.at(next);
            share(labels, &mut object);
            Ok(Event { object: Arc::new(object), previous: None, deleted: false })
        }
        Change::Put { draft, expect: Expect::At(revision) } if found == Some(revision) => {
            let mut object = draft.at(next);
            match previous.as_ref().filter(|old| old.labels == object.labels) {
                Some(old) => object.labels = Arc::clone(&old.labels),
                None => share(labels, &mut object),
            }
            Ok(Event { object: Arc::new(object), previous, deleted: false })
        }
        Change::Delete { key, expect } => match previous {
            Some(old) if old.revision == expect => {
                let object = Arc::new(old.at_revision(next));
                Ok(Event { object, previous: Some(old), deleted: true })
            }
            current => Err(StoreError::Conflict { key, current }),
        },
        Change::Put { draft, .. } => Err(StoreError::Conflict { key: draft.key, current: previous }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Draft;

    fn change(image: &Image, name: &str, bytes: usize) {
        let key = Key::namespaced(Resource::CONFIG_MAPS, "default", name);
        let value = json!({"metadata": {"name": name}, "data": "x".repeat(bytes)});
        let expect = image.get(&key).map_or(Expect::Absent, |o| Expect::At(o.revision));
        let draft = Draft::new(key, &value, &Default::default()).unwrap();
        let events = Stage::new(image).add(vec![Change::Put { draft, expect }]).unwrap();
        image.apply(events).tell();
    }

    fn kept(image: &Image) -> usize {
        let state = image.read();
        let events = state.tables.values().flat_map(|table| &table.history);
        assert_eq!(state.weight, events.map(|event| weight(event)).sum::<usize>());
        assert!(state.weight <= HISTORY_BYTES, "{}", state.weight);
        state.order.len()
    }

    #[test]
    fn what_changes_often_is_remembered_up_to_the_bound_and_what_is_there_costs_nothing() {
        let image = Image::default();
        for n in 0..100 {
            change(&image, &format!("{n}"), 1 << 20);
        }
        assert_eq!(kept(&image), 100, "creations keep nothing alive but what is there");
        for n in 0..100 {
            change(&image, &format!("{}", n % 2), 1 << 20);
        }
        let events = kept(&image);
        assert!((10..16).contains(&events), "{events} events of a mebibyte each");
    }

    #[test]
    fn all_resources_reach_back_to_the_same_revision() {
        let image = Arc::new(Image::default());
        let lease = |n: usize| {
            let key = Key::namespaced(Resource::LEASES, "default", "quiet");
            let value = json!({"metadata": {"name": "quiet"}, "n": n});
            let expect = image.get(&key).map_or(Expect::Absent, |o| Expect::At(o.revision));
            let draft = Draft::new(key, &value, &Default::default()).unwrap();
            image.apply(Stage::new(&image).add(vec![Change::Put { draft, expect }]).unwrap()).tell();
            image.revision()
        };
        let (first, _) = (lease(0), change(&image, "busy", 1 << 20));
        for _ in 0..10 {
            change(&image, "busy", 1 << 20);
        }
        let later = lease(1);
        assert!(image.watch(Resource::LEASES, first).is_ok());
        for _ in 0..20 {
            change(&image, "busy", 1 << 20);
        }
        let resumed = image.watch(Resource::LEASES, first);
        assert!(
            matches!(resumed, Err(StoreError::Compacted { oldest, .. }) if oldest == first || oldest == later),
            "{resumed:?}"
        );
        kept(&image);
    }
}
