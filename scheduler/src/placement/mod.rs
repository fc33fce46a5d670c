//! Placement: which node a pod goes to, and why a pod goes nowhere.
//!
//! In: pods, nodes, namespaces and services as they change. Out: bindings, the `PodScheduled` condition and
//! events, through `Objects`. A decision is a function of a snapshot that is kept change by change, with what
//! constraints ask of it counted as it changes; each rejection keeps its reason. Never: moves or evicts a pod that has
//! a node.

mod aside;
mod bind;
mod class;
mod counted;
mod filter;
mod follow;
mod hint;
mod index;
mod metrics;
mod node;
mod outcome;
mod pick;
mod pod;
mod queue;
mod resources;
mod rules;
mod run;
mod score;
mod snapshot;

pub use filter::Rejection;
pub use metrics::Metrics;
pub use node::NodeView;
pub use outcome::Unplaced;
pub use pick::{Placer, Sampling};
pub use pod::{PodView, Shape, tolerates};
pub use resources::{Amounts, Requests};
pub use run::{Dependencies, start};
pub use snapshot::Snapshot;

/// The scheduler that pods ask for when they ask for none, and who says what it did.
const COMPONENT: &str = "default-scheduler";

#[cfg(test)]
mod run_tests;
#[cfg(test)]
mod tests;
