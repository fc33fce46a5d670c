//! Label selectors as objects.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Path, Problems, meta, names};
use crate::{
    kinds::json::{items, members, text},
    model::LabelSelector,
};

/// Checks that the operator of a requirement (`operator`, `values`) has values if it needs some, and none otherwise.
pub(in crate::kinds) fn operator_has_its_values(requirement: &Value, path: &Path, problems: &mut Problems) {
    let values = items(&requirement["values"]);
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            problems.required(&path.field("values"), why);
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            problems.forbidden(&path.field("values"), why);
        }
        _ => {}
    }
}

/// Checks a `LabelSelector` object.
pub(in crate::kinds) fn label_selector(selector: &Value, path: &Path, problems: &mut Problems) {
    meta::labels(&selector["matchLabels"], &path.field("matchLabels"), problems);
    for (index, expression) in items(&selector["matchExpressions"]).iter().enumerate() {
        let path = path.field("matchExpressions").index(index);
        let values = items(&expression["values"]);
        operator_has_its_values(expression, &path, problems);
        match text(expression, "operator") {
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => problems.invalid(&path.field("operator"), other, "not a valid selector operator"),
        }
        let key = text(expression, "key");
        problems.all(&path.field("key"), key, names::qualified_name(key));
        for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
            problems.all(&path.field("values").index(index), value, names::label_value(value));
        }
    }
}

/// Whether a selector object selects something in particular.
pub(in crate::kinds) fn is_empty(selector: &Value) -> bool {
    members(&selector["matchLabels"]).next().is_none() && items(&selector["matchExpressions"]).is_empty()
}

/// Whether a selector object can be evaluated.
pub(in crate::kinds) fn parses(selector: &Value) -> bool {
    let mut problems = Problems::default();
    label_selector(selector, &Path::default(), &mut problems);
    problems.is_empty()
}

/// A selector object as upstream prints it: the fields in the order of the type.
pub(in crate::kinds) fn shown(selector: &Value) -> String {
    let expression = |expression: &Value| {
        let fields = ["key", "operator", "values"].into_iter().filter(|field| {
            // The key and the operator are always there.
            *field != "values" || !items(&expression[*field]).is_empty()
        });
        let fields = fields.map(|field| match &expression[field] {
            Value::Null => format!("\"{field}\":\"\""),
            value => format!("\"{field}\":{value}"),
        });
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    };
    let mut parts = Vec::new();
    if members(&selector["matchLabels"]).next().is_some() {
        parts.push(format!("\"matchLabels\":{}", selector["matchLabels"]));
    }
    let expressions: Vec<String> = items(&selector["matchExpressions"]).iter().map(expression).collect();
    if !expressions.is_empty() {
        parts.push(format!("\"matchExpressions\":[{}]", expressions.join(",")));
    }
    format!("{{{}}}", parts.join(","))
}

/// Whether a selector object matches `labels`; one that does not parse matches nothing.
pub(in crate::kinds) fn matches(selector: &Value, labels: &Value) -> bool {
    let labels: BTreeMap<String, String> =
        members(labels).map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect();
    let selector = serde_json::from_value(selector.clone()).ok();
    selector.and_then(|s| LabelSelector::from_object(&s).ok()).is_some_and(|s| s.matches(&labels))
}
