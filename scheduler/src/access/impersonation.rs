//! `kubectl --as`: who the caller wants to be, and whether they may be that. Each part of it is asked of the authorizer
//! with the verb `impersonate`, as upstream.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName};

use super::{
    ANONYMOUS, AUTHENTICATED, Attributes, Authorizer, Decision, RequestInfo, UNAUTHENTICATED, forbidden,
};
use crate::{
    model::{ApiError, Reason},
    objects::{Actor, Extra},
};

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const EXTRA: &str = "impersonate-extra-";
/// The group of what users are made of besides users and groups.
const AUTHENTICATION: &str = "authentication.k8s.io";
/// What the users of service accounts begin with, and the groups that they are in.
const ACCOUNT: &str = "system:serviceaccount:";
const ACCOUNTS: &str = "system:serviceaccounts";

/// Who the caller is to be taken for; `None`: himself.
pub fn impersonated(
    actor: &Actor,
    headers: &HeaderMap,
    authorizer: &dyn Authorizer,
) -> Result<Option<Actor>, ApiError> {
    let Some(user) = text(headers, &USER) else {
        // Any other of these headers would be ignored, which its sender does not want.
        if headers.keys().any(|name| *name == GROUP || *name == UID || name.as_str().starts_with(EXTRA)) {
            let message =
                "Impersonate-User is missing: groups and the rest can only be impersonated with a user";
            return Err(ApiError::new(Reason::BadRequest, message));
        }
        return Ok(None);
    };
    let may = |request: RequestInfo<'_>| {
        let asked = Attributes { actor, request: &request };
        match authorizer.authorize(asked) {
            Decision::Allow => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(asked, &why)),
        }
    };
    let account = user.strip_prefix(ACCOUNT).and_then(|rest| rest.split_once(':'));
    let account =
        account.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains(':'));
    match account {
        Some((namespace, name)) => may(RequestInfo { namespace, ..wish("", "serviceaccounts", name) })?,
        None => may(wish("", "users", user))?,
    }
    let mut groups: Vec<Cow<'_, str>> = Vec::new();
    for group in values(headers, &GROUP) {
        may(wish("", "groups", group))?;
        groups.push(group.into());
    }
    if let Some((namespace, _)) = account
        && groups.is_empty()
    {
        groups = vec![ACCOUNTS.into(), format!("{ACCOUNTS}:{namespace}").into()];
    }
    let extra = extra(headers, &may)?;
    let uid = text(headers, &UID);
    if let Some(uid) = uid {
        may(wish(AUTHENTICATION, "uids", uid))?;
    }
    let states = |group: &str| groups.iter().any(|own| own == group);
    let standing = if user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !states(UNAUTHENTICATED) && !states(standing) {
        groups.push(standing.into());
    }
    let extra = (!extra.is_empty()).then(|| Arc::new(extra));
    let acting = Actor::new(user, groups.iter().map(|group| &**group));
    Ok(Some(Actor { uid: uid.map(Arc::from), extra, ..acting }))
}

fn extra(
    headers: &HeaderMap,
    may: &impl Fn(RequestInfo<'_>) -> Result<(), ApiError>,
) -> Result<Extra, ApiError> {
    let mut extra = Extra::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(EXTRA) else { continue };
        let Ok(value) = value.to_str() else { continue };
        let decoded = percent_encoding::percent_decode_str(key).decode_utf8();
        let key = decoded.unwrap_or(key.into());
        may(RequestInfo { subresource: &key, ..wish(AUTHENTICATION, "userextras", value) })?;
        extra.entry(key.into_owned()).or_default().push(value.to_owned());
    }
    Ok(extra)
}

/// To be somebody, as a request.
fn wish<'a>(group: &'a str, resource: &'a str, name: &'a str) -> RequestInfo<'a> {
    let name = Cow::Borrowed(name);
    RequestInfo {
        is_resource: true,
        verb: "impersonate",
        group,
        version: "v1",
        resource,
        name,
        ..RequestInfo::default()
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
}

/// The first value, if it says anything.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    values(headers, name).next().filter(|value| !value.is_empty())
}
