//! Who may in: identity from the client certificate, the coarse authorization of this version, and the
//! reviews by which a client asks about itself.

use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use super::{
    body,
    negotiate::Form,
    request::RequestContext,
    respond,
    route::{Review, Route},
    table,
};
use crate::{
    model::{ApiError, Cause, Reason},
    objects::{Actor, meta},
    pki::{Identity, NODES_GROUP},
};

/// The group that may do everything.
const MASTERS: &str = "system:masters";
/// The group that everyone with a certificate is in.
const AUTHENTICATED: &str = "system:authenticated";

/// The group of those without.
const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user that stands for them.
pub(super) const ANONYMOUS: &str = "system:anonymous";

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
    OPEN.iter().any(|open| path == *open || path.strip_prefix(open).is_some_and(|rest| rest.starts_with('/')))
}

/// Who the caller wants to be, by the `Impersonate-` headers of `kubectl --as`: himself without them. Only who may do
/// everything may be somebody else.
pub(super) fn impersonated(actor: Actor, headers: &HeaderMap) -> Result<Actor, ApiError> {
    let values = |name: &str| -> Vec<&str> {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    };
    let groups = values("impersonate-group");
    let Some(user) = values("impersonate-user").first().copied().filter(|user| !user.is_empty()) else {
        if headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
            let message =
                "Impersonate-User is missing: groups and the rest can only be impersonated with a user";
            return Err(ApiError::new(Reason::BadRequest, message));
        }
        return Ok(actor);
    };
    if !is_master(&actor) {
        let why = format!(
            "User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            actor.user
        );
        return Err(ApiError::forbidden("users", user, &why));
    }
    let mut groups: Vec<_> = groups.into_iter().map(Into::into).collect();
    groups.push(if user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED }.into());
    Ok(Actor { user: user.into(), groups })
}

/// Lets a known caller in, or refuses with 403.
pub(super) fn authorize(
    actor: &Actor,
    method: &Method,
    path: &str,
    route: &Route<'_>,
) -> Result<(), ApiError> {
    if is_master(actor) || (is_in(actor, AUTHENTICATED) && is_for_everyone(method, path, route)) {
        return Ok(());
    }
    let why = if is_in(actor, NODES_GROUP) {
        "nodes speak to the cluster over their session only"
    } else {
        "the user is not in the group system:masters"
    };
    let user = &actor.user;
    let verb = method.as_str().to_ascii_lowercase();
    let (kind, namespace, name, sub) = match route {
        Route::Collection(kind, namespace) => (kind, namespace, "", None),
        Route::Watch(kind, namespace, name) => (kind, namespace, name.unwrap_or(""), None),
        Route::Object(kind, namespace, name, sub) => (kind, namespace, *name, *sub),
        Route::Review(_) | Route::Other => {
            let message = format!("forbidden: User {user:?} cannot {verb} path {path:?}: {why}");
            return Err(ApiError::new(Reason::Forbidden, message));
        }
    };
    let scope = match namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let verb = match (verb.as_str(), name.is_empty()) {
        ("get", _) if matches!(route, Route::Watch(..)) => "watch",
        ("get", true) => "list",
        ("post", _) => "create",
        ("put", _) => "update",
        ("delete", true) => "deletecollection",
        (verb, _) => verb,
    };
    let (plural, group) = match sub {
        Some(sub) => (format!("{}/{}", kind.plural, sub.name()), kind.group),
        None => (kind.plural.to_owned(), kind.group),
    };
    let why =
        format!("User {user:?} cannot {verb} resource {plural:?} in API group {group:?} {scope}: {why}");
    Err(ApiError::forbidden(kind.resource, name, &why))
}

/// What every known user may, as upstream: discovery, and questions about himself.
fn is_for_everyone(method: &Method, path: &str, route: &Route<'_>) -> bool {
    const DISCOVERY: [&str; 3] = ["/api", "/apis", "/openapi"];
    let discovery = || {
        let under =
            |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        *method == Method::GET
            && DISCOVERY.into_iter().any(under)
            && !path.starts_with("/apis/metrics.k8s.io/v1beta1/")
    };
    match route {
        Route::Review(_) => true,
        Route::Other => discovery(),
        Route::Collection(..) | Route::Watch(..) | Route::Object(..) => false,
    }
}

fn is_in(actor: &Actor, group: &str) -> bool {
    actor.groups.iter().any(|g| &**g == group)
}

fn is_master(actor: &Actor) -> bool {
    is_in(actor, MASTERS)
}

