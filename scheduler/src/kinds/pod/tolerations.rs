//! Validation of tolerations.

use serde_json::Value;

use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems, names},
};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Tolerations of a pod spec; also checked when an update adds some.
pub(in crate::kinds) fn check(tolerations: &Value, path: &Path, problems: &mut Problems) {
    for (index, toleration) in items(tolerations).iter().enumerate() {
        one(toleration, &path.index(index), problems);
    }
}

fn one(toleration: &Value, path: &Path, problems: &mut Problems) {
    let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
    let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
    let operator_path = path.field("operator");
    if !key.is_empty() {
        problems.all(&path.field("key"), key, names::qualified_name(key));
    } else if operator != "Exists" {
        let why =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        problems.invalid(&operator_path, operator, why);
    }
    if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        problems.invalid(&path.field("effect"), effect, why);
    }
    match operator {
        "" | "Equal" => {
            let complaints = names::label_value(value);
            if !complaints.is_empty() {
                problems.invalid(&operator_path, value, complaints.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            problems.invalid(&operator_path, value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        // Behind a gate that is off, though upstream names them.
        "Lt" | "Gt" => problems.unsupported(&operator_path, operator, &["Equal", "Exists", "Lt", "Gt"]),
        other => problems.unsupported(&operator_path, other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        problems.unsupported(&path.field("effect"), effect, &EFFECTS);
    }
}
