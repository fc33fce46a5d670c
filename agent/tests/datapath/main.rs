//! The datapath on a real kernel: own network namespaces, own cgroup, own bpf file system, all removed after.
//!
//! `cargo xtask ebpf && cargo test -p gantry-agent --test datapath -- --include-ignored` as root.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod endurance;
mod packet;
mod pods;
mod socket;
mod support;
mod takeover;
mod uplink;
