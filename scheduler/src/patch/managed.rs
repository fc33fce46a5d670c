//! `metadata.managedFields`: who set which field, kept through every write.

use serde_json::{Map, Value, json};

use super::{
    Writer,
    fields::FieldSet,
    typed::{Shape, compare, to_set},
};
use crate::kinds::{Kind, Subresource};

/// Managers of ordinary writes kept apart; older ones are joined into one, so that objects written by ever new
/// names stay small.
const MAX_UPDATE_MANAGERS: usize = 10;
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
    fn from_json(json: &Value) -> Option<Self> {
        let text = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Self {
            manager: text("manager"),
            operation: match json.get("operation")?.as_str()? {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            },
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: FieldSet::from_json(json.get("fieldsV1")?),
        })
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_json(),
            "manager": self.manager,
            "operation": match self.operation { Operation::Apply => "Apply", Operation::Update => "Update" },
        });
        for (name, text) in [("subresource", &self.subresource), ("time", &self.time)] {
            if !text.is_empty() {
                entry[name] = Value::from(text.as_str());
            }
        }
        entry
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
    /// Reads `metadata.managedFields`; an entry that does not read is dropped, as it owns nothing we know.
    pub(super) fn of(object: &Value) -> Self {
        let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        Self(entries.into_iter().flatten().filter_map(Entry::from_json).collect())
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

    /// Writes the entries into `object`, without those that own nothing: appliers first, then by age.
    pub(super) fn store(mut self, object: &mut Value) {
        self.0.retain(|entry| !entry.fields.is_empty());
        self.join_ancient();
        self.0.sort_by(|a, b| {
            let key = |e: &Entry| (e.operation == Operation::Update, e.time.clone(), e.manager.clone());
            key(a).cmp(&key(b))
        });
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if self.0.is_empty() {
            metadata.remove("managedFields");
        } else {
            let entries: Vec<Value> = self.0.iter().map(Entry::to_json).collect();
            metadata.insert("managedFields".to_owned(), entries.into());
        }
    }

    fn join_ancient(&mut self) {
        let (mut updates, mut rest): (Vec<Entry>, Vec<Entry>) =
            self.0.drain(..).partition(|e| e.operation == Operation::Update && e.subresource.is_empty());
        updates.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
        while updates.len() > MAX_UPDATE_MANAGERS {
            let oldest = updates.remove(0);
            let next = &mut updates[0];
            next.fields = next.fields.union(&oldest.fields);
            ANCIENT.clone_into(&mut next.manager);
        }
        rest.append(&mut updates);
        self.0 = rest;
    }
}

/// What a writer of `subresource` cannot change, so never owns.
pub(super) fn out_of_reach(kind: &Kind, subresource: Option<&str>) -> FieldSet {
    let unowned = FieldSet::from_names(&UNOWNED);
    match subresource {
        None if kind.has(Subresource::Status) => unowned.union(&FieldSet::from_names(&[&["status"]])),
        Some("status") => unowned.union(&FieldSet::from_names(&[
            &["spec"],
            &["metadata", "labels"],
            &["metadata", "annotations"],
        ])),
        _ => unowned,
    }
}

/// Takes from `set` what nobody owns and what the writer cannot reach.
pub(super) fn owned(kind: &Kind, subresource: Option<&str>, set: &FieldSet) -> FieldSet {
    let out = set.difference(&FieldSet::from_names(&UNOWNED));
    let subtrees = out_of_reach(kind, subresource).difference(&FieldSet::from_names(&UNOWNED));
    out.without_subtrees(&subtrees)
}

/// Records an ordinary write: the writer comes to own what differs between `live` and `object`, everyone else
/// loses it. Entries that the client itself sent in `object` are honoured (that is how kubectl migrates from
/// client-side apply); an empty list makes them be forgotten.
pub fn record_update(kind: &Kind, live: Option<&Value>, object: &mut Value, writer: &Writer<'_>) {
    let sent = object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned();
    if sent.as_ref().is_some_and(|list| matches!(list.as_slice(), [Value::Object(one)] if one.is_empty())) {
        return Managers::default().store(object);
    }
    let mut managers = match (&sent, live) {
        (Some(list), _) if !list.is_empty() && writer.subresource.is_none() => Managers::of(object),
        (_, Some(live)) => Managers::of(live),
        _ => Managers::default(),
    };
    let bare = Value::Object(Map::new());
    let before = without_managed_fields(live.unwrap_or(&bare));
    let after = without_managed_fields(object);
    let shape = Shape::of_definition(kind.definition);
    let change = compare(shape, Some(&before), Some(&after));
    let gained = owned(kind, writer.subresource, &change.modified.union(&change.added));
    for entry in &mut managers.0 {
        entry.fields = entry.fields.difference(&change.removed).difference(&gained);
    }
    // An object that nobody tracked so far stays untracked until somebody applies it.
    let tracked = live.is_none() || !managers.0.is_empty();
    if tracked && !gained.is_empty() {
        let entry = managers.entry(Operation::Update, writer, &kind.api_version());
        entry.fields = entry.fields.union(&gained);
        writer.now.clone_into(&mut entry.time);
    }
    managers.store(object);
}

/// The object without its bookkeeping.
pub(super) fn without_managed_fields(object: &Value) -> Value {
    let mut out = object.clone();
    if let Some(metadata) = out.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    out
}

/// Everything that `object` sets, as one owner would own it.
pub(super) fn everything(kind: &Kind, object: &Value) -> FieldSet {
    let set = to_set(Shape::of_definition(kind.definition), &without_managed_fields(object), "");
    owned(kind, None, &set.unwrap_or_default())
}
