//! Lists in pages and watches of a selection.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::time::Instant;

use super::{List, Objects, Selection, WatchEvent, WatchStream, row, token::Token};
use crate::{
    kinds::{self, Kind},
    model::{ApiError, LabelSelector, Object, Reason, Resource, Revision},
    store::{Event, Scan, StoreError, Watcher},
};

/// A quiet watch says how far it has come this often, so that a client that reconnects resumes from there
/// instead of listing again.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
/// How long before its end a watch gets the last one, as upstream.
const BOOKMARK_BEFORE: Duration = Duration::from_secs(2);

/// `?resourceVersionMatch=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// The state at exactly this revision.
    Exact,
    /// Any state that is not older.
    NotOlderThan,
}

/// Which part of a list, and of what age.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// At most so many items.
    pub limit: Option<usize>,
    /// [`List::next`] of the page before.
    pub token: Option<String>,
    /// The state that is asked for; `None` is the newest.
    pub at: Option<(Revision, VersionMatch)>,
}

impl Selection {
    /// Whether an object is selected.
    pub fn matches(&self, object: &Object) -> bool {
        (self.namespace.is_none() || self.namespace == object.key.namespace)
            && self.labels.matches(&object.labels)
            && self.matches_fields(object)
    }

    fn matches_fields(&self, object: &Object) -> bool {
        let field = |path: &str| match path {
            "metadata.name" => &*object.key.name,
            "metadata.namespace" => object.key.namespace_str(),
            path => object.fields.get(path).unwrap_or(kinds::unset_field(path)),
        };
        self.fields.matches(field)
    }

    /// What every selected object is indexed by: not what those have, too, that say nothing there.
    fn required(&self) -> Vec<(String, String)> {
        let indexed = |path: &str| !matches!(path, "metadata.name" | "metadata.namespace");
        let terms = self
            .fields
            .terms
            .iter()
            .filter(|(path, value, equal)| *equal && indexed(path) && value != kinds::unset_field(path));
        terms.map(|(path, value, _)| (path.clone(), value.clone())).collect()
    }

    /// Whether every object of the namespace is selected.
    fn is_everything(&self) -> bool {
        self.labels.requirements.is_empty() && self.fields.terms.is_empty()
    }

    /// How a watcher of this selection sees a change, if it does.
    fn see(&self, event: &Event) -> Option<WatchEvent> {
        let is = !event.deleted && self.matches(&event.object);
        let was = event.previous.as_ref().filter(|p| self.matches(p));
        Some(match (is, was) {
            (true, None) => WatchEvent::Added(event.object.clone()),
            (true, Some(_)) => WatchEvent::Modified(event.object.clone()),
            (false, Some(_)) if event.deleted => WatchEvent::Deleted(event.object.clone()),
            (false, Some(left)) => WatchEvent::Deleted(Arc::new(left.at_revision(event.revision()))),
            (false, None) => return None,
        })
    }
}

/// Labels under one selector. Most objects share theirs with others, and to look at a set of them is what a list of a few
/// among many costs: each set is looked at once.
struct SharedLabels<'a> {
    selector: &'a LabelSelector,
    /// By the place of the set, which stays while the scan holds what it looks at.
    known: RefCell<HashMap<*const Labels, bool>>,
}

type Labels = BTreeMap<String, String>;

impl<'a> SharedLabels<'a> {
    fn new(selector: &'a LabelSelector) -> Self {
        Self { selector, known: RefCell::default() }
    }

    fn matches(&self, labels: &Arc<Labels>) -> bool {
        self.selector.requirements.is_empty()
            || *self
                .known
                .borrow_mut()
                .entry(Arc::as_ptr(labels))
                .or_insert_with(|| self.selector.matches(labels))
    }
}

