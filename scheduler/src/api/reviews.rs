//! The reviews by which a client asks about itself: who it is and what it may. The answers are those of the authorizer that
//! lets requests in.

use http::StatusCode;
use serde_json::{Value, json};

use super::{body, negotiate::Form, request::RequestContext, respond, route::Review, table};
use crate::{
    access::{Attributes, Authorizer, Decision, RequestInfo, Rules},
    model::{ApiError, Cause, Reason},
    objects::{Actor, meta},
};

/// Answers a review about the caller.
pub(super) async fn review(
    review: Review,
    ask: &RequestContext<'_>,
    body: axum::body::Body,
    authorizer: &dyn Authorizer,
) -> Result<axum::response::Response, ApiError> {
    let (group, kind) = match review {
        Review::Subject => ("authentication.k8s.io", "SelfSubjectReview"),
        Review::Access => ("authorization.k8s.io", "SelfSubjectAccessReview"),
        Review::Rules => ("authorization.k8s.io", "SelfSubjectRulesReview"),
    };
    let bytes = body::read(body).await?;
    let asked = body::decode(ask.headers, &bytes, kind)?.value;
    is_of(&asked, group, kind)?;
    if ask.accepted.form == Form::PartialList {
        let package = group.split('.').next().unwrap_or_default();
        let message = format!(
            "you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{kind})"
        );
        return Err(ApiError::new(Reason::NotAcceptable, message));
    }
    let actor = ask.actor;
    let mut answer = json!({"kind": kind, "apiVersion": format!("{group}/v1"), "metadata": {}});
    match review {
        Review::Subject => {
            answer["metadata"]["creationTimestamp"] = meta::now().into();
            answer["status"] = json!({"userInfo": user_info(actor)});
        }
        Review::Access => {
            let spec = access_spec(&asked)?;
            answer["status"] = decided(actor, &spec, authorizer);
            answer["spec"] = spec;
        }
        Review::Rules => {
            let namespace = asked["spec"]["namespace"].as_str().unwrap_or("");
            if namespace.is_empty() {
                return Err(ApiError::new(Reason::BadRequest, "no namespace on request"));
            }
            let mut rules = Rules::default();
            authorizer.rules(actor, namespace, &mut rules);
            let Rules { resources, paths } = rules;
            answer["spec"] = json!({});
            answer["status"] =
                json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
        }
    }
    let answer =
        if ask.accepted.form == Form::Partial { table::partial(&answer, ask.accepted) } else { answer };
    Ok(respond::value(StatusCode::CREATED, &answer, ask.wishes).await)
}

/// Refuses a body that says that it is something else.
fn is_of(asked: &Value, group: &str, kind: &str) -> Result<(), ApiError> {
    let text = |field: &str| asked[field].as_str().unwrap_or("");
    let (version, own) = (text("apiVersion"), text("kind"));
    let right = (version.is_empty() || version == format!("{group}/v1")) && (own.is_empty() || own == kind);
    if right {
        return Ok(());
    }
    let message = format!(
        "{own} in version {version:?} cannot be handled as a {kind}: no kind {own:?} is registered for version \
         {version:?} in scheme \"pkg/runtime/scheme.go:111\""
    );
    Err(ApiError::new(Reason::BadRequest, message))
}

/// What is asked about, which must be one thing.
fn access_spec(asked: &Value) -> Result<Value, ApiError> {
    let mut spec = serde_json::Map::new();
    for field in ["resourceAttributes", "nonResourceAttributes", "user", "groups", "uid", "extra"] {
        if let Some(value) = asked["spec"].get(field).filter(|value| !value.is_null()) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
    let path = spec.get("nonResourceAttributes");
    if path.is_some() != spec.contains_key("resourceAttributes") {
        return Ok(Value::Object(spec));
    }
    let given = path.map_or_else(
        || "null".to_owned(),
        |path| {
            json!({"Path": path["path"].as_str().unwrap_or(""), "Verb": path["verb"].as_str().unwrap_or("")})
                .to_string()
        },
    );
    let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
    let message = format!("Invalid value: {given}: {why}");
    let cause = Cause { reason: "FieldValueInvalid", field: "spec".to_owned(), message };
    Err(ApiError::invalid("authorization.k8s.io", "", "", vec![cause]))
}

/// A user as upstream shows one; what is not known is left out.
fn user_info(actor: &Actor) -> Value {
    let groups: Vec<&str> = actor.groups.iter().map(|group| &**group).collect();
    let mut info = json!({"username": &*actor.user, "groups": groups});
    if let Some(uid) = &actor.uid {
        info["uid"] = (**uid).into();
    }
    if let Some(extra) = &actor.extra {
        info["extra"] = json!(**extra);
    }
    info
}

/// What the authorizer says to the request that a review describes.
fn decided(actor: &Actor, spec: &Value, authorizer: &dyn Authorizer) -> Value {
    let request = match (spec.get("resourceAttributes"), spec.get("nonResourceAttributes")) {
        (Some(of), _) => {
            let text = |field: &str| of[field].as_str().unwrap_or("");
            RequestInfo {
                is_resource: true,
                verb: text("verb"),
                group: text("group"),
                version: text("version"),
                resource: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name").into(),
                path: "",
            }
        }
        (None, of) => {
            let text = |field: &str| of.and_then(|of| of[field].as_str()).unwrap_or("");
            RequestInfo { verb: text("verb"), path: text("path"), ..RequestInfo::default() }
        }
    };
    let (mut status, why) = match authorizer.authorize(Attributes { actor, request: &request }) {
        Decision::Allow => return json!({"allowed": true}),
        Decision::Deny(why) => (json!({"allowed": false, "denied": true}), why),
        Decision::NoOpinion(why) => (json!({"allowed": false}), why),
    };
    if !why.is_empty() {
        status["reason"] = why.into();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_asks_about_one_thing() {
        let refused = access_spec(&json!({"spec": {}})).unwrap_err();
        assert_eq!(
            refused.message,
            ".authorization.k8s.io \"\" is invalid: spec: Invalid value: null: exactly one of nonResourceAttributes or \
             resourceAttributes must be specified"
        );
        let spec = json!({"resourceAttributes": {"verb": "get"}});
        assert_eq!(access_spec(&json!({"spec": spec, "nope": 1})).unwrap(), spec);
        assert!(
            is_of(&json!({"kind": "Pod", "apiVersion": "v1"}), "authentication.k8s.io", "SelfSubjectReview")
                .is_err()
        );
        assert!(is_of(&json!({}), "authentication.k8s.io", "SelfSubjectReview").is_ok());
    }

    #[test]
    fn a_review_says_what_the_request_would_be_told() {
        let authorizer = crate::access::standard();
        let eve = Actor::new("eve", [crate::access::AUTHENTICATED]);
        let said = |actor: &Actor, spec: Value| decided(actor, &spec, &authorizer);
        let pods = || json!({"resourceAttributes": {"verb": "list", "resource": "pods"}});
        let path = |path: &str| json!({"nonResourceAttributes": {"verb": "get", "path": path}});
        assert_eq!(said(&Actor::controller("test"), pods()), json!({"allowed": true}));
        let why = "the user is not in the group system:masters";
        assert_eq!(said(&eve, pods()), json!({"allowed": false, "reason": why}));
        assert_eq!(said(&eve, path("/apis/apps/v1")), json!({"allowed": true}), "as the request itself");
        assert_eq!(said(&eve, path("/metrics"))["allowed"], false);
        let node = Actor::new("system:node:n1", [crate::access::AUTHENTICATED, crate::pki::NODES_GROUP]);
        assert_eq!(said(&node, pods())["denied"], true);
    }
}
