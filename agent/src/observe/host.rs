//! The machine: what it is and how it is. Read from /proc (`crate::proc`), /etc and the file system, below a root that
//! tests replace.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    model::{NodeUsage, Resolver},
    proc::Proc,
};

/// A reader of one machine.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

/// What does not change while the machine is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// `6.1.0-13-amd64`
    pub kernel: String,
    /// `Debian GNU/Linux 12 (bookworm)`
    pub os_image: String,
    /// `/etc/machine-id`
    pub machine_id: String,
    /// Of this boot.
    pub boot_id: String,
}

impl Host {
    /// This machine.
    pub fn new() -> Self {
        Self { root: "/".into() }
    }

    /// A machine below another root.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    fn proc(&self) -> Proc {
        Proc::at(self.root.join("proc"))
    }

    fn read(&self, path: &str) -> io::Result<String> {
        fs::read_to_string(self.root.join(path))
    }

    fn line(&self, path: &str) -> String {
        self.read(path).map(|text| text.trim().to_owned()).unwrap_or_default()
    }

    /// What it is.
    pub fn machine(&self) -> Machine {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let os_release = self.read("etc/os-release").unwrap_or_default();
        let pretty = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Machine {
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory: self.proc().memory().map_or(0, |memory| memory.total),
            kernel: self.proc().release(),
            os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
            machine_id: self.line("etc/machine-id"),
            boot_id: self.proc().boot_id(),
        }
    }

    /// Whether AppArmor confines programs here.
    pub fn apparmor(&self) -> bool {
        self.line("sys/module/apparmor/parameters/enabled") == "Y"
    }

    /// The names that the machine itself knows.
    pub fn hosts(&self) -> String {
        self.read("etc/hosts").unwrap_or_default()
    }

    /// CPU time and working set of the whole machine.
    pub fn usage(&self, now_ms: i64) -> Option<NodeUsage> {
        let memory = self.proc().memory()?;
        Some(NodeUsage {
            cpu_nano_seconds: u64::try_from(self.proc().busy()?.as_nanos()).ok()?,
            memory_working_set_bytes: memory.total.saturating_sub(memory.available),
            time_ms: now_ms,
        })
    }

    /// Bytes of the file system that holds `path`: all, and those that are free.
    pub fn disk(path: &Path) -> Option<(u64, u64)> {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        let unit = stat.fragment_size();
        Some((stat.blocks() * unit, stat.blocks_available() * unit))
    }

    /// Bytes of memory: all, and those that are free for programs.
    pub(super) fn memory(&self) -> Option<(u64, u64)> {
        self.proc().memory().map(|memory| (memory.total, memory.available))
    }

    /// Process ids: all, and those that are free.
    pub(super) fn pids(&self) -> Option<(u64, u64)> {
        let (used, most) = self.proc().processes()?;
        Some((most, most.saturating_sub(used)))
    }

    /// The machine's own resolver configuration.
    pub fn resolver(path: &Path) -> Resolver {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next();
            let rest = words.map(str::to_owned);
            match keyword {
                Some("nameserver") => resolver.nameservers.extend(rest.take(1)),
                // The last line counts, as for the C library.
                Some("search" | "domain") => resolver.searches = rest.collect(),
                Some("options") => resolver.options.extend(rest),
                _ => {}
            }
        }
        resolver
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Thresholds;

    #[test]
    fn a_machine_is_read_from_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let others = "MemFree Buffers Cached SwapCached Active Inactive SwapTotal SwapFree Dirty Writeback Mapped Slab \
            Committed_AS VmallocTotal VmallocUsed VmallocChunk";
        let others: String = others.split(' ').map(|name| format!("{name}: 1 kB\n")).collect();
        let meminfo = format!("MemTotal:  2048 kB\nMemAvailable:  1024 kB\n{others}");
        for (path, text) in [
            ("etc/os-release", "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            ("etc/machine-id", "abc\n"),
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            ("proc/sys/kernel/random/boot_id", "b\n"),
            ("proc/sys/kernel/pid_max", "1000\n"),
            ("proc/loadavg", "0.1 0.2 0.3 1/990 12\n"),
            ("proc/meminfo", &meminfo),
            (
                "proc/stat",
                "cpu  10 0 5 1000 3 1 1 0 0 0\ncpu0 10 0 5 1000 3 1 1 0 0 0\nctxt 1\nbtime 1\nprocesses 1\n",
            ),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::at(dir.path().to_owned());
        let machine = host.machine();
        assert_eq!((machine.memory, machine.kernel.as_str()), (2 << 20, "6.1.0"));
        assert_eq!(machine.os_image, "Debian GNU/Linux 12 (bookworm)");
        let usage = host.usage(5).unwrap();
        assert_eq!((usage.cpu_nano_seconds, usage.memory_working_set_bytes), (170_000_000, 1 << 20));
        let pressure = Thresholds::default().conditions(&host, dir.path());
        let state = |kind: &str| pressure.iter().find(|c| c.kind == kind).unwrap().status.clone();
        assert_eq!((state("MemoryPressure"), state("PIDPressure")), ("True".into(), "True".into()));
    }

    #[test]
    fn the_resolver_configuration_is_read_as_the_c_library_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(
            &path,
            "# x\nnameserver 192.0.2.1\ndomain a.example\nsearch b.example c.example\noptions ndots:2\n",
        )
        .unwrap();
        let resolver = Host::resolver(&path);
        assert_eq!(resolver.nameservers, ["192.0.2.1"]);
        assert_eq!(resolver.searches, ["b.example", "c.example"]);
        assert_eq!(resolver.options, ["ndots:2"]);
    }
}
