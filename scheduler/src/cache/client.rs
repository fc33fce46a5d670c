//! Typed writes of the control loops: through [`Objects`] like everybody's, and into the cache before they
//! return.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{Cache, Cached, Id, Written};
use crate::{
    kinds::Subresource,
    model::{ApiError, Object, ObjectError, Reason},
    objects::{self, DeleteOptions, Objects, Patch, WriteOptions},
};

/// A write that failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Refused by the API machine.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The object does not serialise: a bug.
    #[error("cannot encode {id}")]
    Encode {
        /// Which object.
        id: Id,
        /// What the encoder says.
        #[source]
        source: serde_json::Error,
    },
    /// The answer does not decode: a bug.
    #[error(transparent)]
    Decode(#[from] ObjectError),
}

impl WriteError {
    /// The class of a refusal.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(error) => Some(error.reason),
            Self::Encode { .. } | Self::Decode(_) => None,
        }
    }

    /// Somebody else was faster: plan again on the new state. Not worth a warning.
    pub fn is_conflict(&self) -> bool {
        self.reason() == Some(Reason::Conflict)
    }

    /// The object is not there.
    pub fn is_not_found(&self) -> bool {
        self.reason() == Some(Reason::NotFound)
    }

    /// An object of that name is already there.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == Some(Reason::AlreadyExists)
    }

    /// The namespace is going away: creating in it will never work.
    pub fn is_namespace_ending(&self) -> bool {
        match self {
            Self::Refused(e) => {
                e.reason == Reason::Forbidden && e.message.contains("because it is being terminated")
            }
            Self::Encode { .. } | Self::Decode(_) => false,
        }
    }
}

/// The writes of one control loop, under its own name. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    objects: Objects,
    cache: Cache,
    options: WriteOptions,
}

impl Client {
    /// The client of the control loop `name`.
    pub fn new(objects: &Objects, cache: &Cache, name: &str) -> Self {
        Self { objects: objects.clone(), cache: cache.clone(), options: WriteOptions::controller(name) }
    }

    /// For what has no type here.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The options that writes carry.
    pub fn options(&self) -> &WriteOptions {
        &self.options
    }

    /// Creates `object`; its name may come from `generateName`.
    pub async fn create<W: Written>(&self, object: &W) -> Result<Arc<W::Kept>, WriteError> {
        let id = Id::of(object.metadata());
        let body = encode(object)?;
        let resource = W::Kept::RESOURCE;
        self.took(self.objects.create(resource, id.scope(), body, &self.options).await?)
    }

    /// Replaces `object`, if it is still at its `resourceVersion`.
    pub async fn update<W: Written>(&self, object: &W) -> Result<Arc<W::Kept>, WriteError> {
        self.put(object, None).await
    }

    /// Replaces the status of `object`, if it is still at its `resourceVersion`.
    pub async fn update_status<W: Written>(&self, object: &W) -> Result<Arc<W::Kept>, WriteError> {
        self.put(object, Some(Subresource::Status)).await
    }

    /// Writes a subresource whose body is another type than the object (`binding`).
    pub async fn replace<T: Cached>(
        &self,
        id: &Id,
        sub: Option<Subresource>,
        body: Value,
    ) -> Result<Arc<T>, WriteError> {
        let written =
            self.objects.update(T::RESOURCE, id.scope(), &id.name, sub, body, &self.options).await?;
        self.took(written)
    }

    /// What the cache knows.
    pub fn cached<T: Cached>(&self, id: &Id) -> Option<Arc<T>> {
        T::table(&self.cache).get(id)
    }

    /// RFC 7386 patch of the object or its status.
    pub async fn merge<T: Cached>(
        &self,
        id: &Id,
        sub: Option<Subresource>,
        patch: Value,
    ) -> Result<Arc<T>, WriteError> {
        let patch = Patch::Merge(patch);
        let written =
            self.objects.patch(T::RESOURCE, id.scope(), &id.name, sub, patch, &self.options).await?;
        self.took(written)
    }

    /// Strategic merge patch of the object or its status: lists merge by key.
    pub async fn strategic<T: Cached>(
        &self,
        id: &Id,
        sub: Option<Subresource>,
        patch: Value,
    ) -> Result<Arc<T>, WriteError> {
        let patch = Patch::Strategic(patch);
        let written =
            self.objects.patch(T::RESOURCE, id.scope(), &id.name, sub, patch, &self.options).await?;
        self.took(written)
    }

    /// Deletes the very object `of` (a later one of the same name is left alone). Its absence is success.
    pub async fn delete<T: Cached>(&self, of: &T, mut options: DeleteOptions) -> Result<(), WriteError> {
        let (id, uid) = (Id::of(of.metadata()), of.metadata().uid.clone());
        options.uid.clone_from(&uid);
        let table = T::table(&self.cache);
        match self.objects.remove(T::RESOURCE, id.scope(), &id.name, &options, &self.options).await {
            Ok(deleted) if deleted.gone => table.wrote_deleted(&id, uid.as_deref().unwrap_or("")),
            Ok(deleted) => table.wrote(&table.read_object(&deleted.object)?, deleted.object.revision),
            // The watch will say so.
            Err(error) if error.reason == Reason::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn put<W: Written>(
        &self,
        object: &W,
        sub: Option<Subresource>,
    ) -> Result<Arc<W::Kept>, WriteError> {
        let id = Id::of(object.metadata());
        let body = encode(object)?;
        let resource = W::Kept::RESOURCE;
        let written = self.objects.update(resource, id.scope(), &id.name, sub, body, &self.options).await?;
        self.took(written)
    }

    fn took<T: Cached>(&self, written: objects::Written) -> Result<Arc<T>, WriteError> {
        let object: Arc<Object> = written.object;
        let table = T::table(&self.cache);
        let value = table.read_object(&object)?;
        table.wrote(&value, object.revision);
        Ok(value)
    }
}

fn encode<W: Written>(object: &W) -> Result<Value, WriteError> {
    serde_json::to_value(object)
        .map_err(|source| WriteError::Encode { id: Id::of(object.metadata()), source })
}

/// Shorthands that plans share.
pub(crate) trait MetaExt {
    /// The uid or the empty string.
    fn uid_str(&self) -> &str;
    /// The name or the empty string.
    fn name_str(&self) -> &str;
    /// The namespace or the empty string.
    fn namespace_str(&self) -> &str;
    /// Whether deletion has begun.
    fn deleting(&self) -> bool;
    /// One annotation.
    fn annotation(&self, key: &str) -> Option<&str>;
}

impl MetaExt for ObjectMeta {
    fn uid_str(&self) -> &str {
        self.uid.as_deref().unwrap_or("")
    }
    fn name_str(&self) -> &str {
        self.name.as_deref().unwrap_or("")
    }
    fn namespace_str(&self) -> &str {
        self.namespace.as_deref().unwrap_or("")
    }
    fn deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }
    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}
