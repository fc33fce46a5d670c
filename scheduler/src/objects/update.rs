//! Changing objects: the one path that update, patch and every subresource write take.

use std::sync::Arc;

use serde_json::Value;

use super::{
    ATTEMPTS, MODIFIED, Objects, Patch, WriteOptions, Written,
    admission::{Checked, Operation, Request, Undo},
    body, meta, ownership, patching, row, subresources,
    target::{Edited, Target, uid_conflict},
};
use crate::{
    kinds::{
        self, Kind, Subresource,
        schema::{complete, settle},
    },
    model::{ApiError, Cause, Object, Reason, Resource, Revision},
    store::{Change, Expect, StoreError},
};

impl Objects {
    /// Replaces; `metadata.resourceVersion` in the body, when there, must match.
    pub async fn update(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        sub: Option<Subresource>,
        mut body: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let kinds = self.kinds();
        let kind = &**row(&kinds, resource)?;
        let target = Target { kinds: &kinds, kind, namespace, name, sub };
        if sub.is_some_and(subresources::has_own_body) {
            return self.edit(target, options, |old| subresources::merge(target, old, &body)).await;
        }
        let written = options.view.as_deref().unwrap_or(kind);
        body::check_type(written, &mut body)?;
        let mut warnings = body::check_fields(written, &mut body, options)?;
        body::check_namespace(written, namespace, &mut body)?;
        body::check_name(name, &body)?;
        if sub.is_none() && self.stored(&target.key()).is_none() && kind.create_on_update {
            let uid = meta::text(&body, "uid");
            if !uid.is_empty() {
                return Err(uid_conflict(kind.resource, name, uid, ""));
            }
            // There is nothing that it could be a revision of.
            meta::of_mut(&mut body).remove("resourceVersion");
            return self.create_checked(kind, namespace, body, options, false).await;
        }
        body = body::to_stored(written, body);
        warnings.extend(meta::join_owners(&mut body));
        if sub.is_none()
            && kind.revision_on_update
            && matches!(meta::text(&body, "resourceVersion"), "" | "0")
        {
            return Err(revision_needed(target));
        }
        let edit =
            |_: &Value| Ok(Edited { object: body.clone(), warnings: warnings.clone(), recorded: false });
        self.edit(target, options, edit).await
    }

    /// Patches; server-side apply creates what is missing. Retries internally on a concurrent change unless
    /// the patch names a resourceVersion.
    pub async fn patch(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        sub: Option<Subresource>,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let kinds = self.kinds();
        let target = Target { kinds: &kinds, kind: row(&kinds, resource)?, namespace, name, sub };
        if let (Patch::Apply(body), None) = (&patch, sub) {
            match self.create_by_apply(target, body, options).await {
                // Somebody else created it in between: apply on top of that.
                Err(e) if e.reason == Reason::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(None) => {}
                Ok(Some(written)) => return Ok(written),
            }
        }
        self.edit(target, options, |old| patching::patched(target, old, &patch, options)).await
    }

