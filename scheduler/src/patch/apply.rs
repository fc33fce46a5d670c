//! Server-side apply: a structured merge of what an applier wants into the live object, with the ownership of
//! every field.

use serde_json::Value;

use super::{
    PatchError, Writer,
    check::check,
    fields::FieldSet,
    managed::{Managers, Operation, UNOWNED_SET, comparable, nothing, reset},
    merge::merge,
    typed::{Shape, compare, remove, to_set, with_passed_fields},
};
use crate::{
    kinds::{Kind, schema::complete},
    model::Cause,
};

const LAST_APPLIED_POINTER: &str = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";

/// Applies `config` as `writer.manager`. The result carries its `metadata.managedFields`; it equals `live` when
/// the apply changes nothing. Fields that the manager applied before and leaves out now go, unless somebody else
/// owns them.
pub fn apply(
    kind: &Kind,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, PatchError> {
    check_type(kind, config)?;
    if config.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(PatchError::Malformed("metadata.managedFields must be nil".to_owned()));
    }
    if let Some(problems) = check(&kind.ty, config) {
        return Err(PatchError::Failed(typed_patch_error(kind, config, &problems)));
    }
    let shape = Shape::of_object(&kind.ty);
    let set = to_set(shape, config).without_subtrees(&reset(kind, writer.subresource));
    let step = Step { kind, shape, config, set, writer };
    match step.run(live, force) {
        Err(Conflicts(conflicts)) if writer.manager == "kubectl" => {
            let allowed = live.map_or_else(FieldSet::default, |live| step.unchanged_last_applied(live));
            let left: Vec<_> = conflicts
                .into_iter()
                .map(|(who, fields)| (who, fields.difference(&allowed)))
                .filter(|(_, fields)| !fields.is_empty())
                .collect();
            if left.is_empty() {
                step.run(live, true).map_err(Conflicts::into_error)
            } else {
                Err(Conflicts(left).into_error())
            }
        }
        other => other.map_err(Conflicts::into_error),
    }
}

/// Who else owns what the applier wants to change.
struct Conflicts(Vec<(String, FieldSet)>);

struct Step<'a> {
    kind: &'a Kind,
    shape: Shape<'a>,
    config: &'a Value,
    /// All that `config` sets within the writer's reach, also what nobody owns (the name).
    set: FieldSet,
    writer: &'a Writer<'a>,
}

