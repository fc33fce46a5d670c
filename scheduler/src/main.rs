//! gantry-scheduler.
fn main() {}
