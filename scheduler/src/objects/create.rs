//! Creating objects, and what creation and update have in common: field validation and admission.

use serde_json::Value;

use super::{
    ATTEMPTS, MODIFIED, Objects, WriteOptions, Written,
    admission::{Checked, Operation, Request, Undo},
    body::{check_fields, check_namespace, check_type, draft, to_stored},
    meta, ownership, row,
};
use crate::{
    kinds::{
        self, Kind,
        schema::{complete, settle},
    },
    model::{ApiError, Key, Reason, Resource},
    store::{Change, Draft, Expect, StoreError},
};

/// A generated name that is taken is drawn again this often.
const NAME_ATTEMPTS: usize = 8;

impl Objects {
    /// Creates `body` (name or generateName inside).
    pub async fn create(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let kinds = self.kinds();
        self.create_checked(row(&kinds, resource)?, namespace, body, options, false).await
    }

    /// Creation; `recorded` when `metadata.managedFields` already tells of this write, as after an apply.
    pub(super) async fn create_checked(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        mut body: Value,
        options: &WriteOptions,
        recorded: bool,
    ) -> Result<Written, ApiError> {
        let written = options.view.as_deref().unwrap_or(kind);
        check_type(written, &mut body)?;
        // As upstream: what does not decode is refused before anything else is looked at.
        let mut warnings = check_fields(written, &mut body, options)?;
        check_namespace(written, namespace, &mut body)?;
        if !meta::text(&body, "resourceVersion").is_empty() {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(ApiError::new(Reason::BadRequest, message));
        }
        body = to_stored(written, body);
        warnings.extend(meta::join_owners(&mut body));
        let generate = meta::text(&body, "name").is_empty();
        let base = meta::text(&body, "generateName").to_owned();
        for attempt in 1.. {
            if generate && !base.is_empty() {
                meta::of_mut(&mut body).insert("name".to_owned(), meta::generated_name(&base).into());
            }
            match self.create_named(kind, namespace, &body, options, recorded).await {
                Err(e) if e.reason == Reason::AlreadyExists && generate && attempt < NAME_ATTEMPTS => {}
                Ok(mut written) => {
                    written.warnings.splice(0..0, warnings);
                    return Ok(written);
                }
                // As upstream: the same words each time, whatever the name would have been, so that events of it add up.
                Err(mut error) if error.reason == Reason::Forbidden && generate && !error.name.is_empty() => {
                    let name = std::mem::replace(&mut error.name, base.clone());
                    error.message = error.message.replace(&name, &base);
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop returns")
    }

    async fn create_named(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        object: &Value,
        options: &WriteOptions,
        recorded: bool,
    ) -> Result<Written, ApiError> {
        let name = meta::text(object, "name").to_owned();
        for _ in 0..ATTEMPTS {
            let mut undo = Undo::default();
            let outcome =
                self.create_once(kind, namespace, object.clone(), options, recorded, &mut undo).await;
            if !matches!(outcome, Ok(Some(_))) {
                undo.run();
            }
            match outcome? {
                Some(written) => return Ok(written),
                None => tokio::task::yield_now().await,
            }
        }
        Err(ApiError::conflict(kind.resource, &name, MODIFIED))
    }

    /// A new object as it is stored, of which no client has asked: nobody admits or validates it.
    pub(super) fn fresh(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Draft, ApiError> {
        ownership::record_creation(&self.kinds(), kind, &mut object, options);
        kind.rules.prepare_create(&mut object);
        prepare_metadata(kind, namespace, &mut object);
        complete(&kind.ty, &mut object);
        settle(&kind.ty, &mut object);
        let name = meta::text(&object, "name").to_owned();
        draft(kind, Key::scoped(kind.resource, namespace, &name), &object)
    }

    /// One attempt; `None` when somebody else was faster on what is stored beside it.
    async fn create_once(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        mut object: Value,
        options: &WriteOptions,
        recorded: bool,
        undo: &mut Undo,
    ) -> Result<Option<Written>, ApiError> {
        let name = meta::text(&object, "name").to_owned();
        if !recorded {
            wipe_metadata(&mut object);
            let written = options.view.as_deref().unwrap_or(kind);
            ownership::record_creation(&self.kinds(), written, &mut object, options);
        }
        // Those of another version of the kind may be others.
        if recorded || options.view.is_some() {
            kind.rules.defaults(&mut object);
        }
        let mut warnings = kind.rules.early_warnings(&object);
        kind.rules.prepare_create(&mut object);
        prepare_metadata(kind, namespace, &mut object);
        self.mutate(Request {
            operation: Operation::Create,
            kind,
            subresource: None,
            namespace,
            name: &name,
            object: &mut object,
            old: None,
            actor: &options.actor,
            dry_run: options.dry_run,
            objects: self,
            undo,
        })
        .await?;
        complete(&kind.ty, &mut object);
        let written = options.view.as_deref().unwrap_or(kind);
        let mut causes = written.rules.validate(&object, None);
        if causes.is_empty() {
            causes = kinds::validate_create(&object);
        }
        if !causes.is_empty() {
            return Err(ApiError::invalid(&kind.group, &kind.kind, &name, causes));
        }
        let write = Checked {
            operation: Operation::Create,
            kind,
            subresource: None,
            namespace,
            name: &name,
            object: Some(&object),
            old: None,
            actor: &options.actor,
            dry_run: options.dry_run,
            objects: self,
        };
        let batch = self.validate(write).await?;
        settle(&kind.ty, &mut object);
        warnings.extend(kind.rules.warnings(&object));
        let key = Key::scoped(kind.resource, namespace, &name);
        let draft = draft(kind, key.clone(), &object)?;
        if options.dry_run {
            if self.stored(&key).is_some() {
                return Err(ApiError::already_exists(kind.resource, &name));
            }
            // As upstream: what was never stored has no revision to show.
            let mut preview = draft.at(self.revision());
            preview.json = crate::model::encode(&object);
            return Ok(Some(Written { object: preview.into(), created: true, warnings }));
        }
        let changes = batch.after(Change::Put { draft, expect: Expect::Absent });
        match self.inner.store.commit(changes).await {
            Ok(mut objects) => Ok(Some(Written { object: objects.remove(0), created: true, warnings })),
            Err(StoreError::Conflict { key: taken, .. }) if taken == key => {
                Err(ApiError::already_exists(kind.resource, &name))
            }
            // What is stored beside it has changed meanwhile.
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Takes away what no client can say of a new object.
fn wipe_metadata(object: &mut Value) {
    const OURS: [&str; 6] = [
        "resourceVersion",
        "selfLink",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    let metadata = meta::of_mut(object);
    for field in OURS {
        metadata.remove(field);
    }
}

/// What the server alone decides about a new object's metadata.
fn prepare_metadata(kind: &Kind, namespace: Option<&str>, object: &mut Value) {
    wipe_metadata(object);
    let metadata = meta::of_mut(object);
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), meta::now().into());
    match namespace {
        Some(namespace) => metadata.insert("namespace".to_owned(), namespace.into()),
        None => metadata.remove("namespace"),
    };
    if kind.generation {
        metadata.insert("generation".to_owned(), 1.into());
    }
}
