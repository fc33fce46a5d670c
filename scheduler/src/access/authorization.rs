//! Whether somebody may: a chain of authorizers, the first of which that has an opinion decides.

use std::borrow::Cow;

use serde_json::Value;

use super::RequestInfo;
use crate::{
    model::{ApiError, Reason, go},
    objects::Actor,
};

/// Somebody and what they want.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who.
    pub actor: &'a Actor,
    /// What.
    pub request: &'a RequestInfo<'a>,
}

/// What an authorizer says. Reasons are for the client; an empty one says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No, whatever others say.
    Deny(Cow<'static, str>),
    /// Not because of this one; no, when nobody allows it.
    NoOpinion(Cow<'static, str>),
}

impl Decision {
    /// Nothing to say.
    pub const SILENT: Self = Self::NoOpinion(Cow::Borrowed(""));
}

/// What somebody may, as a review lists it: the entries of `resourceRules` and `nonResourceRules`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Of resources.
    pub resources: Vec<Value>,
    /// Of paths.
    pub paths: Vec<Value>,
}

/// Decides about requests. Does not wait, and allocates nothing where it allows.
pub trait Authorizer: Send + Sync {
    /// Whether they may.
    fn authorize(&self, asked: Attributes<'_>) -> Decision;

    /// Adds what this authorizer lets somebody do in a namespace.
    fn rules(&self, actor: &Actor, namespace: &str, rules: &mut Rules);
}

/// Several: the first that allows or denies decides.
pub struct Union(pub Vec<Box<dyn Authorizer>>);

impl Authorizer for Union {
    fn authorize(&self, asked: Attributes<'_>) -> Decision {
        let mut why = Cow::Borrowed("");
        for authorizer in &self.0 {
            match authorizer.authorize(asked) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) if why.is_empty() => why = reason,
                Decision::NoOpinion(reason) => why = format!("{why}\n{reason}").into(),
                decided => return decided,
            }
        }
        Decision::NoOpinion(why)
    }

    fn rules(&self, actor: &Actor, namespace: &str, rules: &mut Rules) {
        for authorizer in &self.0 {
            authorizer.rules(actor, namespace, rules);
        }
    }
}

/// 403 in upstream's words.
pub fn forbidden(asked: Attributes<'_>, why: &str) -> ApiError {
    let RequestInfo { verb, group, resource, subresource, namespace, name, path, .. } = asked.request;
    let user = go::quote(&asked.actor.user);
    let mut message = if asked.request.is_resource {
        let slash = if subresource.is_empty() { "" } else { "/" };
        let scope = match *namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {}", go::quote(namespace)),
        };
        let resource = go::quote(&format!("{resource}{slash}{subresource}"));
        format!("User {user} cannot {verb} resource {resource} in API group {} {scope}", go::quote(group))
    } else {
        format!("User {user} cannot {verb} path {}", go::quote(path))
    };
    // As upstream: nothing that a browser could take for a page.
    if message.contains(['&', '<', '>']) {
        message = message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    }
    if !why.is_empty() {
        message = format!("{message}: {why}");
    }
    if resource.is_empty() {
        return ApiError::generic(Reason::Forbidden, format!("forbidden: {message}"));
    }
    let dot = if group.is_empty() { "" } else { "." };
    ApiError::forbidden(format!("{resource}{dot}{group}"), name, &message)
}
