//! RuntimeClasses.

use std::{borrow::Cow, collections::BTreeSet};

use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules,
    json::{items, text},
    pod,
    print::{AGE, NAME, age, column, name},
    validate::{Path, Problems, meta, names},
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        create_on_update: true,
        revision_on_update: true,
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<RuntimeClass>(Classes)
    }
}

const COLUMNS: &[Column] = &[NAME, column("Handler", "string", ""), AGE];

struct Classes;

impl Rules for Classes {
    fn validate(&self, class: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(class, old)
    }

    fn warnings(&self, class: &Value) -> Vec<String> {
        warnings(class)
    }

    fn update_warnings(&self, new: &Value, _: &Value) -> Vec<String> {
        warnings(new)
    }

    fn cells(&self, class: &Value, now: i64) -> Vec<Value> {
        vec![name(class), json!(text(class, "handler")), age(class, now)]
    }
}

fn warnings(class: &Value) -> Vec<String> {
    pod::warnings::deprecated_labels(&class["scheduling"]["nodeSelector"], "scheduling.nodeSelector")
}

/// A RuntimeClass; `old` on update.
fn validate(class: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::plain_object_meta(class, names::dns_subdomain, &mut problems);
    let (handler, path) = (text(class, "handler"), Path::new("handler"));
    if handler.is_empty() {
        problems.required(&path, "");
    } else {
        problems.all(&path, handler, names::declared_label(handler));
    }
    pod::resources::overhead(&class["overhead"]["podFixed"], &Path::new("overhead"), &mut problems);
    let (scheduling, path) = (&class["scheduling"], Path::new("scheduling"));
    meta::labels(&scheduling["nodeSelector"], &path.field("nodeSelector"), &mut problems);
    let path = path.field("tolerations");
    pod::tolerations::check(&scheduling["tolerations"], &path, &mut problems);
    let mut seen = BTreeSet::new();
    for (index, toleration) in items(&scheduling["tolerations"]).iter().enumerate() {
        if !seen.insert(["key", "operator", "value", "effect"].map(|field| text(toleration, field))) {
            problems.duplicate_of(&path.index(index), "Toleration", toleration);
        }
    }
    if let Some(old) = old {
        meta::plain_object_meta_update(class, old, &mut problems);
        problems.immutable(&Path::new("handler"), &class["handler"], &old["handler"]);
    }
    problems.into_causes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem(change: impl Fn(&mut Value), old: Option<&Value>) -> String {
        let mut class = json!({"metadata": {"name": "gvisor"}, "handler": "runsc"});
        change(&mut class);
        let causes = validate(&class, old);
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_class_has_a_handler_and_keeps_it() {
        assert_eq!(problem(|_| {}, None), "");
        assert_eq!(problem(|c| c["handler"] = json!(""), None), "handler: Required value");
        let long = problem(|c| c["handler"] = json!("h".repeat(64)), None);
        assert!(long.ends_with(": must be no more than 63 bytes"), "{long}");
        let old = json!({"metadata": {"name": "gvisor"}, "handler": "runc"});
        assert_eq!(problem(|_| {}, Some(&old)), "handler: Invalid value: \"runsc\": field is immutable");
    }

    #[test]
    fn overhead_and_scheduling_are_checked() {
        let said = problem(|c| c["overhead"] = json!({"podFixed": {"cpu": "-1"}}), None);
        let expected = "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0";
        assert_eq!(said, expected);
        let twice = json!([{"key": "a", "operator": "Exists"}, {"key": "a", "operator": "Exists"}]);
        let said = problem(|c| c["scheduling"] = json!({"tolerations": twice}), None);
        let expected = r#"{"Key":"a","Operator":"Exists","Value":"","Effect":"","TolerationSeconds":null}"#;
        assert_eq!(said, format!("scheduling.tolerations[1]: Duplicate value: {expected}"));
        let class = json!({"scheduling": {"nodeSelector": {"beta.kubernetes.io/arch": "arm64"}}});
        assert_eq!(
            warnings(&class),
            ["scheduling.nodeSelector: deprecated since v1.14; use \"kubernetes.io/arch\" instead"]
        );
    }
}
