//! The in-memory image: current objects and recent changes of each resource. Every implementation of the
//! store keeps one; reads and watches are served from it alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use serde_json::Value;
use tokio::sync::watch;

use super::{
    Event, Scan, Snapshot, StoreError, Watcher,
    equal::Equal,
    history::{History, Rest, indexed},
    packed::{Held, Marks, Packer},
};
use crate::model::{Key, Object, Paths, Resource, Revision};

/// What the histories of all resources may keep alive besides the present objects, in bytes. A watcher that was away
/// for as long as so much took to change resumes without a new list; one that is away longer lists again. Every
/// resource reaches back to the same revision: a busy one shortens the memory of a quiet one by no more than its share.
const HISTORY_BYTES: usize = 16 << 20;
/// So many of the newest changes stay as they are: whoever watches is seldom further behind.
const RECENT: usize = 512;
/// So many that are older are laid to rest together, and so many of them under one lock.
const TOGETHER: usize = 512;
const UNDER_ONE_LOCK: usize = 64;
/// What an object takes besides its JSON, about.
const OVERHEAD: usize = 512;

/// The image behind its lock.
#[derive(Debug, Default)]
pub(super) struct Image {
    state: RwLock<State>,
    equal: Mutex<Equal>,
    /// Whose objects are laid to rest while they are there.
    seldom: Vec<Resource>,
    packer: Mutex<Packer>,
}

#[derive(Debug, Default)]
struct State {
    revision: Revision,
    tables: HashMap<Resource, Table>,
    /// The resources of the events in all histories, oldest first, each with its revision and weight.
    order: VecDeque<(Resource, usize)>,
    /// How many of them, the oldest, are at rest.
    past: usize,
    /// Weight of all histories.
    weight: usize,
    /// History before this was never here: the store was opened at it.
    opened: Revision,
}

#[derive(Debug)]
struct Table {
    objects: BTreeSet<Held>,
    history: History,
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
            objects: BTreeSet::new(),
            history: History::default(),
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
            self.objects.replace(Held::Whole(event.object.clone()));
        }
        self.history.push(event);
    }

    fn renew(&mut self, paths: &Paths, form: &dyn Fn(&mut Value)) {
        let renewed = self.objects.iter().filter_map(|held| held.object().renewed(paths, form));
        for object in renewed.collect::<Vec<_>>() {
            self.objects.replace(Held::Whole(Arc::new(object)));
        }
        self.history.index(paths);
        self.paths = Some(paths.clone());
    }

    fn forget_oldest(&mut self) {
        if let Some(revision) = self.history.forget_oldest() {
            self.compacted = revision;
        }
    }

    /// Lays a change to rest; `false` when it was forgotten.
    fn rest(&mut self, event: &Arc<Event>, rest: Rest) -> bool {
        if let Some(packed) = &rest.object
            && self.objects.get(&event.object.key).is_some_and(|held| held.is(&event.object))
        {
            self.objects.replace(packed.clone());
        }
        self.history.rest(event, rest)
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
    mut objects: impl Iterator<Item = &'a Held>,
    scan: &Scan,
    keep: &dyn Fn(&Object) -> bool,
    revision: Revision,
) -> Snapshot {
    let (limit, marks) = (scan.limit, Marks::of(scan.with.iter().map(|(path, value)| (&**path, &**value))));
    let chosen = objects.by_ref().filter_map(|held| match held {
        Held::Whole(object) => keep(object).then(|| object.clone()),
        Held::Packed(_) if !held.may_have(marks) => None,
        Held::Packed(_) => Some(held.object()).filter(|object| keep(object)),
    });
    let items: Vec<_> = chosen.take(limit.unwrap_or(usize::MAX)).collect();
    // The iterator goes on behind the last one that was chosen.
    let rest = if Some(items.len()) == limit { objects.count() } else { 0 };
    Snapshot { items, rest, revision }
}

