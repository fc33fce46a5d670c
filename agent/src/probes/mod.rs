//! Liveness, readiness and startup probes. One scheduler keeps all of them in a heap by their next time; a probe
//! that is due runs as a short task. A verdict is written into the pod's record, so that it is an observation like
//! any other and outlives the agent; then the pod's bell rings. Never starts or stops anything.

mod grpc;
mod scheduler;
#[cfg(test)]
mod tests;

pub use scheduler::Prober;
