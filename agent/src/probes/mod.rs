//! Liveness, readiness and startup probes; a result is an observation.
