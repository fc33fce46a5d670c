//! Who asks: the authenticated identity, as everything below the API knows it. Cheap to clone: a request carries it through
//! admission, managed fields and the log.

use std::{collections::BTreeMap, sync::Arc};

/// What an authenticator knows of a user besides name and groups, by name in lower case.
pub type Extra = BTreeMap<String, Vec<String>>;

/// Who asks, for authorization, admission, managed fields and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `system:node:node-1`, `kubernetes-admin`, `system:controller:deployment`.
    pub user: Arc<str>,
    /// What tells two users of one name apart who lived one after the other; where there is such a thing.
    pub uid: Option<Arc<str>>,
    /// `system:masters`, `system:nodes`.
    pub groups: Arc<[Arc<str>]>,
    /// What else is known.
    pub extra: Option<Arc<Extra>>,
}

impl Actor {
    /// A user of whom nothing is known besides name and groups.
    pub fn new<'a>(user: &str, groups: impl IntoIterator<Item = &'a str>) -> Self {
        let groups = groups.into_iter().map(Arc::from).collect();
        Self { user: user.into(), uid: None, groups, extra: None }
    }

    /// One of our own control loops.
    pub fn controller(name: &str) -> Self {
        Self::new(&format!("system:controller:{name}"), ["system:masters"])
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| &**own == group)
    }
}
