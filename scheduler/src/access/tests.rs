//! What a request is taken for, who it is taken to come from, and whether they may.

use http::{HeaderMap, Method};
use serde_json::json;

use super::*;
use crate::{model::Reason, objects::Actor, pki::NODES_GROUP};

fn who(user: &str, groups: &[&str]) -> Actor {
    Actor::new(user, groups.iter().copied().chain([AUTHENTICATED]))
}

fn info<'a>(method: &str, path: &'a str) -> RequestInfo<'a> {
    RequestInfo::of(&method.parse().unwrap(), path, false, None)
}

/// What somebody is told; `None` when they may.
fn refusal(actor: &Actor, method: &Method, path: &str) -> Option<String> {
    let request = RequestInfo::of(method, path, false, None);
    let asked = Attributes { actor, request: &request };
    match standard().authorize(asked) {
        Decision::Allow => None,
        Decision::Deny(why) | Decision::NoOpinion(why) => Some(forbidden(asked, &why).message),
    }
}

/// Method, path; verb, group, version, namespace, resource, subresource, name.
type Row = (&'static str, &'static str, [&'static str; 7]);

/// Upstream's own table of its `RequestInfo`, as far as it is of this version's prefixes.
const RESOURCES: [Row; 24] = [
    ("GET", "/api/v1/namespaces", ["list", "", "v1", "", "namespaces", "", ""]),
    ("GET", "/api/v1/namespaces/other", ["get", "", "v1", "other", "namespaces", "", "other"]),
    ("GET", "/api/v1/namespaces/other/pods", ["list", "", "v1", "other", "pods", "", ""]),
    ("GET", "/api/v1/namespaces/other/pods/foo", ["get", "", "v1", "other", "pods", "", "foo"]),
    ("HEAD", "/api/v1/namespaces/other/pods/foo", ["get", "", "v1", "other", "pods", "", "foo"]),
    ("GET", "/api/v1/pods", ["list", "", "v1", "", "pods", "", ""]),
    ("HEAD", "/api/v1/pods", ["list", "", "v1", "", "pods", "", ""]),
    ("GET", "/api/v1/proxy/namespaces/other/pods/foo", ["proxy", "", "v1", "other", "pods", "", "foo"]),
    (
        "GET",
        "/api/v1/proxy/namespaces/other/pods/foo/subpath/not/a/subresource",
        ["proxy", "", "v1", "other", "pods", "", "foo"],
    ),
    ("GET", "/api/v1/watch/pods", ["watch", "", "v1", "", "pods", "", ""]),
    ("GET", "/api/v1/watch/namespaces/other/pods", ["watch", "", "v1", "other", "pods", "", ""]),
    ("GET", "/api/v1/namespaces/other/pods/foo/status", ["get", "", "v1", "other", "pods", "status", "foo"]),
    (
        "GET",
        "/api/v1/namespaces/other/pods/foo/proxy/sub/path",
        ["get", "", "v1", "other", "pods", "proxy", "foo"],
    ),
    (
        "PUT",
        "/api/v1/namespaces/other/finalize",
        ["update", "", "v1", "other", "namespaces", "finalize", "other"],
    ),
    (
        "PUT",
        "/api/v1/namespaces/other/status",
        ["update", "", "v1", "other", "namespaces", "status", "other"],
    ),
    ("PATCH", "/api/v1/namespaces/other/pods/foo", ["patch", "", "v1", "other", "pods", "", "foo"]),
    ("DELETE", "/api/v1/namespaces/other/pods/foo", ["delete", "", "v1", "other", "pods", "", "foo"]),
    ("POST", "/api/v1/namespaces/other/pods", ["create", "", "v1", "other", "pods", "", ""]),
    ("DELETE", "/api/v1/nodes", ["deletecollection", "", "v1", "", "nodes", "", ""]),
    ("DELETE", "/api/v1/namespaces", ["deletecollection", "", "v1", "", "namespaces", "", ""]),
    ("DELETE", "/api/v1/namespaces/other/pods", ["deletecollection", "", "v1", "other", "pods", "", ""]),
    (
        "GET",
        "/apis/apps/v1/namespaces/other/deployments/d/scale",
        ["get", "apps", "v1", "other", "deployments", "scale", "d"],
    ),
    (
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        ["create", "authorization.k8s.io", "v1", "", "selfsubjectaccessreviews", "", ""],
    ),
    ("BREW", "/api/v1/pods", ["", "", "v1", "", "pods", "", ""]),
];

#[test]
fn a_request_is_taken_for_what_upstream_takes_it_for() {
    for (method, path, expected) in RESOURCES {
        let info = info(method, path);
        let RequestInfo { verb, group, version, namespace, resource, subresource, ref name, .. } = info;
        assert!(info.is_resource && info.path == path, "{path}");
        assert_eq!(
            [verb, group, version, namespace, resource, subresource, name],
            expected,
            "{method} {path}"
        );
    }
    for path in [
        "/",
        "/api",
        "/api/",
        "/api/v1",
        "/apis",
        "/apis/apps",
        "/apis/apps/v1",
        "/healthz",
        "/other/api/v1/pods",
    ] {
        let info = info("GET", path);
        assert_eq!(
            (info.is_resource, info.verb, info.path, info.resource),
            (false, "get", path, ""),
            "{path}"
        );
    }
    assert_eq!(info("POST", "/version").verb, "post", "the method itself, where there is no resource");
}

#[test]
fn a_list_is_a_watch_when_it_asks_for_it_and_has_the_name_it_selects() {
    let of = |path, watch, fields| RequestInfo::of(&Method::GET, path, watch, fields);
    assert_eq!(of("/api/v1/pods", true, None).verb, "watch");
    assert_eq!(
        of("/api/v1/namespaces/a/pods/p", true, None).verb,
        "get",
        "an object is not watched this way"
    );
    let named = of("/api/v1/namespaces/a/pods", false, Some("metadata.name=p,status.phase=Running"));
    assert_eq!((named.verb, &*named.name), ("list", "p"));
    for fields in ["metadata.name!=p", "metadata.name=a/b", "status.phase=Running", "nonsense"] {
        assert_eq!(of("/api/v1/pods", true, Some(fields)).name, "", "{fields}");
    }
}

#[test]
fn what_stays_open_is_told_from_what_ends_by_itself() {
    for path in [
        "/api/v1/watch/pods",
        "/api/v1/namespaces/a/pods/p/exec",
        "/api/v1/namespaces/a/pods/p/log",
        "/api/v1/nodes/n/proxy/x",
    ] {
        assert!(info("GET", path).is_long_running(), "{path}");
    }
    let plain = info("GET", "/api/v1/namespaces/a/pods/p");
    assert!(!plain.is_long_running() && plain.is_read_only());
    assert!(!info("GET", "/exec").is_long_running());
    assert!(!info("DELETE", "/api/v1/namespaces/a/pods/p").is_read_only());
}

#[test]
fn only_masters_get_in() {
    assert_eq!(refusal(&who("admin", &[MASTERS]), &Method::GET, "/api/v1/secrets"), None);
    let node = who("system:node:n1", &[NODES_GROUP]);
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
    let proxied = refusal(&eve, &Method::GET, "/api/v1/namespaces/shop/pods/web:80/proxy/a/../b").unwrap();
    assert!(
        proxied.contains("cannot get resource \"pods/proxy\" in API group \"\" in the namespace \"shop\"")
    );
    let said = refusal(&eve, &Method::GET, "/<b>").unwrap();
    assert!(said.starts_with("forbidden: User \"eve\" cannot get path \"/&lt;b&gt;\""), "{said}");
    assert!(refusal(&node, &Method::POST, "/api/v1/nodes/n2/proxy/run").is_some());
    for path in ["/metrics", "/apix", "/apis/metrics.k8s.io/v1beta1/nodes", "/logs"] {
        assert!(refusal(&eve, &Method::GET, path).is_some(), "{path}");
    }
}

#[test]
fn everyone_known_may_discover_and_ask_about_himself() {
    let eve = who("eve", &[]);
    for path in ["/api", "/apis/", "/apis/apps/v1", "/openapi/v3", "/apis/metrics.k8s.io/v1beta1"] {
        assert_eq!(refusal(&eve, &Method::GET, path), None);
        assert!(refusal(&anonymous(), &Method::GET, path).is_some(), "{path}");
        assert!(refusal(&eve, &Method::POST, path).is_some(), "{path}");
    }
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(refusal(&eve, &Method::POST, review), None);
    assert_eq!(refusal(&who("system:node:n", &[NODES_GROUP]), &Method::POST, review), None);
    assert!(refusal(&anonymous(), &Method::POST, review).is_some());
}

#[test]
fn probes_and_the_version_are_open_and_nothing_else() {
    for path in ["/healthz", "/livez", "/readyz", "/readyz/store", "/version", "/version/"] {
        assert_eq!(refusal(&anonymous(), &Method::GET, path), None, "{path}");
    }
    for path in ["/", "/api", "/healthzz", "/metrics", "/openapi/v3"] {
        assert!(refusal(&anonymous(), &Method::GET, path).is_some(), "{path}");
    }
}

#[test]
fn the_rules_of_a_user_are_those_that_let_him_in() {
    let rules = |actor: &Actor| {
        let mut rules = Rules::default();
        standard().rules(actor, "default", &mut rules);
        rules
    };
    let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    assert_eq!(rules(&who("admin", &[MASTERS])).resources[0], all);
    let eve = rules(&who("eve", &[]));
    assert!(!eve.resources.contains(&all) && eve.resources.len() == 2 && eve.paths.len() == 2);
    assert_eq!(rules(&anonymous()).resources, [json!(null); 0]);
}

/// Lets users of one group be anybody in the namespace `dev`, and otherwise be in the group `dev`.
struct Deputies;

impl Authorizer for Deputies {
    fn authorize(&self, asked: Attributes<'_>) -> Decision {
        let RequestInfo { verb, resource, namespace, subresource, ref name, .. } = *asked.request;
        let part = match resource {
            "serviceaccounts" => namespace == "dev",
            "users" => name != "root",
            "groups" => name == "dev" || name == UNAUTHENTICATED,
            "userextras" => subresource == "example.com/reason",
            "uids" => true,
            _ => false,
        };
        if verb == "impersonate" && part && asked.actor.is_in("deputies") {
            Decision::Allow
        } else {
            Decision::NoOpinion("no".into())
        }
    }

    fn rules(&self, _: &Actor, _: &str, _: &mut Rules) {}
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), http::HeaderValue::from_static(value))).collect()
}

