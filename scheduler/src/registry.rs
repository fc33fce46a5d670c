//! Which kinds are served at the moment. Owns the present catalogue; whoever answers, follows or empties all kinds takes
//! it from here, and is told when another has taken its place: discovery, OpenAPI, the garbage collector, the end of
//! namespaces.
//!
//! In: kinds that come and go. Out: catalogues, each unchanging. Never: a stored object, or what is to become of those
//! of a kind that goes.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{
    kinds::{self, Catalogue, Clash, Kind},
    model::Resource,
};

/// Why a kind does not come or go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It is always there.
    #[error("{0} is built in")]
    BuiltIn(Resource),
    /// It gets into the way of another.
    #[error(transparent)]
    Clash(#[from] Clash),
}

/// The kinds that are served.
#[derive(Debug)]
pub struct Registry {
    current: ArcSwap<Catalogue>,
    /// One change at a time.
    changing: Mutex<()>,
    changes: watch::Sender<Arc<Catalogue>>,
}

impl Default for Registry {
    /// Those that are built in.
    fn default() -> Self {
        let rows = kinds::builtin().all().to_vec();
        // They do not clash; a test of theirs holds that.
        Self::new(Catalogue::new(rows).unwrap_or_default())
    }
}

impl Registry {
    /// A registry that begins with these.
    pub fn new(catalogue: Catalogue) -> Self {
        let catalogue = Arc::new(catalogue);
        let (changes, _) = watch::channel(catalogue.clone());
        Self { current: ArcSwap::new(catalogue), changing: Mutex::default(), changes }
    }

    /// What is served now.
    pub fn current(&self) -> Arc<Catalogue> {
        self.current.load_full()
    }

    /// The catalogues to come, and the present one.
    pub fn follow(&self) -> watch::Receiver<Arc<Catalogue>> {
        self.changes.subscribe()
    }

    /// Serves a resource in these versions from now on, in place of those it was served in so far. `before` makes ready
    /// what is stored: nobody sees the new kinds until it is done.
    pub(crate) fn serve(
        &self,
        versions: Vec<Kind>,
        before: impl FnOnce(&Catalogue),
    ) -> Result<(), RegistryError> {
        let coming: Vec<Resource> = versions.iter().map(|kind| kind.resource).collect();
        self.replace(&coming, versions.into_iter().map(Arc::new), before)
    }

    /// Serves a resource no longer. That nobody needs its objects any more is the caller's affair.
    pub fn withdraw(&self, resource: Resource) -> Result<(), RegistryError> {
        self.replace(&[resource], std::iter::empty(), |_| ())
    }

    fn replace(
        &self,
        going: &[Resource],
        coming: impl Iterator<Item = Arc<Kind>>,
        before: impl FnOnce(&Catalogue),
    ) -> Result<(), RegistryError> {
        if let Some(built_in) = going.iter().find(|going| kinds::builtin().by_resource(**going).is_some()) {
            return Err(RegistryError::BuiltIn(*built_in));
        }
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        let staying = current.all().iter().filter(|kind| !going.contains(&kind.resource)).cloned();
        let next = Arc::new(Catalogue::new(staying.chain(coming).collect())?);
        before(&next);
        self.current.store(next.clone());
        self.changes.send_replace(next);
        Ok(())
    }
}
