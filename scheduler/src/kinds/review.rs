//! Reviews: questions about identity and rights that are sent as objects and answered at once, none of which is stored.
//! Their types, and what one must be like to be answered, in upstream's words. Never: the answer.

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    authorization::v1::{
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    },
};
use serde_json::{Value, json};

use super::{
    Kind,
    bodies::Body,
    json::{items, text},
    validate::{Path, Problems, names, selectors},
};
use crate::model::Cause;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    /// Who the caller is: `kubectl auth whoami`.
    SelfSubject,
    /// Whether the caller may: `kubectl auth can-i`.
    SelfAccess,
    /// What the caller may: `kubectl auth can-i --list`.
    SelfRules,
    /// Whether somebody may.
    Access,
    /// Whether somebody may in one namespace: its question can be left to those who look after that namespace.
    LocalAccess,
}

static KINDS: LazyLock<[(Review, Arc<Kind>); 5]> = LazyLock::new(|| {
    [
        (Review::SelfSubject, Kind::published::<SelfSubjectReview>(Body)),
        (Review::SelfAccess, Kind::published::<SelfSubjectAccessReview>(Body)),
        (Review::SelfRules, Kind::published::<SelfSubjectRulesReview>(Body)),
        (Review::Access, Kind::published::<SubjectAccessReview>(Body)),
        (Review::LocalAccess, Kind::published::<LocalSubjectAccessReview>(Body)),
    ]
    .map(|(review, kind)| (review, Arc::new(kind)))
});

impl Review {
    /// The one at a path.
    pub fn of(group: &str, version: &str, plural: &str) -> Option<Self> {
        if !matches!(group, "authentication.k8s.io" | "authorization.k8s.io") {
            return None;
        }
        let at = |kind: &Kind| kind.is_of(group, version) && kind.plural == plural;
        KINDS.iter().find(|(_, kind)| at(kind)).map(|(review, _)| *review)
    }

    /// The type of its object.
    pub fn kind(self) -> &'static Arc<Kind> {
        let own = KINDS.iter().find(|(review, _)| *review == self);
        &own.unwrap_or(&KINDS[0]).1
    }
}

/// What is wrong with a review of somebody's rights.
pub fn check_access(review: Review, object: &Value) -> Vec<Cause> {
    let (mut problems, spec, path) = (Problems::default(), &object["spec"], Path::new("spec"));
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    // As upstream prints its own type.
    let shown = match other {
        Value::Null => "null".to_owned(),
        other => json!({"Path": text(other, "path"), "Verb": text(other, "verb")}).to_string(),
    };
    if resource.is_null() == other.is_null() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        problems.invalid_shown(&path, &shown, why);
    }
    let nobody = text(spec, "user").is_empty() && items(&spec["groups"]).is_empty();
    if review != Review::SelfAccess && nobody {
        problems.invalid(&path.field("user"), "", "at least one of user or group must be specified");
    }
    let path = path.field("resourceAttributes");
    for field in ["fieldSelector", "labelSelector"] {
        if !resource[field].is_null() {
            selector(&resource[field], &path.field(field), field == "labelSelector", &mut problems);
        }
    }
    let local = review == Review::LocalAccess;
    let metadata = &object["metadata"];
    let others = metadata.as_object().into_iter().flatten();
    let mut others = others.filter(|(name, _)| *name != "managedFields" && !(local && *name == "namespace"));
    if others.any(|(_, value)| !value.is_null()) {
        let why = if local { "must be empty except for namespace" } else { "must be empty" };
        problems.invalid(&Path::new("metadata"), metadata.clone(), why);
    }
    if local {
        let namespace = text(resource, "namespace");
        if !resource.is_null() && namespace != text(metadata, "namespace") {
            problems.invalid(&path.field("namespace"), namespace, "must match metadata.namespace");
        }
        if !other.is_null() {
            let path = Path::new("spec").field("nonResourceAttributes");
            problems.invalid_shown(&path, &shown, "disallowed on this kind of request");
        }
    }
    problems.into_causes()
}

