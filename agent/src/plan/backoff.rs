//! Delays: 10 s doubling to 5 min, as upstream has them for restarts and pulls.

/// First delay.
const FIRST_MS: i64 = 10_000;
/// Longest delay.
const MAX_MS: i64 = 300_000;
/// A container that ran for so long starts afresh.
const RESET_MS: i64 = 600_000;
/// How long a fresh failure is shown as itself before it is shown as back-off.
pub const FRESH_MS: i64 = 3_000;

/// Delay after the `count`th failure in a row (from 1); none after zero.
pub fn delay_ms(count: u32) -> i64 {
    match count {
        0 => 0,
        count => FIRST_MS.saturating_mul(1 << (count - 1).min(10)).min(MAX_MS),
    }
}

/// Level that counts after an attempt started with `level` ran from `started_ms` to `finished_ms`.
pub fn level_after(level: u32, started_ms: i64, finished_ms: i64) -> u32 {
    if finished_ms - started_ms > RESET_MS { 0 } else { level }
}

/// Delay before a failed step on the node itself (network, volume) is repeated.
pub fn step_delay_ms(count: u32) -> i64 {
    500_i64.saturating_mul(1 << count.saturating_sub(1).min(10)).min(122_000)
}

/// As Go prints a duration of whole seconds: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(ms: i64) -> String {
    let seconds = ms / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_as_upstream() {
        let delays: Vec<_> = (0..8).map(|count| delay_ms(count) / 1000).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(delay_ms(u32::MAX), MAX_MS);
        assert_eq!(level_after(4, 0, RESET_MS), 4);
        assert_eq!(level_after(4, 0, RESET_MS + 1), 0);
        assert_eq!(go_duration(80_000), "1m20s");
        assert_eq!(go_duration(300_000), "5m0s");
    }
}
