//! Who may in: identity from the client certificate, the coarse authorization of this version, and the
//! reviews by which a client asks about itself.

use http::{Method, StatusCode};
use serde_json::json;

use super::{body, request::Ask, respond, route::Review};
use crate::{
    model::{ApiError, Reason},
    objects::{Actor, meta},
    pki::{Identity, NODES_GROUP},
};

/// The group that may do everything.
const MASTERS: &str = "system:masters";
/// The group that everyone with a certificate is in.
const AUTHENTICATED: &str = "system:authenticated";

/// Paths that anyone may read: probes of load balancers and the version.
const OPEN: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// The identity behind a verified certificate.
pub(super) fn actor(identity: Identity) -> Actor {
    let mut groups: Vec<_> = identity.groups.iter().map(|g| g.as_str().into()).collect();
    groups.push(AUTHENTICATED.into());
    Actor { user: identity.user.into(), groups }
}

/// Whether a path needs no identity.
pub(super) fn is_open(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    OPEN.iter().any(|open| path == *open || path.strip_prefix(open).is_some_and(|rest| rest.starts_with('/')))
}

/// Lets the caller in or refuses: 401 without an identity, 403 without the right.
pub(super) fn authorize<'a>(
    actor: Option<&'a Actor>,
    method: &Method,
    path: &str,
) -> Result<&'a Actor, ApiError> {
    let Some(actor) = actor else {
        return Err(ApiError::new(Reason::Unauthorized, "Unauthorized"));
    };
    if is_master(actor) {
        return Ok(actor);
    }
    let why = if actor.groups.iter().any(|g| &**g == NODES_GROUP) {
        "nodes speak to the cluster over their session only"
    } else {
        "the user is not in the group system:masters"
    };
    let verb = method.as_str().to_ascii_lowercase();
    let message = format!("forbidden: User {:?} cannot {verb} path {path:?}: {why}", actor.user);
    Err(ApiError::new(Reason::Forbidden, message))
}

fn is_master(actor: &Actor) -> bool {
    actor.groups.iter().any(|g| &**g == MASTERS)
}

/// Answers a review about the caller.
pub(super) async fn review(
    review: Review,
    ask: &Ask<'_>,
    body: axum::body::Body,
) -> Result<axum::response::Response, ApiError> {
    let (actor, bytes) = (ask.actor, body::read(body).await?);
    // kubectl asks in protobuf. What it asks makes no difference to the answer: rights do not depend on the
    // object yet.
    let mut body = match body::media_type(ask.headers) {
        "application/vnd.kubernetes.protobuf" => json!({"spec": {}}),
        _ => body::decode(ask.headers, &bytes)?.value,
    };
    if !body.is_object() {
        return Err(ApiError::new(Reason::BadRequest, "the request body is not a JSON object"));
    }
    let (api_version, kind, status) = match review {
        Review::Subject => {
            let info = json!({"username": &*actor.user, "groups": actor.groups.iter().map(|g| &**g).collect::<Vec<_>>()});
            ("authentication.k8s.io/v1", "SelfSubjectReview", json!({"userInfo": info}))
        }
        Review::Access => {
            ("authorization.k8s.io/v1", "SelfSubjectAccessReview", json!({"allowed": is_master(actor)}))
        }
        Review::Rules => {
            let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
            let paths = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
            let nothing = || json!([]);
            let rules = if is_master(actor) { (everything, paths) } else { (nothing(), nothing()) };
            let status = json!({"resourceRules": rules.0, "nonResourceRules": rules.1, "incomplete": false});
            ("authorization.k8s.io/v1", "SelfSubjectRulesReview", status)
        }
    };
    body["apiVersion"] = api_version.into();
    body["kind"] = kind.into();
    body["metadata"] = json!({"creationTimestamp": meta::now()});
    body["status"] = status;
    Ok(respond::value(StatusCode::CREATED, &body, ask.wishes).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(user: &str, groups: &[&str]) -> Actor {
        actor(Identity { user: user.to_owned(), groups: groups.iter().map(|g| (*g).to_owned()).collect() })
    }

    #[test]
    fn only_masters_get_in() {
        let reason = |actor: Option<&Actor>| {
            authorize(actor, &Method::GET, "/api/v1/secrets").map(|_| ()).map_err(|e| e.reason)
        };
        assert_eq!(reason(None), Err(Reason::Unauthorized));
        assert_eq!(reason(Some(&who("admin", &["system:masters"]))), Ok(()));
        assert_eq!(reason(Some(&who("system:node:n1", &["system:nodes"]))), Err(Reason::Forbidden));
        assert_eq!(reason(Some(&who("eve", &[]))), Err(Reason::Forbidden));
    }

    #[test]
    fn probes_and_the_version_are_open_and_nothing_else() {
        for path in ["/healthz", "/livez", "/readyz", "/readyz/store", "/version", "/version/"] {
            assert!(is_open(path), "{path}");
        }
        for path in ["/", "/api", "/healthzz", "/metrics", "/openapi/v3"] {
            assert!(!is_open(path), "{path}");
        }
    }
}
