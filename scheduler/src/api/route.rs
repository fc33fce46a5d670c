//! Paths into meaning. Pure.

use std::sync::Arc;

use http::Method;

use super::respond;
use crate::{
    kinds::{Catalogue, Kind, Review, Scope, Subresource},
    model::{ApiError, Reason, Resource},
};

/// What a path names.
#[derive(Clone, Copy)]
pub(super) enum Route<'a> {
    /// A collection: one namespace's, or all.
    Collection(&'a Arc<Kind>, Option<&'a str>),
    /// The old paths of watches: a collection, or one object of it.
    Watch(&'a Arc<Kind>, Option<&'a str>, Option<&'a str>),
    /// One object, or one of its subresources.
    Object(&'a Arc<Kind>, Option<&'a str>, &'a str, Option<Subresource>),
    /// Bindings of pods in a namespace, each with the pod's name in it.
    Bindings(&'a Arc<Kind>, &'a str),
    /// Reviews of identity and rights; of one namespace, where they are.
    Review(Review, Option<&'a str>),
    /// Something else: discovery, health, metrics of nodes and pods.
    Other,
}

impl<'a> Route<'a> {
    /// Of a request's path, percent-decoded.
    pub(super) fn of(kinds: &'a Catalogue, path: &'a str) -> Self {
        let parts = parts(path);
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Self::Other,
        };
        if let Some(review) = review(group, version, rest) {
            return review;
        }
        match rest {
            ["watch", rest @ ..] => match Self::resource(kinds, group, version, rest) {
                Some(Self::Collection(kind, namespace)) => Self::Watch(kind, namespace, None),
                Some(Self::Object(kind, namespace, name, None)) => Self::Watch(kind, namespace, Some(name)),
                _ => Self::Other,
            },
            _ => Self::resource(kinds, group, version, rest).unwrap_or(Self::Other),
        }
    }

    /// What clients are told of a kind that is on its way out.
    pub(super) fn deprecation(&self) -> Option<&'a str> {
        match self {
            Self::Collection(kind, _) | Self::Object(kind, ..) | Self::Watch(kind, ..) => {
                kind.deprecated.as_deref()
            }
            Self::Bindings(..) | Self::Review(..) | Self::Other => None,
        }
    }

    fn resource(kinds: &'a Catalogue, group: &str, version: &str, rest: &[&'a str]) -> Option<Self> {
        let find = |plural: &str| kinds.by_path(group, version, plural);
        let cluster = |plural: &str| find(plural).filter(|k| k.scope == Scope::Cluster);
        let namespaced = |plural: &str| find(plural).filter(|k| k.scope == Scope::Namespaced);
        // `namespaces/x/pods` is a collection, `namespaces/x/status` a subresource of the namespace.
        if rest.contains(&"") && !rest.contains(&"proxy") {
            return None;
        }
        match *rest {
            ["namespaces", namespace, "bindings"] if (group, version) == ("", "v1") => {
                Some(Self::Bindings(find("pods")?, namespace))
            }
            // What comes after it is the backend's: the proxy looks at it itself.
            ["namespaces", namespace, plural, name, "proxy", ..] => {
                let kind = namespaced(plural)?;
                Some(Self::Object(kind, Some(namespace), name, Some(subresource(kind, "proxy")?)))
            }
            [plural, name, "proxy", ..] => {
                let kind = cluster(plural)?;
                Some(Self::Object(kind, None, name, Some(subresource(kind, "proxy")?)))
            }
            [plural] => Some(Self::Collection(find(plural)?, None)),
            [plural, name] => Some(Self::Object(cluster(plural)?, None, name, None)),
            ["namespaces", namespace, plural] if namespaced(plural).is_some() => {
                Some(Self::Collection(namespaced(plural)?, Some(namespace)))
            }
            [plural, name, sub] => {
                let kind = cluster(plural)?;
                Some(Self::Object(kind, None, name, Some(subresource(kind, sub)?)))
            }
            ["namespaces", namespace, plural, name] => {
                Some(Self::Object(namespaced(plural)?, Some(namespace), name, None))
            }
            ["namespaces", namespace, plural, name, sub] => {
                let kind = namespaced(plural)?;
                Some(Self::Object(kind, Some(namespace), name, Some(subresource(kind, sub)?)))
            }
            _ => None,
        }
    }
}

