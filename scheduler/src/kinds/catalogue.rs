//! Which kinds are served: an unchanging list with what finds a row in it. A kind that comes or goes while we run makes
//! another catalogue ([`crate::registry`]). Pure.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

use super::{Conversion, Kind};
use crate::model::Resource;

/// Why a kind cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Clash {
    /// Something else is found at its path.
    #[error("{plural} is already served in {group_version}")]
    Path {
        /// The plural name.
        plural: String,
        /// `apps/v1`
        group_version: String,
    },
    /// Something else has its name.
    #[error("the kind {kind} is already served in {group_version}")]
    Name {
        /// The name of the kind.
        kind: String,
        /// `apps/v1`
        group_version: String,
    },
    /// Two of its versions are stored, or none is.
    #[error("one version of {resource} is stored, not {count}")]
    Stored {
        /// Of which resource.
        resource: Resource,
        /// How many versions say that they are.
        count: usize,
    },
}

/// Every kind that is served, in the order of discovery.
#[derive(Debug, Default)]
pub struct Catalogue {
    rows: Vec<Arc<Kind>>,
    /// Of each resource the row that is stored.
    stored: HashMap<Resource, usize>,
    /// The rows by their plural names, of which groups may have the same.
    plurals: HashMap<String, Vec<usize>>,
    /// By the names of their kinds.
    kinds: HashMap<String, Vec<usize>>,
}

impl Catalogue {
    /// The catalogue of these kinds.
    pub fn new(rows: Vec<Arc<Kind>>) -> Result<Self, Clash> {
        let mut new = Self { rows, ..Self::default() };
        let mut counts: HashMap<Resource, usize> = HashMap::new();
        for (at, kind) in new.rows.iter().enumerate() {
            let alike = |others: &[usize]| {
                others.iter().any(|other| new.rows[*other].is_of(&kind.group, &kind.version))
            };
            let plurals = new.plurals.entry(kind.plural.clone().into_owned()).or_default();
            if alike(plurals) {
                let group_version = kind.api_version();
                return Err(Clash::Path { plural: kind.plural.clone().into_owned(), group_version });
            }
            plurals.push(at);
            let names = new.kinds.entry(kind.kind.clone().into_owned()).or_default();
            if alike(names) {
                let group_version = kind.api_version();
                return Err(Clash::Name { kind: kind.kind.clone().into_owned(), group_version });
            }
            names.push(at);
            let count = counts.entry(kind.resource).or_default();
            if kind.is_stored() {
                *count += 1;
                new.stored.insert(kind.resource, at);
            }
        }
        match counts.into_iter().find(|(_, count)| *count != 1) {
            None => Ok(new),
            Some((resource, count)) => Err(Clash::Stored { resource, count }),
        }
    }

    /// Every kind, in the order of discovery.
    pub fn all(&self) -> &[Arc<Kind>] {
        &self.rows
    }

    /// The rows that objects are stored as, one for each resource.
    pub fn stored(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.rows.iter().filter(|kind| kind.is_stored())
    }

    /// The kind stored under `resource`. Never a view.
    pub fn by_resource(&self, resource: Resource) -> Option<&Arc<Kind>> {
        self.stored.get(&resource).map(|at| &self.rows[*at])
    }

    /// The kind served at `/apis/{group}/{version}/{plural}` (`/api/{version}/{plural}` for the empty group).
    pub fn by_path(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.find(self.plurals.get(plural)?, group, version)
    }

    /// The kind that objects name themselves after.
    pub fn by_gvk(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.find(self.kinds.get(kind)?, group, version)
    }

    fn find(&self, rows: &[usize], group: &str, version: &str) -> Option<&Arc<Kind>> {
        rows.iter().map(|at| &self.rows[*at]).find(|kind| kind.is_of(group, version))
    }

    /// How an object of what `kind` serves becomes one that is stored, if it is of this other version.
    pub fn view_of(&self, kind: &Kind, version: &str) -> Option<&dyn Conversion> {
        let other = self.rows.iter().find(|k| k.resource == kind.resource && k.api_version() == version)?;
        other.view.as_deref()
    }

    /// The row that serves what `kind` serves at another version, and how an object becomes one of it.
    pub fn in_version<'a>(
        &'a self,
        kind: &'a Kind,
        version: &str,
    ) -> Option<(&'a Kind, impl Fn(&Value) -> Value + 'a)> {
        let other = self.rows.iter().find(|k| k.resource == kind.resource && k.api_version() == version)?;
        Some((&**other, move |object: &Value| {
            let stored = kind.view.as_ref().map(|view| view.to_stored(object));
            let stored = stored.as_ref().unwrap_or(object);
            other.view.as_ref().map_or_else(|| stored.clone(), |view| view.to_shown(stored))
        }))
    }
}
