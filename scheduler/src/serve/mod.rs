//! Metrics, health and readiness endpoints of the scheduler.
