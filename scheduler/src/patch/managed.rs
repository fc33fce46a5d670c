//! `metadata.managedFields`: who set which field, kept through every write.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{
    Writer,
    fields::FieldSet,
    typed::{Comparison, Shape, compare},
};
use crate::kinds::{
    Kind, Subresource,
    schema::{complete, drop_empties},
};

/// Managers of ordinary writes kept apart; older ones are joined into one, so that objects written by ever new
/// names stay small.
const MAX_UPDATE_MANAGERS: usize = 10;
const MANAGED_FIELDS: &str = "managedFields";
const ANCIENT: &str = "ancient-changes";

/// Fields that identify an object or that only the server sets; nobody owns them.
const UNOWNED: [&[&str]; 12] = [
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
    &["metadata", "clusterName"],
];

/// How a manager came to own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    pub time: String,
    pub fields: FieldSet,
}

impl Entry {
    /// `None` for what is no entry.
    fn from_json(json: &Value) -> Option<Self> {
        let text = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let fields = json.get("fieldsV1").map(FieldSet::from_json).unwrap_or_default();
        let whole = text("fieldsType") == "FieldsV1" && !text("apiVersion").is_empty();
        whole.then(|| Self {
            manager: text("manager").to_owned(),
            operation,
            api_version: text("apiVersion").to_owned(),
            subresource: text("subresource").to_owned(),
            time: text("time").to_owned(),
            fields,
        })
    }

    fn into_json(self) -> Value {
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut entry = Map::new();
        let mut put = |name: &str, value: Value| drop(entry.insert(name.to_owned(), value));
        put("apiVersion", self.api_version.into());
        put("fieldsType", "FieldsV1".into());
        put("fieldsV1", self.fields.into_json());
        put("manager", self.manager.into());
        put("operation", operation.into());
        for (name, text) in [("subresource", self.subresource), ("time", self.time)] {
            if !text.is_empty() {
                put(name, text.into());
            }
        }
        Value::Object(entry)
    }

    /// Where the entry stands among the others.
    fn order(&self) -> (bool, &str, &str, &str, &str) {
        let update = self.operation == Operation::Update;
        (update, &self.time, &self.manager, &self.api_version, &self.subresource)
    }