/// The route of a review.
fn review<'a>(group: &str, version: &str, rest: &[&'a str]) -> Option<Route<'a>> {
    let (namespace, plural) = match *rest {
        [plural] => (None, plural),
        ["namespaces", namespace, plural] if !namespace.is_empty() => (Some(namespace), plural),
        _ => return None,
    };
    let review = Review::of(group, version, plural)?;
    let right = namespace.is_some() == (review.kind().scope == Scope::Namespaced);
    right.then_some(Route::Review(review, namespace))
}

/// The segments of a path. One slash at the end counts for nothing; an empty segment elsewhere is one that nothing has.
pub(super) fn parts(path: &str) -> Vec<&str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_suffix('/').unwrap_or(path).split('/').collect()
}

/// Refuses a method that a path does not have.
pub(super) fn check_method(route: &Route<'_>, method: &Method) -> Result<(), ApiError> {
    let method = method.as_str();
    let known = match route {
        // Objects of a namespace are only made, and removed together, in one.
        Route::Collection(kind, None) if kind.scope == Scope::Namespaced => method == "GET",
        // Namespaces go one by one: each takes its content along.
        Route::Collection(kind, _) => {
            matches!(method, "GET" | "POST") || (method == "DELETE" && kind.resource != Resource::NAMESPACES)
        }
        Route::Object(.., None) => matches!(method, "GET" | "PUT" | "PATCH" | "DELETE"),
        Route::Object(.., Some(Subresource::Status | Subresource::Scale)) => {
            matches!(method, "GET" | "PUT" | "PATCH")
        }
        Route::Object(.., Some(Subresource::Binding | Subresource::Eviction))
        | Route::Bindings(..)
        | Route::Review(..) => method == "POST",
        Route::Object(.., Some(Subresource::Finalize)) => method == "PUT",
        Route::Object(.., Some(Subresource::Log)) | Route::Watch(..) => method == "GET",
        Route::Object(..) => matches!(method, "GET" | "POST"),
        Route::Other => true,
    };
    if known { Ok(()) } else { Err(respond::method_not_allowed()) }
}

fn subresource(kind: &Kind, name: &str) -> Option<Subresource> {
    let sub = match name {
        "status" => Subresource::Status,
        "scale" => Subresource::Scale,
        "binding" => Subresource::Binding,
        "log" => Subresource::Log,
        "exec" => Subresource::Exec,
        "attach" => Subresource::Attach,
        "portforward" => Subresource::PortForward,
        "proxy" => Subresource::Proxy,
        "eviction" => Subresource::Eviction,
        "finalize" => Subresource::Finalize,
        _ => return None,
    };
    kind.has(sub).then_some(sub)
}

