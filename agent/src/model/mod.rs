//! Plain data that every other module speaks: identities, desired state, observed state, service table. Imports
//! nothing of ours and does no IO.

mod chain;
mod container;
mod desired;
mod ids;
mod image;
mod layout;
mod network;
mod node;
mod observed;
mod probe;
mod report;
mod service;
pub mod spec;
mod stream;
mod view;

pub use chain::{Chain, causes, chain};
pub use container::{ContainerState, Limits, ObservedContainer};
pub use desired::{Desired, DesiredPod, OwnNode, SharedObject, Table};
pub use ids::{ContainerId, ContainerName, NodeName, PodName, PodUid};
pub use image::ImageInfo;
pub use layout::Layout;
pub use network::{ClusterNetwork, NetworkStatus, PeerNode, PodAddresses};
pub use node::{ContainerUsage, NodeCondition, NodeFacts, NodeTaint, NodeUsage, Vitals};
pub use observed::{
    Condemned, ContainerRecord, Failure, Hook, HookKind, ImageFailure, ImageState, ObservedPod, PodRecord,
    StopRecord, Subject,
};
pub use probe::{Check, HttpCheck, ProbeKind, ProbeTarget, Target, Timing};
pub use report::{EventSubject, EventType, FailedKind, FailedObject, NodeEvent, PodReport, Upstream};
pub use service::{Endpoint, Protocol, ServiceId, ServicePort, ServiceSpec, ServiceTable, ServiceType};
pub use stream::{
    DialTarget, ExecRequest, LogsRequest, PortForwardRequest, StreamEnd, StreamInput, StreamOutput,
    StreamRefusal, StreamRequest,
};
pub use view::{NodeView, Resolver};
