//! What equal objects share, so that it is there once.
//!
//! In: objects that are new. Out: the same objects, with the labels and the namespace of others that have the same.

use std::{collections::BTreeMap, sync::Arc};

use crate::model::{Object, Shared};

/// What is in use, each value once.
#[derive(Debug, Default)]
pub(super) struct Equal {
    /// Most objects are one of many that bear the same labels.
    labels: Shared<BTreeMap<String, String>>,
    namespaces: Shared<str>,
}

impl Equal {
    /// Makes an object share what others have already.
    pub(super) fn share(&mut self, object: &mut Object) {
        object.labels = self.labels.one(Arc::clone(&object.labels));
        object.key.namespace = object.key.namespace.take().map(|namespace| self.namespaces.one(namespace));
    }
}
