//! The reviews by which a client asks who it is and what it, or somebody else, may. The answers are those of the authorizer
//! that lets requests in.

use http::StatusCode;
use serde_json::{Value, json};

use super::{body, negotiate::Form, request::RequestContext, respond, table};
use crate::{
    access::{Attributes, Authorizer, Decision, RequestInfo, Rules},
    kinds::{self, Review},
    model::{ApiError, FieldSelector, LabelSelector, Reason},
    objects::{self, Actor, Extra, meta},
};

/// Answers a review, in a namespace where it is of one.
pub(super) async fn review(
    review: Review,
    namespace: Option<&str>,
    ask: &RequestContext<'_>,
    body: axum::body::Body,
    authorizer: &dyn Authorizer,
) -> Result<axum::response::Response, ApiError> {
    let kind = review.kind();
    let (group, name) = (&*kind.group, &*kind.kind);
    let mut options = ask.write_options("CreateOptions")?;
    let decoded = body::decode(ask.headers, &body::read(body).await?, name)?;
    options.duplicates = decoded.duplicates;
    options.source = decoded.source;
    let (asked, warnings) = objects::own_body(kind, namespace, decoded.value, &options)?;
    if ask.accepted.form == Form::PartialList {
        let package = group.split('.').next().unwrap_or_default();
        let message = format!(
            "you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{name})"
        );
        return Err(ApiError::new(Reason::NotAcceptable, message));
    }
    let answer = answered(review, &asked, ask.actor, authorizer)?;
    let answer =
        if ask.accepted.form == Form::Partial { table::partial(&answer, ask.accepted) } else { answer };
    let mut response = respond::value(StatusCode::CREATED, &answer, ask.wishes).await;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

/// What `actor` is told.
fn answered(
    review: Review,
    asked: &Value,
    actor: &Actor,
    authorizer: &dyn Authorizer,
) -> Result<Value, ApiError> {
    let kind = review.kind();
    let mut answer = json!({"kind": &*kind.kind, "apiVersion": kind.api_version(), "metadata": {}});
    let spec = &asked["spec"];
    match review {
        Review::SelfSubject => {
            answer["metadata"]["creationTimestamp"] = meta::now().into();
            answer["status"] = json!({"userInfo": user_info(actor)});
        }
        Review::SelfRules => {
            let namespace = spec["namespace"].as_str().unwrap_or("");
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
        Review::SelfAccess | Review::Access | Review::LocalAccess => {
            let causes = kinds::check_access(review, asked);
            if !causes.is_empty() {
                return Err(ApiError::invalid(&kind.group, "", "", causes));
            }
            let status = match review {
                Review::SelfAccess => decided(actor, spec, authorizer),
                _ => decided(&subject(spec), spec, authorizer),
            };
            answer["metadata"] = asked["metadata"].clone();
            answer["status"] = status;
            answer["spec"] = spec.clone();
        }
    }
    Ok(answer)
}

/// Whom a review is about. Of groups they have those that it names and no others, as upstream.
fn subject(spec: &Value) -> Actor {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let groups = texts(&spec["groups"]);
    let mut actor = Actor::new(&text(&spec["user"]), groups.iter().map(String::as_str));
    actor.uid = spec["uid"].as_str().map(Into::into);
    let extra = spec["extra"].as_object();
    let extra: Option<Extra> =
        extra.map(|extra| extra.iter().map(|(key, values)| (key.clone(), texts(values))).collect());
    actor.extra = extra.map(Into::into);
    actor
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
        Decision::Allow => (json!({"allowed": true}), "".into()),
        Decision::Deny(why) => (json!({"allowed": false, "denied": true}), why),
        Decision::NoOpinion(why) => (json!({"allowed": false}), why),
    };
    if !why.is_empty() {
        status["reason"] = why.into();
    }
    let ignored = ignored(&spec["resourceAttributes"]);
    if !ignored.is_empty() {
        status["evaluationError"] = ignored.join("; ").into();
    }
    status
}

/// What of a question's selectors could not be understood: it was then about more.
fn ignored(attributes: &Value) -> Vec<String> {
    let understood = |field: &str, requirement: &Value| {
        let (operator, values) = (requirement["operator"].as_str(), requirement["values"].as_array());
        let count = values.map_or(0, Vec::len);
        match operator {
            Some("In" | "NotIn") => field == "labelSelector" || count == 1,
            Some("Exists" | "DoesNotExist") => field == "labelSelector",
            _ => false,
        }
    };
    let raw = |field: &str, text: &str| match field {
        "labelSelector" => LabelSelector::parse(text).is_ok(),
        _ => FieldSelector::parse(text).is_ok(),
    };
    let told = |field: &str| {
        let selector = &attributes[field];
        let requirements = selector["requirements"].as_array().map_or(&[][..], Vec::as_slice);
        let good = requirements.iter().filter(|requirement| understood(field, requirement)).count();
        let broken = selector["rawSelector"].as_str().is_some_and(|text| !raw(field, text));
        let how = match (good == requirements.len() && !broken, good) {
            (true, _) => return None,
            (false, 0) => "ignored",
            (false, _) => "partially ignored",
        };
        Some(format!("spec.resourceAttributes.{field} {how} due to parse error"))
    };
    ["fieldSelector", "labelSelector"].into_iter().filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_may_be_about_somebody_else() {
        let authorizer = crate::access::standard();
        let admin = Actor::new("admin", [crate::access::MASTERS]);
        let ask = |review, asked: Value| answered(review, &asked, &admin, &authorizer);
        let pods = |mut spec: Value| {
            spec["resourceAttributes"] = json!({"verb": "list", "resource": "pods"});
            json!({"spec": spec})
        };
        let eve = ask(Review::Access, pods(json!({"user": "eve"}))).unwrap();
        assert_eq!((&eve["status"]["allowed"], &eve["spec"]["user"]), (&json!(false), &json!("eve")));
        let known = json!({"user": "eve", "groups": [crate::access::MASTERS]});
        assert_eq!(ask(Review::Access, pods(known)).unwrap()["status"], json!({"allowed": true}));
        let own = ask(Review::SelfAccess, pods(json!({}))).unwrap();
        assert_eq!(own["status"]["allowed"], true, "of the caller it says what the caller may");
        let refused = ask(Review::LocalAccess, pods(json!({"user": "eve"}))).unwrap();
        assert_eq!(refused["kind"], "LocalSubjectAccessReview");
        assert_eq!(
            ask(Review::Access, pods(json!({}))).unwrap_err().message,
            ".authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of user or group must be \
             specified"
        );
        let full = subject(&json!({"user": "eve", "uid": "7", "extra": {"scopes": ["a", "b"]}}));
        assert_eq!((full.uid.as_deref(), full.groups.len()), (Some("7"), 0));
        assert_eq!(full.extra.unwrap()["scopes"], ["a", "b"]);
    }

    #[test]
    fn what_was_not_understood_of_a_question_is_told() {
        let told = |attributes: Value| ignored(&attributes);
        let raw = |text: &str| json!({"labelSelector": {"rawSelector": text}});
        assert_eq!(told(raw("a=b")), [""; 0]);
        let head = "spec.resourceAttributes";
        assert_eq!(told(raw("a in (")), [format!("{head}.labelSelector ignored due to parse error")]);
        let fields = json!({"fieldSelector": {"requirements": [
            {"key": "a", "operator": "In", "values": ["b"]}, {"key": "c", "operator": "Exists"}]}});
        assert_eq!(told(fields), [format!("{head}.fieldSelector partially ignored due to parse error")]);
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
