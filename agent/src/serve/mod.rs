//! Metrics, health and debug endpoints of the agent.
