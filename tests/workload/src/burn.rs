//! Uses resources on request: CPU for a while, memory for good.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;
/// Small steps, so that a limit is met gradually and the log shows how far it came.
const STEP_MIB: u64 = 8;

/// Keeps one CPU busy for `time`.
pub(crate) fn cpu(time: Duration) {
    let end = Instant::now() + time;
    let mut x = 0_u64;
    while Instant::now() < end {
        for i in 0..10_000_u64 {
            x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i));
        }
    }
}

/// Allocates and touches `mib` MiB; the caller keeps it.
pub(crate) fn memory(mib: u64) -> Result<Vec<u8>, String> {
    let bytes = usize::try_from(mib).ok().and_then(|m| m.checked_mul(MIB)).ok_or("too many MiB")?;
    Ok(black_box(vec![1_u8; bytes]))
}

/// Takes `mib` MiB in steps and then stays for ever.
pub(crate) fn eat_and_stay(mib: u64) -> Result<(), String> {
    let mut held = Vec::new();
    let mut taken = 0;
    while taken < mib {
        let step = STEP_MIB.min(mib - taken);
        held.push(memory(step)?);
        taken += step;
        println!("holding {taken} MiB");
    }
    loop {
        black_box(&held);
        std::thread::park();
    }
}