/// Only indexed fields can be selected by. Clients' selectors have been checked against what their kind calls its fields.
fn check_selection(kind: &Kind, selection: &Selection) -> Result<(), ApiError> {
    let known = |path: &str| {
        path == "metadata.name"
            || path == "metadata.namespace"
            || kind.fields.iter().any(|field| field == path)
    };
    match selection.fields.terms.iter().find(|(path, ..)| !known(path)) {
        None => Ok(()),
        Some((path, ..)) => {
            Err(ApiError::new(Reason::BadRequest, format!("field label not supported: {path}")))
        }
    }
}

/// A list at a version that the history no longer has.
const TOO_OLD: &str = "The resourceVersion for the provided list is too old.";

impl Objects {
    /// One page of a list. All pages of a list show the state at the revision of the first, unless the client goes on
    /// with the token that it got when its own had expired.
    pub fn page(&self, resource: Resource, selection: &Selection, page: &Page) -> Result<List, ApiError> {
        check_selection(row(&self.kinds(), resource)?, selection)?;
        let namespace = selection.namespace.as_deref();
        let token = page.token.as_deref().map(Token::decode).transpose()?;
        let at = match (&token, page.at) {
            (Some(token), _) => token.revision(),
            (None, Some((revision, VersionMatch::Exact))) => Some(revision),
            (None, Some((revision, VersionMatch::NotOlderThan))) if revision > self.revision() => {
                Some(revision)
            }
            (None, _) => None,
        };
        if let Some(token) = token.as_ref().filter(|token| token.is_old()) {
            return Err(token.expired());
        }
        let after = token.as_ref().map(|t| t.key(resource, namespace));
        let everything = selection.is_everything();
        let limit = page.limit.filter(|limit| *limit > 0);
        let within = selection.namespace.clone();
        let scan = Scan { resource, namespace: within, after, at, limit, with: selection.required() };
        let labels = SharedLabels::new(&selection.labels);
        let snapshot = self.inner.store.scan(&scan, &|object| {
            everything || labels.matches(&object.labels) && selection.matches_fields(object)
        });
        let snapshot = snapshot.map_err(|error| match (&error, &token) {
            (StoreError::Compacted { .. }, Some(token)) => token.expired(),
            (StoreError::Compacted { .. }, None) => ApiError::new(Reason::Expired, TOO_OLD),
            _ => error.into(),
        })?;
        let items = snapshot.items;
        // As upstream: there may be more while anything comes behind, selected or not.
        let rest = Some(snapshot.rest as u64).filter(|rest| *rest > 0);
        let next = rest
            .and(items.last())
            .map(|last| Token::after(&last.key, namespace, snapshot.revision, token.as_ref()).encode());
        // Upstream does not know the number with a selector, and clients take its presence as exact.
        let remaining = rest.filter(|_| everything);
        Ok(List { items, revision: snapshot.revision, next, remaining })
    }

    /// Shows everything of a resource, one object after the other, so that they need not be there all at once. Returns the
    /// revision that this is true for.
    pub fn each(&self, resource: Resource, look: &dyn Fn(&Object)) -> Result<Revision, ApiError> {
        let scan = Scan { resource, namespace: None, after: None, at: None, limit: None, with: Vec::new() };
        let shown = self.inner.store.scan(&scan, &|object| {
            look(object);
            false
        });
        Ok(shown?.revision)
    }

    /// Changes after `from`; starts with synthetic `Added` events of everything when `from` is `None`, then a
    /// bookmark. Bookmarks also come now and then while nothing happens.
    pub async fn watch(
        &self,
        resource: Resource,
        selection: Selection,
        from: Option<Revision>,
    ) -> Result<WatchStream, ApiError> {
        self.watch_until(resource, selection, from, None).await
    }

