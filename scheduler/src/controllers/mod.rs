//! The control loops: each a pure `plan` and a thin applier, all run by one [`runner`].

mod deployment;
mod owner;
mod pods;
mod replicaset;
pub mod runner;
