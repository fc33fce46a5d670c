//! Images, as far as a plan looks at them.

/// What an image says about how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageInfo {
    /// Reference as the user wrote it.
    pub reference: String,
    /// Name in containerd's image store that a container is created from.
    pub local_name: String,
    /// `repository@sha256:...`, for `imageID`.
    pub id: String,
    /// `config.User`: name, uid or uid:gid; empty is root.
    pub user: String,
    /// `config.StopSignal`: name or number; empty when it names none.
    pub stop_signal: String,
    /// Bytes of all layers.
    pub size: u64,
}
