//! What a request is for, as upstream derives it: from method, path and two parameters, before anything is looked up.
//! Pure, and borrowed from the path: it is made for every request.

use std::borrow::Cow;

use http::Method;

use crate::model::FieldSelector;

/// The parts of a path that are looked at: what comes after is a proxied backend's.
const PARTS: usize = 8;

/// What a request is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo<'a> {
    /// Whether it is for a resource; else for a path.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths the method in lower
    /// case. Empty for a method that has no verb.
    pub verb: &'a str,
    /// `apps`; empty for the first group.
    pub group: &'a str,
    /// `v1`
    pub version: &'a str,
    /// `deployments`
    pub resource: &'a str,
    /// `status`; empty without one.
    pub subresource: &'a str,
    /// Empty at the cluster scope. A namespace is in itself, as upstream.
    pub namespace: &'a str,
    /// The object; of a list or watch the one that its field selector leaves. Empty for all others.
    pub name: Cow<'a, str>,
    /// The whole path.
    pub path: &'a str,
}

impl<'a> RequestInfo<'a> {
    /// Of a request with this path, percent-decoded. `watch` is whether the query asks for one, `fields` its field
    /// selector.
    pub fn of(method: &Method, path: &'a str, watch: bool, fields: Option<&str>) -> Self {
        let mut info = Self { verb: lower(method), path, ..Self::default() };
        let mut parts = [""; PARTS];
        let mut count = 0;
        for part in path.trim_matches('/').split('/').take(PARTS) {
            parts[count] = part;
            count += 1;
        }
        let (group, version, rest) = match &parts[..count] {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return info,
        };
        info = Self { is_resource: true, group, version, verb: verb(method), ..info };
        let rest = match rest {
            // Nothing behind them is a request that is refused; it is still one for a resource.
            ["watch" | "proxy"] => return info,
            [prefix @ ("watch" | "proxy"), rest @ ..] => {
                info.verb = prefix;
                rest
            }
            rest => rest,
        };
        let rest = match rest {
            ["namespaces", namespace, below @ ..] => {
                info.namespace = namespace;
                match below {
                    [] | ["status" | "finalize", ..] => rest,
                    below => below,
                }
            }
            rest => rest,
        };
        info.resource = rest.first().copied().unwrap_or_default();
        info.name = Cow::Borrowed(rest.get(1).copied().unwrap_or_default());
        if info.verb != "proxy" {
            info.subresource = rest.get(2).copied().unwrap_or_default();
        }
        if info.name.is_empty() {
            match info.verb {
                "get" => {
                    info.verb = if watch { "watch" } else { "list" };
                    info.name = Cow::Owned(fields.and_then(only_name).unwrap_or_default());
                }
                "delete" => info.verb = "deletecollection",
                _ => {}
            }
        }
        info
    }

    /// Whether it stays open for as long as its client likes: such requests are not limited, nor is their time measured.
    pub fn is_long_running(&self) -> bool {
        matches!(self.verb, "watch" | "proxy")
            || (self.is_resource
                && matches!(self.subresource, "attach" | "exec" | "proxy" | "log" | "portforward"))
    }

    /// Whether it only reads.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }
}

/// The verb of a request for a resource.
fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// A method in lower case. Those that HTTP does not define have none: no rule can name them.
fn lower(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        "CONNECT" => "connect",
        "TRACE" => "trace",
        _ => "",
    }
}

/// The one name that a field selector leaves, if it can be a name.
fn only_name(fields: &str) -> Option<String> {
    let terms = FieldSelector::parse(fields).ok()?.terms;
    let (_, name, _) = terms.into_iter().find(|(path, _, equal)| path == "metadata.name" && *equal)?;
    (!matches!(&*name, "." | "..") && !name.contains(['/', '%'])).then_some(name)
}