    /// The manager as conflict messages name it.
    pub(super) fn display(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out = format!("{out} with subresource {:?}", self.subresource);
        }
        match self.operation {
            Operation::Apply => out,
            Operation::Update => format!("{out} using {}", self.api_version),
        }
    }

    /// Whether both are of one manager's writes of one sort, in whatever version.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        (&self.manager, self.operation, &self.subresource)
            == (&other.manager, other.operation, &other.subresource)
    }

    fn is(&self, operation: Operation, writer: &Writer<'_>) -> bool {
        self.operation == operation
            && self.manager == writer.manager
            && self.subresource == writer.subresource.unwrap_or_default()
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managers(pub Vec<Entry>);

impl Managers {
    /// Reads `metadata.managedFields`; nobody owns anything when an entry of it does not read.
    pub(super) fn of(object: &Value) -> Self {
        object.pointer("/metadata/managedFields").map(Self::read).unwrap_or_default()
    }

    fn read(entries: &Value) -> Self {
        let entries: Option<Vec<_>> =
            entries.as_array().into_iter().flatten().map(Entry::from_json).collect();
        Self(entries.unwrap_or_default())
    }

    /// The entry of `writer`, made when missing.
    pub(super) fn entry(
        &mut self,
        operation: Operation,
        writer: &Writer<'_>,
        api_version: &str,
    ) -> &mut Entry {
        let found = self.0.iter().position(|e| {
            e.is(operation, writer) && (operation == Operation::Apply || e.api_version == api_version)
        });
        let at = found.unwrap_or_else(|| {
            self.0.push(Entry {
                manager: writer.manager.to_owned(),
                operation,
                api_version: api_version.to_owned(),
                subresource: writer.subresource.unwrap_or_default().to_owned(),
                time: String::new(),
                fields: FieldSet::default(),
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// Everyone's fields together.
    pub(super) fn all_fields(&self) -> FieldSet {
        self.0.iter().fold(FieldSet::default(), |all, entry| all.union(&entry.fields))
    }

    /// The entries as `metadata.managedFields`, without those that own nothing: appliers first, then by age. `None` when
    /// there are none.
    fn into_json(mut self) -> Option<Value> {
        self.0.retain(|entry| !entry.fields.is_empty());
        self.0.sort_by(|a, b| a.order().cmp(&b.order()));
        (!self.0.is_empty()).then(|| self.0.into_iter().map(Entry::into_json).collect())
    }

    /// Writes the entries into `object`.
    pub(super) fn store(self, object: &mut Value) {
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        match self.into_json() {
            None => metadata.remove(MANAGED_FIELDS),
            Some(entries) => metadata.insert(MANAGED_FIELDS.to_owned(), entries),
        };
    }

    /// Records that `writer` made `after` of `before`: it comes to own what differs, everyone else loses it.
    pub(super) fn update(&mut self, kind: &Kind, before: &Value, after: &Value, writer: &Writer<'_>) {
        let change = change(kind, before, after, writer);
        if change.keyless {
            return;
        }
        let version = kind.api_version();
        let (mut written, removed) = change.written_and_removed();
        for entry in &mut self.0 {
            let other = Some(&entry.api_version).filter(|other| **other != version);
            match other.and_then(|other| writer.kinds.in_version(kind, other)) {
                None => {
                    entry.fields.subtract(&written);
                    entry.fields.subtract(&removed);
                }
                // Fields of another version of the kind are compared in that version.
                Some((other, convert)) => {
                    let change = self::change(other, &convert(before), &convert(after), writer);
                    let (written, removed) = change.written_and_removed();
                    entry.fields.subtract(&written);
                    entry.fields.subtract(&removed);
                }
            }
        }
        written.subtract(&UNOWNED_SET);
        if !written.is_empty() {
            let entry = self.entry(Operation::Update, writer, &version);
            entry.fields.add(written);
            writer.now.clone_into(&mut entry.time);
        }
        self.0.retain(|entry| !entry.fields.is_empty());
    }

    /// Joins the oldest updaters of each version until few enough are left.
    fn join_ancient(&mut self) {
        if self.0.len() <= MAX_UPDATE_MANAGERS {
            return;
        }
        let mut updates: Vec<Entry> = Vec::new();
        self.0.retain(|entry| {
            let update = entry.operation == Operation::Update;
            if update {
                updates.push(entry.clone());
            }
            !update
        });
        updates.sort_by(|a, b| a.order().cmp(&b.order()));
        let mut at = 0;
        while updates.len() > MAX_UPDATE_MANAGERS && at < updates.len() {
            let version = updates[at].api_version.clone();
            let Some(first) = updates[..at].iter().position(|e| e.api_version == version) else {
                at += 1;
                continue;
            };
            let joined = updates.remove(at);
            let bucket = &mut updates[first];
            bucket.fields.add(joined.fields);
            bucket.time = joined.time;
            ANCIENT.clone_into(&mut bucket.manager);
            bucket.subresource.clear();
        }
        self.0.append(&mut updates);
    }
}

/// What a write of `writer` changed within its reach.
fn change(kind: &Kind, before: &Value, after: &Value, writer: &Writer<'_>) -> Comparison {
    let shape = Shape::of_object(&kind.ty);
    compare(shape, Some(before), Some(after)).without_subtrees(&reset(kind, writer.subresource))
}

/// The fields that nobody owns.
pub(super) static UNOWNED_SET: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::from_names(&UNOWNED));

/// What a writer of `subresource` cannot change, so never owns.
pub(super) fn reset(kind: &Kind, subresource: Option<&str>) -> FieldSet {
    match subresource {
        Some("status") => FieldSet::from_names(kind.status_keeps),
        Some("scale") => FieldSet::default(),
        _ if kind.has(Subresource::Status) => FieldSet::from_names(&[&["status"]]),
        _ => FieldSet::default(),
    }
}

/// Whether a client asks with these `metadata.managedFields` that they be forgotten.
fn forgets(sent: &Value) -> bool {
    match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(one)]) => one.is_empty(),
        _ => false,
    }
}

/// The `metadata.managedFields` that an ordinary write leaves; `None`: none. `new` is as the client sent it, before anything
/// is carried over or admitted, and without its own managed fields, which are `sent`; `mean` makes of it what the client
/// meant, with the defaults of the kind. The writer comes to own what differs between `live` and that, everyone else
/// loses it. Entries that the client itself sent are honoured (that is how kubectl migrates from client-side apply).
pub fn record_update(
    kind: &Kind,
    live: Option<&Value>,
    sent: Option<Value>,
    new: &Value,
    mean: impl FnOnce(&mut Value),
    writer: &Writer<'_>,
) -> Option<Value> {
    let of_live = || live.map(Managers::of).unwrap_or_default();
    let sent = sent.filter(|_| writer.subresource.is_none());
    let mut managers = match sent {
        Some(sent) if forgets(&sent) => Managers::default(),
        Some(sent) => Some(Managers::read(&sent)).filter(|sent| !sent.0.is_empty()).unwrap_or_else(of_live),
        None => of_live(),
    };
    // An object that nobody tracked so far stays untracked until somebody applies it.
    if live.is_none() || !managers.0.is_empty() {
        // Fields of another version are found by converting whole objects.
        let version = kind.api_version();
        let alike = managers.0.iter().all(|entry| entry.api_version == version);
        let (mut before, mut after) =
            live.filter(|_| alike).and_then(|live| of_metadata(kind, live, new)).unwrap_or_else(|| {
                let mut meant = new.clone();
                mean(&mut meant);
                drop_empties(&kind.ty, &mut meant);
                let before = match live {
                    Some(live) if alike => apart(live, &mut meant),
                    Some(live) => without_managed_fields(live),
                    None => Value::Object(Map::new()),
                };
                (before, meant)
            });
        complete(&kind.ty, &mut before);
        complete(&kind.ty, &mut after);
        managers.update(kind, &before, &after, writer);
        managers.join_ancient();
    }
    managers.into_json()
}

/// What differs between two states of an object whose metadata alone is not the same, as after most patches: nothing else
/// of it needs to be looked at then.
fn of_metadata(kind: &Kind, old: &Value, new: &Value) -> Option<(Value, Value)> {
    let (was, is) = (old.as_object()?, new.as_object()?);
    let same = |(name, value): (&String, &Value)| name == "metadata" || was.get(name) == Some(value);
    if was.len() != is.len() || !is.iter().all(same) {
        return None;
    }
    let alone = |metadata: Value| Value::Object(Map::from_iter([("metadata".to_owned(), metadata)]));
    let mut after = alone(is.get("metadata")?.clone());
    drop_empties(&kind.ty, &mut after);
    let before = apart(was.get("metadata")?, after.get_mut("metadata")?);
    Some((alone(before), after))
}

/// An object of the kind that nobody has set anything in.
pub(super) fn nothing(kind: &Kind) -> Value {
    let mut object = Value::Object(Map::new());
    complete(&kind.ty, &mut object);
    object
}

/// The object without its bookkeeping, with all that it always shows.
pub(super) fn comparable(kind: &Kind, object: &Value) -> Value {
    let mut object = without_managed_fields(object);
    complete(&kind.ty, &mut object);
    object
}

/// `old` without its bookkeeping, and both without what is the same in them: most of an object, which nobody comes to own
/// or loses by the write. Looked at are the fields of the object and those of its metadata.
fn apart(old: &Value, new: &mut Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return old.clone() };
    let mut rest = Map::new();
    for (name, was) in old.iter().filter(|(name, _)| *name != MANAGED_FIELDS) {
        match new.get_mut(name) {
            Some(is) if is == was => drop(new.remove(name)),
            Some(is) if name == "metadata" => drop(rest.insert(name.clone(), apart(was, is))),
            _ => drop(rest.insert(name.clone(), was.clone())),
        }
    }
    Value::Object(rest)
}

/// The object without its bookkeeping, which is often half of it and is not copied.
pub(super) fn without_managed_fields(object: &Value) -> Value {
    let Some(map) = object.as_object() else { return object.clone() };
    let copied = map.iter().map(|(name, value)| {
        let value = match value {
            Value::Object(metadata) if name == "metadata" => {
                let kept = metadata.iter().filter(|(name, _)| *name != MANAGED_FIELDS);
                kept.map(|(name, value)| (name.clone(), value.clone())).collect()
            }
            value => value.clone(),
        };
        (name.clone(), value)
    });
    copied.collect()
}

/// Takes `metadata.managedFields` out of an object.
pub fn take_managed_fields(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove(MANAGED_FIELDS)
}
