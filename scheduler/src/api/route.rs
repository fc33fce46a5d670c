//! Paths into meaning. Pure.

use crate::kinds::{self, Kind, Scope, Subresource};

/// What a path names.
#[derive(Clone, Copy)]
pub(super) enum Route<'a> {
    /// A collection: one namespace's, or all.
    Collection(&'static Kind, Option<&'a str>),
    /// One object, or one of its subresources.
    Object(&'static Kind, Option<&'a str>, &'a str, Option<Subresource>),
    /// Reviews of the caller's own identity and rights: group and plural.
    Review(Review),
    /// Something else: discovery, health, metrics of nodes and pods.
    Other,
}

/// The reviews that kubectl asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Review {
    /// `kubectl auth whoami`
    Subject,
    /// `kubectl auth can-i`
    Access,
    /// `kubectl auth can-i --list`
    Rules,
}

impl<'a> Route<'a> {
    /// Of a request's path.
    pub(super) fn of(path: &'a str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Self::Other,
        };
        match (group, version, rest) {
            ("authentication.k8s.io", "v1", ["selfsubjectreviews"]) => Self::Review(Review::Subject),
            ("authorization.k8s.io", "v1", ["selfsubjectaccessreviews"]) => Self::Review(Review::Access),
            ("authorization.k8s.io", "v1", ["selfsubjectrulesreviews"]) => Self::Review(Review::Rules),
            _ => Self::resource(group, version, rest).unwrap_or(Self::Other),
        }
    }

    fn resource(group: &str, version: &str, rest: &[&'a str]) -> Option<Self> {
        let find = |plural: &str| kinds::by_path(group, version, plural);
        let cluster = |plural: &str| find(plural).filter(|k| k.scope == Scope::Cluster);
        let namespaced = |plural: &str| find(plural).filter(|k| k.scope == Scope::Namespaced);
        // `namespaces/x/pods` is a collection, `namespaces/x/status` a subresource of the namespace.
        match *rest {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Resource;

    fn object(path: &str) -> Option<(Resource, Option<&str>, &str, Option<Subresource>)> {
        match Route::of(path) {
            Route::Object(kind, namespace, name, sub) => Some((kind.resource, namespace, name, sub)),
            _ => None,
        }
    }

    fn collection(path: &str) -> Option<(Resource, Option<&str>)> {
        match Route::of(path) {
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
        ] {
            assert!(matches!(Route::of(path), Route::Other), "{path}");
        }
    }
}
