//! What probes and hooks do: a command in a container, a request to it. Out: how that went. Never judges what it means.

pub mod exec;
pub mod http;
