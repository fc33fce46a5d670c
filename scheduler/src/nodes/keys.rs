//! Which machine a node is: the one with the key of its last certificate.
//!
//! The fingerprints are kept in an annotation of the Node: they survive the scheduler, are in the backup of the database,
//! and go with the Node, whose deletion is an operator's word that the name is free. Of a renewal both keys are kept until
//! the new one is used, as the agent may never have got it. A certificate that is younger than all that are known is of a
//! machine that was given the name since: the database is an old backup. One that is older and not known is of a machine
//! that has lost the name.

use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::labels;
use crate::{
    cache::MetaExt,
    model::{ApiError, Chain, Key, Reason, Resource},
    objects::{Objects, Patch, WriteOptions},
    pki::KeyRecord,
};

/// `sha256:<hex>@<not before>`, separated by blanks, the youngest last.
pub(super) const ANNOTATION: &str = "node.gantry.dev/certificate-keys";
/// Renewals whose answer may have been lost.
const KEPT: usize = 4;
/// Others may write a Node at the same time.
const ATTEMPTS: usize = 5;

/// The keys of a node's last certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys(Vec<KeyRecord>);

impl Keys {
    /// The one key that is in use.
    pub(super) fn only(key: KeyRecord) -> Self {
        Self(vec![key])
    }

    fn parse(text: &str) -> Self {
        let key = |part: &str| {
            let (fingerprint, from) = part.split_once('@')?;
            Some(KeyRecord { fingerprint: fingerprint.to_owned(), from: from.parse().ok()? })
        };
        Self(text.split_whitespace().filter_map(key).collect())
    }

    pub(super) fn text(&self) -> String {
        let texts: Vec<String> =
            self.0.iter().map(|key| format!("{}@{}", key.fingerprint, key.from)).collect();
        texts.join(" ")
    }

    /// Whether it is the machine's, as far as is known.
    fn holds(&self, key: &KeyRecord) -> bool {
        self.0.iter().any(|own| own.fingerprint == key.fingerprint)
            || self.0.iter().all(|own| own.from < key.from)
    }

    /// With one that was given, and is not in use yet.
    pub(super) fn with(mut self, key: KeyRecord) -> Self {
        self.0.retain(|own| own.fingerprint != key.fingerprint);
        self.0.push(key);
        let surplus = self.0.len().saturating_sub(KEPT);
        self.0.drain(..surplus);
        self
    }
}

/// How a name stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// No machine has it: there is no Node, or one that an administrator made ahead.
    Free,
    /// A machine has it whose key is not known: it registered before keys were kept, or somebody took the annotation away.
    /// The first proof of a certificate of that name is taken.
    Unrecorded,
    /// A machine has it.
    Known(Keys),
}

impl Standing {
    pub(super) fn of(node: Option<&Node>) -> Self {
        let Some(node) = node else { return Self::Free };
        if let Some(text) = node.metadata.annotation(ANNOTATION) {
            let keys = Keys::parse(text);
            return if keys.0.is_empty() { Self::Unrecorded } else { Self::Known(keys) };
        }
        let spoke =
            node.status.as_ref().and_then(|s| s.node_info.as_ref()).is_some_and(|i| !i.boot_id.is_empty());
        if spoke || node.metadata.annotation(labels::GIVEN).is_some() { Self::Unrecorded } else { Self::Free }
    }

    /// Of a name. A stored Node that does not decode is somebody's.
    pub(super) fn of_name(objects: &Objects, node: &str) -> Self {
        match objects.stored(&Key::cluster(Resource::NODES, node)) {
            None => Self::Free,
            Some(stored) => stored.decode::<Node>().map_or(Self::Unrecorded, |node| Self::of(Some(&node))),
        }
    }

    /// Whether a certificate of that name, with this key, is of the machine that has it.
    pub(super) fn admits(&self, key: &KeyRecord) -> bool {
        match self {
            Self::Free | Self::Unrecorded => true,
            Self::Known(keys) => keys.holds(key),
        }
    }

    pub(super) fn keys(self) -> Keys {
        match self {
            Self::Free | Self::Unrecorded => Keys::default(),
            Self::Known(keys) => keys,
        }
    }
}

/// Records with its Node that a machine was given a certificate; `held` is the key that it used so far.
pub(super) async fn given(
    objects: &Objects,
    options: &WriteOptions,
    node: &str,
    held: Option<&KeyRecord>,
    key: &KeyRecord,
) -> Result<(), ApiError> {
    let mut attempt = 1;
    loop {
        let stored = objects.get(Resource::NODES, None, node).await?;
        let decoded: Node = stored
            .decode()
            .map_err(|error| ApiError::new(Reason::InternalError, Chain(&error).to_string()))?;
        let mut keys = Standing::of(Some(&decoded)).keys();
        if let Some(held) = held {
            keys = keys.with(held.clone());
        }
        let annotations = json!({(ANNOTATION): keys.with(key.clone()).text()});
        let version = decoded.metadata.resource_version;
        let patch =
            Patch::Merge(json!({"metadata": {"annotations": annotations, "resourceVersion": version}}));
        match objects.patch(Resource::NODES, None, node, None, patch, options).await {
            Ok(_) => return Ok(()),
            Err(error) if error.reason == Reason::Conflict && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeStatus, NodeSystemInfo};

    use super::*;

    fn key(name: &str, from: i64) -> KeyRecord {
        KeyRecord { fingerprint: format!("sha256:{name}"), from }
    }

    fn annotated(name: &str, value: &str) -> Node {
        let mut node = Node::default();
        node.metadata.annotations = Some([(name.to_owned(), value.to_owned())].into());
        node
    }

    #[test]
    fn a_name_is_free_until_a_machine_has_it() {
        assert_eq!(Standing::of(None), Standing::Free);
        assert_eq!(Standing::of(Some(&Node::default())), Standing::Free, "made ahead by an administrator");
        assert_eq!(Standing::of(Some(&annotated(labels::GIVEN, "{}"))), Standing::Unrecorded);
        let spoke = NodeSystemInfo { boot_id: "b".to_owned(), ..NodeSystemInfo::default() };
        let status = Some(NodeStatus { node_info: Some(spoke), ..NodeStatus::default() });
        let replaced = Node { status, ..Node::default() };
        assert_eq!(Standing::of(Some(&replaced)), Standing::Unrecorded, "annotations can be taken away");
        let keys = Keys::only(key("a", 7)).with(key("b", 9));
        assert_eq!(Standing::of(Some(&annotated(ANNOTATION, &keys.text()))), Standing::Known(keys));
        assert_eq!(Standing::of(Some(&annotated(ANNOTATION, "nonsense"))), Standing::Unrecorded);
    }

    #[test]
    fn a_machine_is_known_by_its_last_keys_and_by_younger_ones_of_a_lost_database() {
        let known = Standing::Known(Keys::only(key("a", 5)).with(key("b", 9)));
        assert!(known.admits(&key("a", 5)) && known.admits(&key("b", 9)));
        assert!(
            !known.admits(&key("c", 4)) && !known.admits(&key("c", 9)),
            "of a machine that had the name before"
        );
        assert!(known.admits(&key("c", 10)), "given after what the database knows");
        assert!(Standing::Unrecorded.admits(&key("c", 1)));
        let mut many = Keys::default();
        for at in 0..10 {
            many = many.with(key(&at.to_string(), at));
        }
        assert_eq!(many.0.len(), KEPT);
        assert!(many.holds(&key("9", 9)) && !many.holds(&key("1", 1)));
    }
}