    /// As [`Self::watch`], for somebody who stops listening at `ends`: shortly before a bookmark comes, if there is news in
    /// it, so that a next watch can go on from there.
    pub async fn watch_until(
        &self,
        resource: Resource,
        selection: Selection,
        from: Option<Revision>,
        ends: Option<Instant>,
    ) -> Result<WatchStream, ApiError> {
        let mut ready = VecDeque::new();
        let from = if let Some(revision) = from {
            check_selection(row(&self.kinds(), resource)?, &selection)?;
            revision
        } else {
            let list = self.page(resource, &selection, &Page::default())?;
            ready.extend(list.items.into_iter().map(WatchEvent::Added));
            ready.push_back(WatchEvent::Bookmark(list.revision));
            list.revision
        };
        let watcher = self.inner.store.watch(resource, from)?;
        let last = ends.and_then(|ends| ends.checked_sub(BOOKMARK_BEFORE)).filter(|at| *at > Instant::now());
        let bookmark = Instant::now() + BOOKMARK_EVERY;
        let watch = Watch { watcher, selection, ready, bookmark, last, told: from };
        Ok(stream::unfold(Some(watch), next_event).boxed())
    }
}

struct Watch {
    watcher: Watcher,
    selection: Selection,
    ready: VecDeque<WatchEvent>,
    bookmark: Instant,
    /// When a last bookmark is due.
    last: Option<Instant>,
    /// What it must be newer than.
    told: Revision,
}

async fn next_event(watch: Option<Watch>) -> Option<(Result<WatchEvent, ApiError>, Option<Watch>)> {
    let mut watch = watch?;
    match watch.next().await {
        Ok(event) => Some((Ok(event), Some(watch))),
        Err(error) => Some((Err(error), None)),
    }
}

impl Watch {
    async fn next(&mut self) -> Result<WatchEvent, ApiError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            tokio::select! {
                // Cancel-safe: the watcher's place moves only when it returns.
                events = self.watcher.next() => {
                    let selection = &self.selection;
                    self.ready.extend(events?.iter().filter_map(|e| selection.see(e)));
                }
                // Cancel-safe: a deadline.
                () = tokio::time::sleep_until(self.last.unwrap_or(self.bookmark).min(self.bookmark)) => {
                    let now = Instant::now();
                    let ends = self.last.is_some_and(|last| last <= now);
                    self.bookmark = now + BOOKMARK_EVERY;
                    self.last = self.last.filter(|_| !ends);
                    let events = self.watcher.ready()?;
                    let selection = &self.selection;
                    self.ready.extend(events.iter().filter_map(|e| selection.see(e)));
                    let reached = self.watcher.reached();
                    if !ends || reached > self.told {
                        self.ready.push_back(WatchEvent::Bookmark(reached));
                    }
                    self.told = reached;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Requirement;

    #[test]
    fn labels_that_are_shared_are_looked_at_once() {
        let set = |app: &str| Arc::new(Labels::from([("app".to_owned(), app.to_owned())]));
        let (web, db) = (set("web"), set("db"));
        let requirements = vec![Requirement::Equals("app".to_owned(), "web".to_owned())];
        let selector = LabelSelector { requirements };
        let labels = SharedLabels::new(&selector);
        for _ in 0..100 {
            assert!(labels.matches(&web) && !labels.matches(&db));
        }
        assert!(labels.matches(&set("web")), "equal, and another one");
        assert_eq!(labels.known.borrow().len(), 3);
    }

    #[test]
    fn what_is_required_is_what_every_selected_object_is_indexed_by() {
        let required = |text| {
            let fields = crate::model::FieldSelector::parse(text).unwrap();
            Selection { fields, ..Selection::default() }.required()
        };
        let all = "metadata.name=a,metadata.namespace=b,reason=Started,type!=Normal,spec.hostNetwork=false,\
            status.replicas=0,source=,involvedObject.uid=u";
        let wanted = [("involvedObject.uid", "u"), ("reason", "Started")];
        assert_eq!(required(all), wanted.map(|(path, value)| (path.to_owned(), value.to_owned())));
        assert_eq!(required("spec.hostNetwork=true").len(), 1);
    }
}
