//! Newtypes for identities, so that a pod's uid is never taken for its name.

use std::{fmt, sync::Arc};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
    };
}

text_id! {
    /// `metadata.uid` of a pod: the identity of everything the agent makes for it.
    PodUid
}
text_id! {
    /// Name of a container within its pod.
    ContainerName
}
text_id! {
    /// A node's name in the cluster.
    NodeName
}
text_id! {
    /// containerd's id of one attempt of one container: `<pod uid>.<container name>.<attempt>`.
    ContainerId
}

/// Namespace and name of a pod, for messages, logs and DNS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodName {
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl ContainerId {
    /// The id of the `attempt`th start (from 0) of a container.
    pub fn of(pod: &PodUid, container: &ContainerName, attempt: u32) -> Self {
        Self::new(format!("{pod}.{container}.{attempt}"))
    }

    /// Pod, container and attempt; `None` when the id is not one of ours.
    pub fn parts(&self) -> Option<(PodUid, ContainerName, u32)> {
        let (rest, attempt) = self.as_str().rsplit_once('.')?;
        let (pod, container) = rest.split_once('.')?;
        Some((pod.into(), container.into(), attempt.parse().ok()?))
    }
}
