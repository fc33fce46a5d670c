//! Node sessions over gRPC: bootstrap, per-node projection with generations, heartbeats, streams.

pub(crate) mod projection;