fn groups(actor: &Actor) -> Vec<&str> {
    actor.groups.iter().map(|group| &**group).collect()
}

#[test]
fn each_part_of_an_impersonation_is_asked_of_the_authorizer() {
    let deputy = who("deputy", &["deputies"]);
    let be = |pairs: &[(&'static str, &'static str)]| impersonated(&deputy, &headers(pairs), &Deputies);
    let bob = be(&[
        ("impersonate-user", "bob"),
        ("impersonate-group", "dev"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-example.com%2freason", "test"),
    ]);
    let bob = bob.unwrap().unwrap();
    assert_eq!(
        (&*bob.user, groups(&bob), bob.uid.as_deref()),
        ("bob", vec!["dev", AUTHENTICATED], Some("7"))
    );
    assert_eq!(bob.extra.unwrap()["example.com/reason"], ["test"]);
    let account = be(&[("impersonate-user", "system:serviceaccount:dev:robot")]).unwrap().unwrap();
    assert_eq!(groups(&account), ["system:serviceaccounts", "system:serviceaccounts:dev", AUTHENTICATED]);
    let hidden = be(&[("impersonate-user", "bob"), ("impersonate-group", UNAUTHENTICATED)]).unwrap().unwrap();
    assert_eq!(groups(&hidden), [UNAUTHENTICATED]);
    for (pairs, said) in [
        (
            [("impersonate-user", "root"), ("x", "")],
            "users \"root\" is forbidden: User \"deputy\" cannot impersonate resource \"users\" in API group \"\" at the \
             cluster scope: no",
        ),
        (
            [("impersonate-user", "bob"), ("impersonate-group", "ops")],
            "groups \"ops\" is forbidden: User \"deputy\" cannot impersonate resource \"groups\" in API group \"\" at the \
             cluster scope: no",
        ),
        (
            [("impersonate-user", "system:serviceaccount:shop:robot"), ("x", "")],
            "serviceaccounts \"robot\" is forbidden: User \"deputy\" cannot impersonate resource \"serviceaccounts\" in API \
             group \"\" in the namespace \"shop\": no",
        ),
        (
            [("impersonate-user", "bob"), ("impersonate-extra-scopes", "all")],
            "userextras.authentication.k8s.io \"all\" is forbidden: User \"deputy\" cannot impersonate resource \
             \"userextras/scopes\" in API group \"authentication.k8s.io\" at the cluster scope: no",
        ),
    ] {
        assert_eq!(be(&pairs).unwrap_err().message, said);
    }
}

#[test]
fn only_masters_may_be_somebody_else() {
    let (admin, eve, rules) = (who("admin", &[MASTERS]), who("eve", &[]), standard());
    let nobody = impersonated(&admin, &headers(&[("impersonate-user", ANONYMOUS)]), &rules).unwrap().unwrap();
    assert_eq!(groups(&nobody), [UNAUTHENTICATED]);
    let refused = impersonated(&eve, &headers(&[("impersonate-user", "bob")]), &rules).unwrap_err();
    assert!(
        refused.message.starts_with("users \"bob\" is forbidden: User \"eve\" cannot impersonate"),
        "{refused}"
    );
    let refused = impersonated(&admin, &headers(&[("impersonate-group", "dev")]), &rules).unwrap_err();
    assert_eq!(refused.reason, Reason::BadRequest);
    assert_eq!(impersonated(&admin, &headers(&[]), &rules).unwrap(), None);
}

/// Takes what a header says for a credential.
struct Words;

impl Authenticator for Words {
    fn authenticate(&self, head: &Head<'_>) -> Result<Option<Actor>, Invalid> {
        match head.headers.get("authorization").and_then(|value| value.to_str().ok()) {
            None => Ok(None),
            Some("Word friend") => Ok(Some(who("friend", &[]))),
            Some(_) => Err(Invalid("not a word".to_owned())),
        }
    }
}

#[test]
fn the_first_credential_that_holds_decides_and_one_that_does_not_is_refused_alone() {
    let until = std::time::SystemTime::UNIX_EPOCH;
    let certificate = Some(Certified { actor: who("admin", &[MASTERS]), until });
    let peer = "192.0.2.1:1".parse().unwrap();
    let (bare, certified) = (Connection { peer, certificate: None }, Connection { peer, certificate });
    let chain: [Box<dyn Authenticator>; 2] = [Box::new(Words), Box::new(ClientCertificates)];
    let uri = "/api".parse().unwrap();
    let ask = |connection: &Connection, pairs: &[(&'static str, &'static str)]| {
        let headers = headers(pairs);
        let known =
            authenticate(&chain, &Head { method: &Method::GET, uri: &uri, headers: &headers, connection });
        known.map(|actor| actor.map(|actor| actor.user.to_string()))
    };
    assert_eq!(ask(&bare, &[]), Ok(None));
    assert_eq!(ask(&bare, &[("authorization", "Word friend")]), Ok(Some("friend".to_owned())));
    assert_eq!(ask(&certified, &[("authorization", "Word friend")]), Ok(Some("friend".to_owned())));
    assert_eq!(ask(&certified, &[("authorization", "Word foe")]), Ok(Some("admin".to_owned())));
    assert_eq!(ask(&bare, &[("authorization", "Word foe")]), Err(Invalid("not a word".to_owned())));
}
