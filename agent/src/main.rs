//! gantry-agent.
fn main() {}
