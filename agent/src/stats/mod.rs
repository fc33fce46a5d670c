//! CPU and memory usage of the whole node, from /proc. Usage of pods and containers comes from their cgroups
//! ([`crate::cgroup`]).

use std::{fs, io, path::Path};

use crate::model::NodeUsage;

/// The node now.
pub fn node_usage(proc: &Path) -> io::Result<NodeUsage> {
    let stat = fs::read_to_string(proc.join("stat"))?;
    let memory = fs::read_to_string(proc.join("meminfo"))?;
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    let per_tick = 1_000_000_000 / u64::try_from(ticks).unwrap_or(100).max(1);
    Ok(NodeUsage {
        cpu_nano_seconds: busy_ticks(&stat) * per_tick,
        memory_working_set_bytes: working_set(&memory),
        time_ms: jiff::Timestamp::now().as_millisecond(),
    })
}

/// `cpu user nice system idle iowait irq softirq steal guest guest_nice`: guest time is part of user time already,
/// stolen time was nobody's here.
fn busy_ticks(stat: &str) -> u64 {
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix("cpu ")) else { return 0 };
    let fields: Vec<u64> = line.split_ascii_whitespace().map(|f| f.parse().unwrap_or_default()).collect();
    [0, 1, 2, 5, 6].into_iter().filter_map(|i| fields.get(i)).sum()
}

/// As the kubelet computes it of the root cgroup: what is used without file pages that nobody touched lately.
fn working_set(meminfo: &str) -> u64 {
    let kilobytes = |name: &str| {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        rest.and_then(|r| r.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default()
    };
    let used = kilobytes("MemTotal").saturating_sub(kilobytes("MemFree"));
    used.saturating_sub(kilobytes("Inactive(file)")) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_neither_idle_nor_waiting_nor_stolen() {
        assert_eq!(busy_ticks("cpu  1 2 4 100 200 8 16 300 400 500\ncpu0 9 9 9 9\n"), 31);
        assert_eq!(busy_ticks(""), 0);
    }

    #[test]
    fn working_set_leaves_out_idle_files() {
        assert_eq!(
            working_set("MemTotal: 100 kB\nMemFree: 40 kB\nInactive(file): 10 kB\nInactive: 30 kB\n"),
            50 * 1024
        );
    }

    #[test]
    fn this_machine_has_usage() {
        let usage = node_usage(Path::new("/proc")).unwrap();
        assert!(usage.cpu_nano_seconds > 0 && usage.memory_working_set_bytes > 1 << 20, "{usage:?}");
    }
}
