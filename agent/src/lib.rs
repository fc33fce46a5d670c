//! The node agent as a library: `main.rs` only parses arguments and calls [`app`].
//!
//! One direction of flow: session -> `control` (Desired, also in the ledger) -> `reconcile`: `observe` -> `plan`
//! -> `apply` -> status back up the session. Imports go down only: `app > reconcile > {observe, plan, apply} >
//! ports > model`. `plan` is pure: no IO, no clock, no randomness. `apply` is the only caller of mutating ports
//! and what it did is learned only by the next observation, so the agent can be killed at any instruction.

pub mod app;
pub mod apply;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod containerd;
pub mod control;
pub mod dataplane;
pub mod dns;
pub mod durable;
pub mod failpoint;
pub mod handlers;
pub mod images;
pub mod lifecycle;
pub mod logs;
pub mod model;
pub mod net;
pub mod observe;
pub mod plan;
pub mod policy;
pub mod probes;
pub mod proc;
pub mod reconcile;
pub mod records;
pub mod runtime;
pub mod serve;
pub mod streams;
pub mod sys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod volumes;
