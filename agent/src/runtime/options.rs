//! The one message of the runc shim that containerd's client crate does not carry, and the type names that its
//! messages go by.

use prost::Message;
use prost_types::Any;

/// Type of an OCI specification in a container record.
pub(super) const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Type of the process of an exec.
pub(super) const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// `containerd.runc.v1.Options`, as far as we set it: cgroups through files, the OCI runtime's program.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RuncOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
}

impl RuncOptions {
    pub(super) fn with_binary(binary: &str) -> Self {
        Self { binary_name: binary.to_owned() }
    }

    pub(super) fn to_any(&self) -> Any {
        Any { type_url: "containerd.runc.v1.Options".to_owned(), value: self.encode_to_vec() }
    }
}
