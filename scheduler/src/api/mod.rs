//! The Kubernetes REST API over HTTPS: routes, negotiation, authentication; no object logic of its own.

pub mod discovery;
pub mod openapi;