/// Operators that are not known yet are let through, as upstream: the question is then about more.
fn selector(selector: &Value, path: &Path, labels: bool, problems: &mut Problems) {
    let (raw, requirements) = (text(selector, "rawSelector"), items(&selector["requirements"]));
    match (raw, requirements.is_empty()) {
        ("", true) => {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            problems.required(&path.field("requirements"), &why);
        }
        ("", false) | (_, true) => {}
        (raw, false) => {
            let why = "may not specified at the same time as requirements";
            problems.invalid(&path.field("rawSelector"), raw, why);
        }
    }
    for (index, requirement) in requirements.iter().enumerate() {
        let path = path.field("requirements").index(index);
        let (key, values) = (text(requirement, "key"), items(&requirement["values"]));
        if !labels && key.is_empty() {
            problems.required(&path.field("key"), "must be specified");
        }
        selectors::operator_has_its_values(requirement, &path, problems);
        if labels {
            problems.all(&path.field("key"), key, names::qualified_name(key));
            for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
                problems.all(&path.field("values").index(index), value, names::label_value(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(review: Review, object: &Value) -> Vec<String> {
        let told = |cause: Cause| format!("{}: {}", cause.field, cause.message);
        check_access(review, object).into_iter().map(told).collect()
    }

    #[test]
    fn a_review_of_rights_asks_about_one_thing_and_somebody() {
        let one = "spec: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let (pods, path) = (json!({"verb": "get", "resource": "pods"}), json!({"verb": "get", "path": "/x"}));
        assert_eq!(said(Review::SelfAccess, &json!({"spec": {}})), [one]);
        assert_eq!(said(Review::SelfAccess, &json!({"spec": {"resourceAttributes": pods}})), [""; 0]);
        let nobody = "spec.user: Invalid value: \"\": at least one of user or group must be specified";
        assert_eq!(said(Review::Access, &json!({"spec": {"resourceAttributes": pods}})), [nobody]);
        for who in [json!({"user": "eve"}), json!({"groups": ["dev"]})] {
            let mut spec = who;
            spec["nonResourceAttributes"] = path.clone();
            assert_eq!(said(Review::Access, &json!({"spec": spec})), [""; 0]);
            spec["resourceAttributes"] = pods.clone();
            let both = one.replace("null", "{\"Path\":\"/x\",\"Verb\":\"get\"}");
            assert_eq!(said(Review::Access, &json!({"spec": spec})), [both]);
        }
        let named = json!({"metadata": {"name": "x"}, "spec": {"user": "eve", "resourceAttributes": pods}});
        assert_eq!(
            said(Review::Access, &named),
            ["metadata: Invalid value: {\"name\":\"x\"}: must be empty"]
        );
    }

    #[test]
    fn one_of_a_namespace_asks_about_that() {
        let of = |namespace: &str| {
            json!({"metadata": {"namespace": "shop"}, "spec": {"user": "eve",
                "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": namespace}}})
        };
        assert_eq!(said(Review::LocalAccess, &of("shop")), [""; 0]);
        assert_eq!(
            said(Review::LocalAccess, &of("other")),
            ["spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace"]
        );
        let path = json!({"metadata": {"namespace": "shop"},
            "spec": {"user": "eve", "nonResourceAttributes": {"verb": "get", "path": "/x"}}});
        assert_eq!(
            said(Review::LocalAccess, &path),
            [
                "spec.nonResourceAttributes: Invalid value: {\"Path\":\"/x\",\"Verb\":\"get\"}: disallowed on this kind of \
              request"
            ]
        );
    }

    #[test]
    fn selectors_in_a_question_are_looked_at_too() {
        let attributes = json!({"verb": "list", "resource": "pods", "labelSelector": {}, "fieldSelector":
            {"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "In"}, {"operator": "Near"}]}});
        let head = "spec.resourceAttributes";
        assert_eq!(
            said(Review::SelfAccess, &json!({"spec": {"resourceAttributes": attributes}})),
            [
                format!(
                    "{head}.fieldSelector.rawSelector: Invalid value: \"a=b\": may not specified at the same time as \
                     requirements"
                ),
                format!(
                    "{head}.fieldSelector.requirements[0].values: Required value: must be specified when `operator` is \
                     'In' or 'NotIn'"
                ),
                format!("{head}.fieldSelector.requirements[1].key: Required value: must be specified"),
                format!(
                    "{head}.labelSelector.requirements: Required value: when {head}.labelSelector is specified, \
                     requirements or rawSelector is required"
                ),
            ]
        );
    }
}
