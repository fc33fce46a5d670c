//! What field selectors may name: for each kind the labels that upstream takes, and the indexed path that each means.
//! Pure; matching is [`crate::objects`]' affair.

use super::{Kind, Scope};

const NAME: &str = "metadata.name";
const NAMESPACE: &str = "metadata.namespace";

/// What a field selector sees of an object that does not have the field at `path`.
pub fn unset_field(path: &str) -> &'static str {
    match path {
        "spec.unschedulable" | "spec.hostNetwork" => "false",
        "status.replicas" => "0",
        _ => "",
    }
}

impl Kind {
    /// The indexed path behind a label of a field selector, or why there is none, in upstream's words.
    pub fn selectable(&self, label: &str) -> Result<&str, String> {
        let own = || {
            let alias = self.labels.iter().find(|(name, _)| name == label).map(|(_, path)| &**path);
            let own = || self.fields.iter().find(|path| **path == label && !path.contains('|'));
            alias.or_else(|| own().map(|path| &**path))
        };
        // Upstream's kinds with fields of their own list the metadata too, those of the cluster without the namespace.
        let plain = self.fields.is_empty();
        match label {
            NAME => Ok(NAME),
            NAMESPACE if plain || self.scope == Scope::Namespaced => Ok(NAMESPACE),
            _ => own().ok_or_else(|| {
                if plain {
                    format!("{label:?} is not a known field selector: only {NAME:?}, {NAMESPACE:?}")
                } else {
                    format!("field label not supported: {label}")
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds;

    fn of(group: &str, plural: &str, label: &str) -> Result<&'static str, String> {
        kinds::builtin().by_path(group, "v1", plural).unwrap().selectable(label)
    }

    #[test]
    fn each_kind_takes_the_labels_of_upstream() {
        for (group, plural, label, path) in [
            ("", "configmaps", "metadata.namespace", "metadata.namespace"),
            ("", "pods", "spec.host", "spec.nodeName"),
            ("", "pods", "status.podIPs", "status.podIPs"),
            ("", "events", "source", "source.component|reportingComponent"),
            ("events.k8s.io", "events", "regarding.name", "involvedObject.name"),
            ("events.k8s.io", "events", "reportingController", "reportingComponent"),
            ("", "nodes", "spec.unschedulable", "spec.unschedulable"),
        ] {
            assert_eq!(of(group, plural, label), Ok(path), "{plural} {label}");
        }
    }

    #[test]
    fn others_are_refused_in_upstreams_words() {
        let plain = "\"status.replicas\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"";
        assert_eq!(of("apps", "replicasets", "status.replicas").unwrap_err(), plain);
        for (group, plural, label) in [
            ("", "nodes", "metadata.namespace"),
            ("", "namespaces", "name"),
            ("", "events", "source.component|reportingComponent"),
            ("events.k8s.io", "events", "involvedObject.name"),
            ("events.k8s.io", "events", "source"),
        ] {
            let refused = of(group, plural, label).unwrap_err();
            assert_eq!(refused, format!("field label not supported: {label}"), "{plural}");
        }
    }
}