/// Answers a review about the caller.
pub(super) async fn review(
    review: Review,
    ask: &RequestContext<'_>,
    body: axum::body::Body,
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
            let groups: Vec<&str> = actor.groups.iter().map(|g| &**g).collect();
            answer["metadata"]["creationTimestamp"] = meta::now().into();
            answer["status"] = json!({"userInfo": {"username": &*actor.user, "groups": groups}});
        }
        Review::Access => {
            answer["spec"] = access_spec(&asked)?;
            answer["status"] = json!({"allowed": is_master(actor)});
        }
        Review::Rules => {
            if asked["spec"]["namespace"].as_str().unwrap_or("").is_empty() {
                return Err(ApiError::new(Reason::BadRequest, "no namespace on request"));
            }
            answer["spec"] = json!({});
            answer["status"] = rules(actor);
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

/// What the caller may do: everything or, beside what everyone may, nothing.
fn rules(actor: &Actor) -> Value {
    let asks = [
        ("authorization.k8s.io", json!(["selfsubjectaccessreviews", "selfsubjectrulesreviews"])),
        ("authentication.k8s.io", json!(["selfsubjectreviews"])),
    ];
    let asks = asks
        .map(|(group, resources)| json!({"verbs": ["create"], "apiGroups": [group], "resources": resources}));
    let open = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"]});
    let discovery = json!({"verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez",
        "/openapi", "/openapi/*", "/readyz", "/version", "/version/"]});
    let (mut resources, mut paths) = (asks.to_vec(), vec![open, discovery]);
    if is_master(actor) {
        resources.insert(0, json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.insert(0, json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(user: &str, groups: &[&str]) -> Actor {
        actor(Identity { user: user.to_owned(), groups: groups.iter().map(|g| (*g).to_owned()).collect() })
    }

    fn refusal(actor: &Actor, method: &Method, path: &str) -> Option<String> {
        authorize(actor, method, path, &Route::of(path)).err().map(|error| error.message)
    }

    #[test]
    fn only_masters_get_in() {
        assert_eq!(refusal(&who("admin", &["system:masters"]), &Method::GET, "/api/v1/secrets"), None);
        let node = who("system:node:n1", &["system:nodes"]);
        let said = refusal(&node, &Method::GET, "/api/v1/secrets").unwrap();
        assert!(said.ends_with("nodes speak to the cluster over their session only"), "{said}");
        let eve = who("eve", &[]);
        let pods = "/api/v1/namespaces/shop/pods";
        assert_eq!(
            refusal(&eve, &Method::GET, pods).unwrap(),
            "pods is forbidden: User \"eve\" cannot list resource \"pods\" in API group \"\" in the namespace \"shop\": \
             the user is not in the group system:masters"
        );
        let said = refusal(&eve, &Method::DELETE, "/apis/apps/v1/namespaces/shop/deployments/web").unwrap();
        assert!(
            said.starts_with("deployments.apps \"web\" is forbidden: User \"eve\" cannot delete resource"),
            "{said}"
        );
        let proxied =
            refusal(&eve, &Method::GET, "/api/v1/namespaces/shop/pods/web:80/proxy/a/../b").unwrap();
        assert!(
            proxied
                .contains("cannot get resource \"pods/proxy\" in API group \"\" in the namespace \"shop\"")
        );
        assert!(refusal(&node, &Method::POST, "/api/v1/nodes/n2/proxy/run").is_some());
        for path in ["/metrics", "/apix", "/apis/metrics.k8s.io/v1beta1/nodes", "/logs"] {
            assert!(refusal(&eve, &Method::GET, path).is_some(), "{path}");
        }
    }

    #[test]
    fn everyone_known_may_discover_and_ask_about_himself() {
        let eve = who("eve", &[]);
        let nobody = Actor { user: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()] };
        for path in ["/api", "/apis/", "/apis/apps/v1", "/openapi/v3", "/apis/metrics.k8s.io/v1beta1"] {
            assert_eq!(refusal(&eve, &Method::GET, path), None);
            assert!(refusal(&nobody, &Method::GET, path).is_some(), "{path}");
        }
        let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        assert_eq!(refusal(&eve, &Method::POST, review), None);
    }

    #[test]
    fn only_masters_may_be_somebody_else() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), http::HeaderValue::from_static(value)))
                .collect()
        };
        let admin = || who("admin", &["system:masters"]);
        let as_bob = headers(&[("impersonate-user", "bob"), ("impersonate-group", "dev")]);
        let bob = impersonated(admin(), &as_bob).unwrap();
        assert_eq!((&*bob.user, bob.groups), ("bob", vec!["dev".into(), AUTHENTICATED.into()]));
        let nobody = impersonated(admin(), &headers(&[("impersonate-user", ANONYMOUS)])).unwrap();
        assert_eq!(nobody.groups, [UNAUTHENTICATED.into()]);
        let refused = impersonated(who("eve", &[]), &as_bob).unwrap_err();
        assert!(
            refused.message.starts_with("users \"bob\" is forbidden: User \"eve\" cannot impersonate"),
            "{refused}"
        );
        let refused = impersonated(admin(), &headers(&[("impersonate-group", "dev")])).unwrap_err();
        assert_eq!(refused.reason, Reason::BadRequest);
        assert_eq!(&*impersonated(admin(), &headers(&[])).unwrap().user, "admin");
    }

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
    fn probes_and_the_version_are_open_and_nothing_else() {
        for path in ["/healthz", "/livez", "/readyz", "/readyz/store", "/version", "/version/"] {
            assert!(is_open(path), "{path}");
        }
        for path in ["/", "/api", "/healthzz", "/metrics", "/openapi/v3"] {
            assert!(!is_open(path), "{path}");
        }
    }
}
