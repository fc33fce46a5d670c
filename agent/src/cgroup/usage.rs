//! Usage counters of a cgroup. CPU time is in every cgroup; where the memory controller is missing, memory is what the
//! processes in the cgroup have resident, from /proc.

use std::{fs, path::Path};

use super::{CgroupError, Usage, files::Held};
use crate::proc::Proc;

/// Counters of this directory; `None` when it does not exist.
pub(super) fn read(directory: &Path) -> Result<Option<Usage>, CgroupError> {
    let Some(mut group) = Held::open(directory)? else { return Ok(None) };
    let Some(cpu) = group.read("cpu.stat")? else { return Ok(None) };
    let mut usage = Usage {
        cpu_ns: value(cpu, "usage_usec") * 1000,
        throttled_periods: value(cpu, "nr_throttled"),
        throttled_ns: value(cpu, "throttled_usec") * 1000,
        ..Usage::default()
    };
    match group.read("memory.current")?.map(number) {
        Some(current) => {
            usage.memory_usage = current;
            let inactive = group.read("memory.stat")?.map_or(0, |stat| value(stat, "inactive_file"));
            usage.memory_working_set = current.saturating_sub(inactive);
            usage.oom_kills = group.read("memory.events")?.map_or(0, |events| value(events, "oom_kill"));
        }
        None => {
            let mut pids = Vec::new();
            processes(directory, &mut pids)?;
            usage.memory_usage = pids.iter().filter_map(|pid| Proc::new().resident(*pid)).sum();
            usage.memory_working_set = usage.memory_usage;
            usage.pids = pids.len() as u64;
        }
    }
    if let Some(pids) = group.read("pids.current")? {
        usage.pids = number(pids);
    }
    Ok(Some(usage))
}

/// The value of a line `name value`; 0 when there is none.
fn value(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map_or(0, number)
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_default()
}

/// Processes of the cgroup and those below it.
fn processes(directory: &Path, pids: &mut Vec<i32>) -> Result<(), CgroupError> {
    let Some(group) = Held::open(directory)? else { return Ok(()) };
    let own = group.read_list("cgroup.procs")?.unwrap_or_default();
    pids.extend(own.lines().filter_map(|pid| pid.parse::<i32>().ok()));
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        processes(&entry.path(), pids)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_come_from_the_controllers() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("cpu.stat", "usage_usec 5\nuser_usec 3\nnr_throttled 2\nthrottled_usec 7\n"),
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 600\ninactive_file 300\n"),
            ("memory.events", "oom 9\noom_kill 1\noom_group_kill 8\n"),
            ("pids.current", "4\n"),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let expected = Usage {
            cpu_ns: 5000,
            memory_working_set: 700,
            memory_usage: 1000,
            oom_kills: 1,
            throttled_periods: 2,
            throttled_ns: 7000,
            pids: 4,
        };
        assert_eq!(read(directory.path()).unwrap(), Some(expected));
    }

    #[test]
    fn without_controllers_memory_is_that_of_the_processes() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("0");
        fs::create_dir(&below).unwrap();
        fs::write(directory.path().join("cpu.stat"), "usage_usec 5\n").unwrap();
        fs::write(below.join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
        let usage = read(directory.path()).unwrap().unwrap();
        assert!(usage.memory_working_set > 0 && usage.pids == 1, "{usage:?}");
    }

    #[test]
    fn no_cgroup_no_counters() {
        assert_eq!(read(Path::new("/nonexistent")).unwrap(), None);
    }
}