impl Image {
    pub(super) fn revision(&self) -> Revision {
        self.read().revision
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Object>> {
        let held = self.read().tables.get(&key.resource)?.objects.get(key)?.clone();
        Some(held.into_object())
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
        let range = (!crossed).then(|| table.objects.range::<Key, _>((start.clone(), end)));
        let present = range.into_iter().flatten();
        if revision == state.revision || table.history.is_empty_after(revision) {
            if self.seldom.contains(&scan.resource) {
                let held: Vec<Held> = present.cloned().collect();
                drop(state);
                return Ok(cut(held.iter(), scan, keep, revision));
            }
            return Ok(cut(present, scan, keep, revision));
        }
        let mut past: BTreeMap<Key, Held> = present.map(|held| (held.key().clone(), held.clone())).collect();
        for (key, previous) in table.history.undo(revision).filter(|(key, _)| inside(key)) {
            if matches!(&start, Bound::Excluded(first) if key <= first) {
                continue;
            }
            match previous {
                Some(held) => past.insert(key.clone(), held),
                None => past.remove(key),
            };
        }
        drop(state);
        Ok(cut(past.values(), scan, keep, revision))
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
        let found = table.history.after(from, limit);
        let reached = match found.last() {
            Some(last) if found.len() == limit => last,
            _ => state.revision,
        };
        drop(state);
        Ok((found.events(), reached))
    }

    #[cfg(test)]
    pub(super) fn compact(&self, upto: Revision) {
        let mut state = self.write();
        let oldest = |state: &State| {
            let resource = state.order.front()?.0;
            state.tables.get(&resource)?.history.oldest()
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
        let changed = resources.into_iter().map(|resource| state.table(resource).changed.clone()).collect();
        News { changed, may_rest: state.is_rest_due() }
    }

    /// Lays to rest what is no longer recent, until nothing more of it is there. Nobody waits for it, and it holds up nobody:
    /// what takes time is done without a lock.
    pub(super) fn rest(&self) {
        // Another one is at it.
        let Ok(mut packer) = self.packer.try_lock() else { return };
        loop {
            let events = self.read().no_longer_recent();
            if events.is_empty() {
                return;
            }
            let rests = self.rest_of(&events, &mut packer);
            let mut rests = events.iter().zip(rests).peekable();
            while rests.peek().is_some() {
                let mut state = self.write();
                rests.by_ref().take(UNDER_ONE_LOCK).for_each(|(event, rest)| state.rest(event, rest));
            }
        }
    }

    /// The state before a change is there for those alone who were away, and so is the last one of what was deleted.
    fn rest_of(&self, events: &[Arc<Event>], packer: &mut Packer) -> Vec<Rest> {
        let rests = |event: &Event| event.deleted || self.seldom.contains(&event.object.key.resource);
        let object = |event: &Event| rests(event).then(|| event.object.clone());
        let parts = events.iter().flat_map(|event| [object(event), event.previous.clone()]);
        let mut packed = packer.pack(&parts.flatten().collect::<Vec<_>>()).into_iter();
        let mut of = |part: Option<Arc<Object>>| part.and_then(|_| packed.next().flatten());
        let rest = |event: &Arc<Event>| {
            let object = of(object(event));
            Rest { object, previous: of(event.previous.clone()) }
        };
        events.iter().map(rest).collect()
    }

    /// Makes an object share what is equal in others.
    pub(super) fn share(&self, object: &mut Object) {
        self.equal.lock().unwrap_or_else(PoisonError::into_inner).share(object);
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The image of a store that is being opened.
pub(super) struct Loading {
    state: State,
    equal: Equal,
    seldom: Vec<Resource>,
    packer: Packer,
    /// Are to be laid to rest together.
    resting: Vec<Arc<Object>>,
}

impl Loading {
    /// It is opened at `revision`. Objects of `seldom` are laid to rest; of those of `private` nothing is learned.
    pub(super) fn new(revision: Revision, seldom: Vec<Resource>, private: Vec<Resource>) -> Self {
        let state = State { revision, opened: revision, ..State::default() };
        let (equal, packer) = (Equal::default(), Packer::new(private));
        Self { state, equal, seldom, packer, resting: Vec::new() }
    }

    /// One of the objects that are there.
    pub(super) fn add(&mut self, mut object: Object) {
        self.equal.share(&mut object);
        let object = Arc::new(object);
        if !self.seldom.contains(&object.key.resource) {
            self.put(Held::Whole(object));
            return;
        }
        self.resting.push(object);
        if self.resting.len() == TOGETHER {
            self.rest();
        }
    }

    /// It has them all.
    pub(super) fn done(mut self) -> Image {
        self.rest();
        let Self { state, equal, seldom, packer, .. } = self;
        Image { state: RwLock::new(state), equal: Mutex::new(equal), seldom, packer: Mutex::new(packer) }
    }

    fn rest(&mut self) {
        let resting = std::mem::take(&mut self.resting);
        let packed = self.packer.pack(&resting);
        for (object, packed) in resting.into_iter().zip(packed) {
            self.put(packed.unwrap_or(Held::Whole(object)));
        }
    }

    fn put(&mut self, held: Held) {
        self.state.table(held.key().resource).objects.insert(held);
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
        self.past = self.past.saturating_sub(1);
        self.table(resource).forget_oldest();
    }

    fn is_rest_due(&self) -> bool {
        self.order.len() >= self.past + RECENT + TOGETHER
    }

    /// The oldest changes that are to be laid to rest; none when they are few.
    fn no_longer_recent(&self) -> Vec<Arc<Event>> {
        if !self.is_rest_due() {
            return Vec::new();
        }
        let mut taken: HashMap<Resource, usize> = HashMap::new();
        let event = |(resource, _): &(Resource, usize)| {
            let at = taken.entry(*resource).or_default();
            *at += 1;
            self.tables.get(resource)?.history.recent(*at - 1).cloned()
        };
        self.order.range(self.past..self.past + TOGETHER).filter_map(event).collect()
    }

    fn rest(&mut self, event: &Arc<Event>, rest: Rest) {
        if self.table(event.object.key.resource).rest(event, rest) {
            self.past += 1;
        }
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
pub(super) struct News {
    changed: Vec<watch::Sender<()>>,
    may_rest: bool,
}

impl News {
    /// Wakes those who watch.
    pub(super) fn tell(self) {
        for changed in self.changed {
            changed.send_replace(());
        }
    }

    /// Whether there is enough that is no longer recent for [`Image::rest`].
    pub(super) const fn may_rest(&self) -> bool {
        self.may_rest
    }
}

#[cfg(test)]
mod tests;
