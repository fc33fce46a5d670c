//! Endpoint sets by policy.
