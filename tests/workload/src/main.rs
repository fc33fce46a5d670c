//! The demonstration workload.
fn main() {}