    /// Creates the object of an apply patch; `None` when it is there already.
    async fn create_by_apply(
        &self,
        target: Target<'_>,
        body: &Value,
        options: &WriteOptions,
    ) -> Result<Option<Written>, ApiError> {
        if self.stored(&target.key()).is_some() {
            return Ok(None);
        }
        let kind = options.view.as_deref().unwrap_or(target.kind);
        let mut object = ownership::apply(target.kinds, kind, None, None, body, options)?;
        let uid = meta::text(&object, "uid");
        if !uid.is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(ApiError::conflict(target.kind.resource, target.name, &why));
        }
        body::check_namespace(kind, target.namespace, &mut object)?;
        body::check_name(target.name, &object)?;
        // There is nothing that it could be a revision of.
        meta::of_mut(&mut object).remove("resourceVersion");
        self.create_checked(target.kind, target.namespace, object, options, true).await.map(Some)
    }

    /// Reads, edits and writes back until nobody was faster.
    pub(super) async fn edit(
        &self,
        target: Target<'_>,
        options: &WriteOptions,
        edit: impl Fn(&Value) -> Result<Edited, ApiError>,
    ) -> Result<Written, ApiError> {
        for _ in 0..ATTEMPTS {
            let current = self
                .stored(&target.key())
                .ok_or_else(|| ApiError::not_found(target.kind.resource, target.name))?;
            let mut undo = Undo::default();
            let outcome = self.edit_once(target, options, &edit, current, &mut undo).await;
            if !matches!(outcome, Ok(Some(_))) {
                undo.run();
            }
            match outcome? {
                Some(written) => return Ok(written),
                None => tokio::task::yield_now().await,
            }
        }
        Err(ApiError::conflict(target.kind.resource, target.name, MODIFIED))
    }

    /// One attempt; `None` when somebody else was faster.
    async fn edit_once(
        &self,
        target: Target<'_>,
        options: &WriteOptions,
        edit: impl Fn(&Value) -> Result<Edited, ApiError>,
        current: Arc<Object>,
        undo: &mut Undo,
    ) -> Result<Option<Written>, ApiError> {
        let old = decode(&current)?;
        let Edited { object: mut new, mut warnings, recorded } = edit(&old)?;
        check_preconditions(target, &current, &new)?;
        if !recorded {
            ownership::record_write(
                target.kinds,
                options.view.as_deref().unwrap_or(target.kind),
                &old,
                &mut new,
                target.sub,
                options,
            );
        }
        self.finish(target, options, &old, &mut new, undo).await?;
        warnings.extend(match target.sub {
            None => target.kind.rules.update_warnings(&new, &old),
            Some(Subresource::Status) => target.kind.rules.status_warnings(&new),
            Some(_) => Vec::new(),
        });
        if unchanged(&old, &new) {
            return Ok(Some(Written { object: current, created: false, warnings }));
        }
        let ends = finished_deleting(target.kind, &old, &new);
        let write = Checked {
            operation: Operation::Update,
            kind: target.kind,
            subresource: target.sub,
            namespace: target.namespace,
            name: target.name,
            object: (!ends).then_some(&new),
            old: Some(&old),
            actor: &options.actor,
            dry_run: options.dry_run,
            objects: self,
        };
        let batch = self.validate(write).await?;
        let draft = body::draft(target.kind, target.key(), &new)?;
        if options.dry_run {
            let object = Arc::new(draft.at(current.revision));
            return Ok(Some(Written { object, created: false, warnings }));
        }
        let own = if ends {
            Change::Delete { key: target.key(), expect: current.revision }
        } else {
            Change::Put { draft, expect: Expect::At(current.revision) }
        };
        match self.inner.store.commit(batch.after(own)).await {
            Ok(mut objects) => Ok(Some(Written { object: objects.remove(0), created: false, warnings })),
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Everything between what the client wants and what is stored.
    async fn finish(
        &self,
        target: Target<'_>,
        options: &WriteOptions,
        old: &Value,
        new: &mut Value,
        undo: &mut Undo,
    ) -> Result<(), ApiError> {
        let Target { kind, namespace, name, sub, .. } = target;
        carry_metadata(old, new);
        match sub {
            Some(sub) => {
                subresources::restrict(kind, sub, old, new);
                if sub == Subresource::Status {
                    kind.rules.prepare_status(new, old);
                }
            }
            None => kind.rules.prepare_update(new, old),
        }
        kind.rules.defaults(new);
        self.mutate(Request {
            operation: Operation::Update,
            kind,
            subresource: sub,
            namespace,
            name,
            object: new,
            old: Some(old),
            actor: &options.actor,
            dry_run: options.dry_run,
            objects: self,
            undo,
        })
        .await?;
        complete(&kind.ty, new);
        let causes = faults(options.view.as_deref().unwrap_or(kind), target, new, old);
        if !causes.is_empty() {
            return Err(ApiError::invalid(&kind.group, &kind.kind, name, causes));
        }
        settle(&kind.ty, new);
        // A status is no wish, and where a pod runs is the scheduler's answer to one.
        let counted = !matches!(sub, Some(Subresource::Status | Subresource::Binding));
        if kind.generation && counted && kind.rules.counts(new, old) {
            meta::raise_generation(new, old);
        }
        Ok(())
    }
}

/// What is wrong with an update. What was stored is valid, whatever is asked of objects today: a fault that was there
/// before, in the same words, is not held against who changes something else.
fn faults(written: &Kind, target: Target<'_>, new: &Value, old: &Value) -> Vec<Cause> {
    let all = |new: &Value| {
        let mut causes = kinds::validate_update(new, old);
        causes.extend(match target.sub {
            Some(sub @ (Subresource::Status | Subresource::Finalize)) => {
                target.kind.rules.validate_sub(sub, new, old)
            }
            sub => written.rules.validate(new, Some(&subresources::before(sub, old, new))),
        });
        causes
    };
    let mut causes = all(new);
    if !causes.is_empty() {
        let before = all(old);
        causes.retain(|cause| !before.contains(cause));
    }
    causes
}

/// Decodes a stored object.
pub(super) fn decode(object: &Object) -> Result<Value, ApiError> {
    object.decode().map_err(|error| {
        tracing::error!(error = %crate::model::Chain(&error), "a stored object does not decode");
        ApiError::new(Reason::InternalError, error.to_string())
    })
}

/// Of kinds by which clients agree who leads, nobody replaces what they have not read.
fn revision_needed(target: Target<'_>) -> ApiError {
    let cause = Cause {
        reason: "FieldValueInvalid",
        field: "metadata.resourceVersion".to_owned(),
        message: "Invalid value: 0: must be specified for an update".to_owned(),
    };
    ApiError::invalid(&target.kind.group, &target.kind.plural, target.name, vec![cause])
}

/// The revision and the uid that the client names are the stored ones.
fn check_preconditions(target: Target<'_>, current: &Object, new: &Value) -> Result<(), ApiError> {
    let (resource, name) = (target.kind.resource, target.name);
    let revision = meta::text(new, "resourceVersion");
    if !revision.is_empty() && revision != "0" {
        let wanted = revision.parse().map(Revision).map_err(|_| {
            let message = format!("resourceVersion: Invalid value: {revision:?}: not a number");
            ApiError::new(Reason::BadRequest, message)
        })?;
        if wanted != current.revision {
            return Err(ApiError::conflict(resource, name, MODIFIED));
        }
    }
    let uid = meta::text(new, "uid");
    if !uid.is_empty() && uid != &*current.uid {
        return Err(target.stale("UID", uid, &current.uid));
    }
    Ok(())
}

/// Metadata that only the server writes stays as it is.
fn carry_metadata(old: &Value, new: &mut Value) {
    const OURS: [&str; 6] =
        ["name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion"];
    for field in OURS {
        meta::carry(new, old, field);
    }
    // Who asks for a deletion by setting this is told that it does not work so.
    if meta::deleting(old) {
        meta::carry(new, old, "deletionTimestamp");
    }
    if !meta::of(new).contains_key("deletionGracePeriodSeconds") {
        meta::carry(new, old, "deletionGracePeriodSeconds");
    }
    meta::of_mut(new).remove("selfLink");
}

/// Nothing but the revision, or the times at which managers wrote the same fields, is different.
fn unchanged(old: &Value, new: &Value) -> bool {
    type Same = fn(&Value, &Value) -> bool;
    fn same_but(old: &Value, new: &Value, apart: &[(&str, Same)]) -> bool {
        let (Value::Object(old), Value::Object(new)) = (old, new) else { return old == new };
        let apart_from = |name: &str| apart.iter().find(|(field, _)| *field == name).map(|(_, same)| same);
        let mut fields = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
        fields.all(|name| {
            let (old, new) = (old.get(name), new.get(name));
            old == new
                || apart_from(name)
                    .is_some_and(|same| same(old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null)))
        })
    }
    fn managers(old: &Value, new: &Value) -> bool {
        let (Value::Array(old), Value::Array(new)) = (old, new) else { return false };
        let mut pairs = old.iter().zip(new);
        old.len() == new.len() && pairs.all(|(old, new)| same_but(old, new, &[("time", |_, _| true)]))
    }
    fn metadata(old: &Value, new: &Value) -> bool {
        same_but(old, new, &[("resourceVersion", |_, _| true), ("managedFields", managers)])
    }
    same_but(old, new, &[("metadata", metadata)])
}