/// An object that is missing goes by the name of the kind that was asked for, not by that of the one that is stored.
pub(super) fn named_as_asked(error: ApiError, route: &Route<'_>) -> ApiError {
    match route {
        Route::Object(kind, _, name, _) if kind.view.is_some() && error.reason == Reason::NotFound => {
            ApiError::not_found(format!("{}.{}", kind.plural, kind.group), name)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    fn object(path: &str) -> Option<(Resource, Option<&str>, &str, Option<Subresource>)> {
        match Route::of(kinds::builtin(), path) {
            Route::Object(kind, namespace, name, sub) => Some((kind.resource, namespace, name, sub)),
            _ => None,
        }
    }

    fn collection(path: &str) -> Option<(Resource, Option<&str>)> {
        match Route::of(kinds::builtin(), path) {
            Route::Collection(kind, namespace) => Some((kind.resource, namespace)),
            _ => None,
        }
    }

    #[test]
    fn paths_name_collections_objects_and_subresources() {
        assert_eq!(collection("/api/v1/pods"), Some((Resource::PODS, None)));
        assert_eq!(collection("/api/v1/namespaces"), Some((Resource::NAMESPACES, None)));
        assert_eq!(collection("/api/v1/namespaces/a/pods"), Some((Resource::PODS, Some("a"))));
        assert_eq!(
            collection("/apis/apps/v1/namespaces/a/deployments"),
            Some((Resource::DEPLOYMENTS, Some("a")))
        );
        assert_eq!(object("/api/v1/namespaces/a"), Some((Resource::NAMESPACES, None, "a", None)));
        assert_eq!(
            object("/api/v1/namespaces/a/finalize"),
            Some((Resource::NAMESPACES, None, "a", Some(Subresource::Finalize)))
        );
        assert_eq!(object("/api/v1/namespaces/a/pods/p"), Some((Resource::PODS, Some("a"), "p", None)));
        assert_eq!(
            object("/api/v1/namespaces/a/pods/p/log"),
            Some((Resource::PODS, Some("a"), "p", Some(Subresource::Log)))
        );
        for below in ["", "/", "/a/b", "/namespaces/x", "/../../secrets"] {
            let path = format!("/api/v1/namespaces/a/services/https:s:1/proxy{below}");
            let proxied = Some((Resource::SERVICES, Some("a"), "https:s:1", Some(Subresource::Proxy)));
            assert_eq!(object(&path), proxied);
            let path = format!("/api/v1/nodes/n/proxy{below}");
            assert_eq!(object(&path), Some((Resource::NODES, None, "n", Some(Subresource::Proxy))));
        }
    }

    #[test]
    fn what_is_not_served_is_not_routed() {
        for path in [
            "/api/v1/namespaces/a/nodes",
            "/api/v1/pods/p",
            "/api/v1/namespaces/a/configmaps/c/log",
            "/api/v1/namespaces/a/configmaps/c/proxy",
            "/api/v1/namespaces/a/proxy/x",
            "/apis/apps/v2/deployments",
            "/api/v1",
            "/",
            "/version",
            "//api/v1/pods",
            "/api/v1//pods",
            "/api/v1/watch/namespaces/a/pods/p/log",
            "/api/v1/bindings",
            "/api/v1/namespaces/a/bindings/p",
            "/apis/apps/v1/namespaces/a/bindings",
            "/apis/authorization.k8s.io/v1/localsubjectaccessreviews",
        ] {
            assert!(matches!(Route::of(kinds::builtin(), path), Route::Other), "{path}");
        }
    }

    #[test]
    fn watches_have_paths_of_their_own() {
        let watch = |path| match Route::of(kinds::builtin(), path) {
            Route::Watch(kind, namespace, name) => Some((kind.resource, namespace, name)),
            _ => None,
        };
        assert_eq!(watch("/api/v1/watch/pods"), Some((Resource::PODS, None, None)));
        assert_eq!(watch("/api/v1/watch/namespaces/a/pods/p"), Some((Resource::PODS, Some("a"), Some("p"))));
        assert_eq!(
            collection("/api/v1/pods/"),
            Some((Resource::PODS, None)),
            "a slash at the end counts for nothing"
        );
    }

    #[test]
    fn each_path_has_its_methods() {
        let knows = |path, method: &str| {
            check_method(&Route::of(kinds::builtin(), path), &method.parse().unwrap()).is_ok()
        };
        for (path, known, unknown) in [
            ("/api/v1/pods", "GET", "POST"),
            ("/api/v1/namespaces/a/pods", "DELETE", "PUT"),
            ("/api/v1/namespaces", "POST", "DELETE"),
            ("/api/v1/namespaces/a/pods/p", "PATCH", "HEAD"),
            ("/api/v1/namespaces/a/pods/p/status", "PUT", "DELETE"),
            ("/api/v1/namespaces/a/pods/p/eviction", "POST", "GET"),
            ("/api/v1/namespaces/a/finalize", "PUT", "GET"),
            ("/api/v1/watch/pods", "GET", "POST"),
            ("/api/v1/namespaces/a/bindings", "POST", "GET"),
        ] {
            assert!(knows(path, known) && !knows(path, unknown), "{path}");
        }
    }
}
