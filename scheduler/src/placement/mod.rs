//! Placement: which node a pod goes to, and why a pod goes nowhere.
//!
//! In: pods, nodes, namespaces and services as they change. Out: bindings, the `PodScheduled` condition and
//! events, through `Objects`. Filter, score and pick are pure functions over a snapshot that is kept change by
//! change; each rejection keeps its reason per node. Never: moves or evicts a pod that has a node.

mod filter;
mod metrics;
mod pick;
mod pod;
mod queue;
mod resources;
mod run;
mod score;
mod snapshot;
mod spread;

pub use filter::{Rejection, Rejections, tolerates};
pub use metrics::Metrics;
pub use pick::{Unplaced, decide};
pub use pod::PodView;
pub use resources::{Amounts, Requests};
pub use run::{Dependencies, start};
pub use snapshot::{NodeView, Snapshot};

#[cfg(test)]
mod run_tests;
#[cfg(test)]
mod tests;