/// An object that waits for its finalizers goes with the last of them.
pub(super) fn finished_deleting(kind: &Kind, old: &Value, new: &Value) -> bool {
    let grace = meta::of(old).get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    meta::deleting(new) && grace == 0 && !held(kind, new)
}

/// Whether finalizers hold the object.
pub(super) fn held(kind: &Kind, object: &Value) -> bool {
    let content = kind.resource == Resource::NAMESPACES
        && object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    content || !meta::finalizers(object).is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_revision_and_the_times_of_managers_are_no_change() {
        let object = |version: &str, managers: Value, data: &str| json!({"metadata": {"name": "a", "resourceVersion": version, "managedFields": managers}, "data": data});
        let managers =
            |time: &str, fields: &str| json!([{"manager": "m", "time": time, "fieldsV1": {fields: {}}}]);
        let old = object("1", managers("t1", "f:a"), "x");
        assert!(unchanged(&old, &object("2", managers("t2", "f:a"), "x")));
        let mut timeless = object("1", managers("t1", "f:a"), "x");
        timeless["metadata"]["managedFields"][0].as_object_mut().unwrap().remove("time");
        assert!(unchanged(&old, &timeless) && unchanged(&timeless, &old));
        let mut bare = old.clone();
        bare["metadata"].as_object_mut().unwrap().remove("managedFields");
        let more = json!([managers("t1", "f:a")[0], managers("t1", "f:a")[0]]);
        let mut labelled = old.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        for new in [
            object("1", managers("t1", "f:b"), "x"),
            object("1", managers("t1", "f:a"), "y"),
            object("1", more, "x"),
            object("1", json!([]), "x"),
            bare,
            labelled,
        ] {
            assert!(!unchanged(&old, &new) && !unchanged(&new, &old), "{new}");
        }
    }
}
