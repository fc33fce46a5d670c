//! Admission plugins that need more than the object itself: service addresses and node ports, and what a pod
//! gets without asking.
//!
//! In: writes on their way to the store. Out: the same writes, filled in, or a refusal in upstream's words.
//! Never: writes of their own. The chain is put together by the composition root.

mod allocator;
mod pods;
mod services;

pub use pods::PodDefaults;
pub use services::{ServiceAddresses, ServiceRanges};
