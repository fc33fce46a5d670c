//! Admission: what looks at a write after defaults and before validation, and may change or refuse it; and what may
//! refuse a new object after validation.
//!
//! The chain is put together by the composition root. A plugin reads other objects through [`Objects`], which
//! serves them from memory; it never writes. A dry-run write is admitted like any other but must leave no
//! trace in the plugin.

use async_trait::async_trait;
use serde_json::Value;

use super::{Actor, Objects};
use crate::{
    kinds::{Kind, Subresource},
    model::{ApiError, Cause, Key, Resource},
};

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object; `old` is `None`.
    Create,
    /// A change of an object or of one of its subresources.
    Update,
    /// A deletion; `object` is the state that is going.
    Delete,
}

/// One write under admission.
pub struct Request<'a> {
    /// What is being done.
    pub operation: Operation,
    /// To which kind.
    pub kind: &'a Kind,
    /// To which subresource; `None` for the object itself.
    pub subresource: Option<Subresource>,
    /// Where.
    pub namespace: Option<&'a str>,
    /// The object's name, `generateName` already resolved.
    pub name: &'a str,
    /// The object as it will be stored; plugins may change it.
    pub object: &'a mut Value,
    /// The stored state.
    pub old: Option<&'a Value>,
    /// Who asks.
    pub actor: &'a Actor,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// For looking at other objects.
    pub objects: &'a Objects,
    /// What plugins take back when the write is not stored after all.
    pub undo: &'a mut Undo,
}

/// A new object after validation.
pub struct Checked<'a> {
    /// Of which kind.
    pub kind: &'a Kind,
    /// The object's name.
    pub name: &'a str,
    /// The object as it will be stored.
    pub object: &'a Value,
    /// For looking at other objects.
    pub objects: &'a Objects,
}

/// What admission did beside changing the object. It is taken back when the write is known to have failed, and only
/// then: a write whose end nobody waited for may still be stored.
#[derive(Default)]
pub struct Undo(Vec<Box<dyn FnOnce() + Send>>);

impl Undo {
    /// Does `step` if the write fails.
    pub fn push(&mut self, step: impl FnOnce() + Send + 'static) {
        self.0.push(Box::new(step));
    }

    /// The write has failed.
    pub(super) fn run(self) {
        for step in self.0.into_iter().rev() {
            step();
        }
    }
}

/// One plugin of the chain.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Lets the write pass, changed or not, or refuses it.
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), ApiError>;

    /// Looks once more at a new object that is known to be valid.
    fn check(&self, _new: &Checked<'_>) -> Result<(), ApiError> {
        Ok(())
    }
}

/// Nothing is created outside a live namespace, and the system's namespaces stay.
#[derive(Debug, Default)]
pub struct NamespaceLifecycle;

/// Namespaces that nobody may delete.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

#[async_trait]
impl Admission for NamespaceLifecycle {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let resource = request.kind.resource;
        if resource == Resource::NAMESPACES {
            if request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
                return Err(ApiError::forbidden(resource, request.name, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        let (Operation::Create, Some(namespace)) = (request.operation, request.namespace) else {
            return Ok(());
        };
        let key = Key::cluster(Resource::NAMESPACES, namespace);
        let Some(found) = request.objects.stored(&key) else {
            return Err(ApiError::not_found(Resource::NAMESPACES, namespace));
        };
        if !found.deleting {
            return Ok(());
        }
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = ApiError::forbidden(resource, request.name, &why);
        error.causes.push(Cause {
            reason: "NamespaceTerminating",
            field: "metadata.namespace".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
        });
        Err(error)
    }
}
