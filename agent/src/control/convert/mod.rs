//! Between the wire and the model, by direction: the only user of protocol types besides the calls themselves. Pure.

mod incoming;
mod kinds;
mod outgoing;
mod policy;
mod service;

pub(super) use incoming::{network, stream_input, stream_request};
pub(super) use kinds::{Identity, KINDS, Kind, Put};
pub(super) use outgoing::{
    ack, event, heartbeat, message, node_info, pod_status, stream_end, stream_open, stream_output,
    stream_refused,
};
pub use policy::policy_update;

/// A message of the scheduler that makes no sense to this agent.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A field that must be there is not, or is not what it should be.
    #[error("{0} is missing or malformed")]
    Field(&'static str),
    /// A field holds what this agent does not understand.
    #[error("{field} is not understood: {value:?}")]
    Value {
        /// Which.
        field: &'static str,
        /// What it holds.
        value: String,
    },
    /// An object's JSON.
    #[error("{kind} {name} does not decode")]
    Json {
        /// `Pod`, `Secret`, `ConfigMap`.
        kind: &'static str,
        /// Which.
        name: String,
        /// What the decoder says; without the object's content.
        #[source]
        source: serde_json::Error,
    },
    /// No update at all.
    #[error("the update does not decode")]
    Update(#[source] prost::DecodeError),
    /// The ledger's own framing.
    #[error("the ledger does not decode")]
    Ledger,
}