impl Step<'_> {
    fn run(&self, live: Option<&Value>, force: bool) -> Result<Value, Conflicts> {
        let before = live.map_or_else(|| nothing(self.kind), |live| comparable(self.kind, live));
        let mut managers = live.map_or_else(Managers::default, |live| self.managers_of(live, &before));
        let merged = merge(self.shape, Some(&before), self.config);

        let version = self.kind.api_version();
        let entry = managers.entry(Operation::Apply, self.writer, &version);
        let last = std::mem::replace(&mut entry.fields, self.set.clone());
        let mut after = self.prune(merged, &last, &managers);
        let reach = reset(self.kind, self.writer.subresource);
        let change = compare(self.shape, Some(&before), Some(&after)).without_subtrees(&reach);
        let (taken, removed) = change.written_and_removed();
        let mut conflicts = Vec::new();
        for entry in managers.0.iter_mut().filter(|e| !self.is_writer(e)) {
            let fields = entry.fields.intersection(&taken);
            if !fields.is_empty() {
                conflicts.push((entry.display(), fields));
            }
            entry.fields.subtract(&taken);
            entry.fields.subtract(&removed);
        }
        if !force && !conflicts.is_empty() {
            return Err(Conflicts(conflicts));
        }
        let entry = managers.entry(Operation::Apply, self.writer, &version);
        entry.fields = self.set.difference(&UNOWNED_SET);
        entry.api_version = version;
        if before != after {
            self.writer.now.clone_into(&mut entry.time);
        }
        self.follow_last_applied(&mut after);
        complete(&self.kind.ty, &mut after);
        managers.store(&mut after);
        Ok(after)
    }

    fn is_writer(&self, entry: &super::managed::Entry) -> bool {
        entry.operation == Operation::Apply
            && entry.manager == self.writer.manager
            && entry.subresource == self.writer.subresource.unwrap_or_default()
    }

    /// The managers of `live`; an object written before anybody was recorded belongs to a stand-in.
    fn managers_of(&self, live: &Value, before: &Value) -> Managers {
        let mut managers = Managers::of(live);
        if managers.0.is_empty() {
            let writer = Writer { manager: "before-first-apply", ..*self.writer };
            managers.update(self.kind, &nothing(self.kind), before, &writer);
        }
        managers
    }

    /// Drops from `merged` what the manager applied last time but not now, except what somebody else owns and
    /// what was never part of the last set.
    fn prune(&self, merged: Value, last: &FieldSet, managers: &Managers) -> Value {
        if last.is_empty() {
            return merged;
        }
        let passed = |set: &FieldSet| with_passed_fields(self.shape, set);
        let fields = |value: &Value| passed(&to_set(self.shape, value));
        let all = fields(&merged);
        let pruned = remove(self.shape, &merged, &passed(last));
        let kept = fields(&pruned).union(&passed(&managers.all_fields()));
        let with_owned = remove(self.shape, &merged, &all.difference(&kept));
        let gone = all.difference(&fields(&with_owned)).intersection(&passed(last));
        remove(self.shape, &merged, &gone)
    }

    /// Where kubectl once applied from its side, its annotation keeps telling what it applied last, so that
    /// going back to client-side apply finds the truth.
    fn follow_last_applied(&self, after: &mut Value) {
        if self.writer.manager == "kubectl"
            && let Some(last) = after.pointer_mut(LAST_APPLIED_POINTER).filter(|last| last.is_string())
        {
            *last = format!("{}\n", self.config).into();
        }
    }

    /// The fields of kubectl's last client-side apply that still are as it left them: kubectl may take those
    /// over without force when a user moves to server-side apply.
    fn unchanged_last_applied(&self, live: &Value) -> FieldSet {
        let text = live.pointer(LAST_APPLIED_POINTER).and_then(Value::as_str).unwrap_or_default();
        let Ok(last) = serde_json::from_str::<Value>(text) else { return FieldSet::default() };
        let change = compare(self.shape, Some(&last), Some(&comparable(self.kind, live)));
        let set = to_set(self.shape, &last);
        set.difference(&change.modified).difference(&change.added).difference(&change.removed)
    }
}

impl Conflicts {
    fn into_error(self) -> PatchError {
        let Self(mut conflicts) = self;
        conflicts.sort_by(|a, b| a.0.cmp(&b.0));
        let mut causes = Vec::new();
        let mut lines = Vec::new();
        for (who, fields) in &conflicts {
            lines.push(format!("conflicts with {who}:"));
            for path in fields.paths() {
                lines.push(format!("- {path}"));
                causes.push(Cause {
                    reason: "FieldManagerConflict",
                    field: path,
                    message: format!("conflict with {who}"),
                });
            }
        }
        let message = match causes.as_slice() {
            [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
            many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
        };
        PatchError::Conflict { message, causes }
    }
}

/// The body of an apply names its own type.
fn check_type(kind: &Kind, config: &Value) -> Result<(), PatchError> {
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
    if (text("apiVersion"), text("kind")) == (kind.api_version().as_str(), &*kind.kind) {
        return Ok(());
    }
    let (group, version) = match text("apiVersion").split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", text("apiVersion")),
    };
    let found = format!("{group}/{version}, Kind={}", text("kind"));
    Err(PatchError::Malformed(format!("invalid object type: {found}")))
}

fn typed_patch_error(kind: &Kind, config: &Value, problems: &str) -> String {
    let text = |name: &str| config["metadata"][name].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let version = if kind.group.is_empty() { "/v1".to_owned() } else { kind.api_version() };
    let object = format!("{namespace}/{name}; {version}, Kind={}", kind.kind);
    format!("failed to create typed patch object ({object}): {problems}")
}
