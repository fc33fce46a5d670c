//! The rules of this version: administrators may everything, everyone known may look around and ask about himself, and
//! nodes speak over their session. Roles come beside them, as one more authorizer.

use serde_json::{Value, json};

use super::{AUTHENTICATED, Attributes, Authorizer, Decision, MASTERS, Rules, Union};
use crate::{objects::Actor, pki::NODES_GROUP};

/// Paths that anyone may read: probes of load balancers and the version.
const OPEN: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];
/// Paths below which everyone known may read.
const DISCOVERY: [&str; 3] = ["/api", "/apis", "/openapi"];
/// Questions that everyone known may ask about himself.
const REVIEWS: [(&str, &[&str]); 2] = [
    ("authorization.k8s.io", &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
    ("authentication.k8s.io", &["selfsubjectreviews"]),
];

/// All of them.
pub fn standard() -> Union {
    Union(vec![Box::new(Masters), Box::new(Public), Box::new(Everyone), Box::new(NodesStayOut)])
}

/// Lets the administrators do everything.
#[derive(Clone, Copy, Debug)]
pub struct Masters;

impl Authorizer for Masters {
    fn authorize(&self, asked: Attributes<'_>) -> Decision {
        if asked.actor.is_in(MASTERS) {
            return Decision::Allow;
        }
        Decision::NoOpinion("the user is not in the group system:masters".into())
    }

    fn rules(&self, actor: &Actor, _: &str, rules: &mut Rules) {
        if actor.is_in(MASTERS) {
            rules.resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            rules.paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
    }
}

/// Lets anybody see whether the API is there.
#[derive(Clone, Copy, Debug)]
pub struct Public;

impl Authorizer for Public {
    fn authorize(&self, asked: Attributes<'_>) -> Decision {
        let request = asked.request;
        if !request.is_resource && is_below(&OPEN, request.path) { Decision::Allow } else { Decision::SILENT }
    }

    fn rules(&self, _: &Actor, _: &str, rules: &mut Rules) {
        let paths = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
        rules.paths.push(json!({"verbs": ["get"], "nonResourceURLs": paths}));
    }
}

/// Lets everyone known look around and ask about himself.
#[derive(Clone, Copy, Debug)]
pub struct Everyone;

impl Authorizer for Everyone {
    fn authorize(&self, asked: Attributes<'_>) -> Decision {
        let request = asked.request;
        let allowed = if request.is_resource {
            let of_group = |(group, resources): &(&str, &[&str])| {
                *group == request.group && resources.contains(&request.resource)
            };
            request.verb == "create" && REVIEWS.iter().any(of_group)
        } else {
            request.verb == "get" && is_below(&DISCOVERY, request.path)
        };
        if allowed && asked.actor.is_in(AUTHENTICATED) { Decision::Allow } else { Decision::SILENT }
    }

    fn rules(&self, actor: &Actor, _: &str, rules: &mut Rules) {
        if !actor.is_in(AUTHENTICATED) {
            return;
        }
        let review = |(group, resources): (&str, &[&str])| -> Value {
            json!({"verbs": ["create"], "apiGroups": [group], "resources": resources})
        };
        rules.resources.extend(REVIEWS.map(review));
        rules.paths.push(json!({"verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*",
            "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"]}));
    }
}

/// Keeps nodes out of what is left, whatever roles they are given: what a node may write goes over its session, where the
/// scheduler knows whose it is.
#[derive(Clone, Copy, Debug)]
pub struct NodesStayOut;

impl Authorizer for NodesStayOut {
    fn authorize(&self, asked: Attributes<'_>) -> Decision {
        if asked.actor.is_in(NODES_GROUP) {
            return Decision::Deny("nodes speak to the cluster over their session only".into());
        }
        Decision::SILENT
    }

    fn rules(&self, _: &Actor, _: &str, _: &mut Rules) {}
}

fn is_below(roots: &[&str], path: &str) -> bool {
    roots
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}
