//! Admission plugins that need more than the object itself: service addresses and node ports, what a pod
//! gets without asking, and the classes that objects name.
//!
//! In: writes on their way to the store. Out: the same writes, filled in, or a refusal in upstream's words.
//! Never: writes of their own. The chain is put together by the composition root.

mod allocator;
mod classes;
mod nodes;
mod pods;
mod services;

pub use allocator::Promises;
pub use classes::{DefaultIngressClass, RuntimeClasses};
pub use nodes::NodeTaints;
pub use pods::PodDefaults;
pub use services::{ServiceAddresses, ServiceRanges};
