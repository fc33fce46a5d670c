//! Readiness gates and the drain of a graceful stop.
