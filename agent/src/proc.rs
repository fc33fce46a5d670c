//! What the kernel tells below /proc of processes, mounts and the machine: the only reader and parser of it for everybody
//! here (settings and the locks of `logs` apart). In: a root, which tests replace. Out: facts in plain units. Parsed by procfs, but for the
//! table of mounts: procfs leaves mount points escaped, and gives up the whole table for one name that is not UTF-8,
//! which a privileged pod may mount; then no pod's directory could be removed. Never writes.

use std::{
    ffi::OsString,
    fmt::Display,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Duration,
};

use procfs::{
    FromBufReadSI, FromRead, KernelStats, LoadAverage, Meminfo, ProcError, ProcessCGroups, Uptime,
    process::{Stat, StatM, Status},
};

/// The directory of the process that asks.
pub const SELF: &str = "self";

/// A reader of one /proc.
#[derive(Clone, Debug)]
pub struct Proc {
    root: PathBuf,
}

/// Sets of capabilities, a bit for each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What the process may do now.
    pub effective: u64,
    /// What its children can ever have; `None` where the kernel does not tell.
    pub bounding: Option<u64>,
}

/// A mount as a process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub point: PathBuf,
    /// Mounts below it show in its peers.
    pub shared: bool,
    /// Mounts below its master show in it.
    pub slave: bool,
}

/// The machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All, in bytes.
    pub total: u64,
    /// What programs can have without swapping, in bytes.
    pub available: u64,
}

impl Default for Proc {
    fn default() -> Self {
        Self::new()
    }
}

impl Proc {
    /// Of this machine.
    pub fn new() -> Self {
        Self::at("/proc")
    }

    /// At another root.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn file(&self, process: impl Display, name: &str) -> PathBuf {
        self.root.join(process.to_string()).join(name)
    }

    /// Whether the process is there and has not ended.
    pub fn is_alive(&self, pid: u32) -> bool {
        Stat::from_file(self.file(pid, "stat")).is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
    }

    /// How long the machine is up, and how long it was when the process started.
    fn times(&self, pid: u32) -> Option<(Duration, Duration)> {
        let started = Stat::from_file(self.file(pid, "stat")).ok()?.starttime;
        let up = Uptime::from_file(self.root.join("uptime")).ok()?.uptime_duration();
        Some((up, Duration::from_millis(started.checked_mul(1000)? / procfs::ticks_per_second())))
    }

    /// When the process started, in milliseconds as `now_ms` counts them; `None` when it has ended.
    pub fn started_ms(&self, pid: u32, now_ms: i64) -> Option<i64> {
        let (up, started) = self.times(pid)?;
        let ago = up.saturating_sub(started).as_millis();
        now_ms.checked_sub(i64::try_from(ago).ok()?)
    }

    /// What a process may do; `None` when it is gone.
    pub fn capabilities(&self, process: impl Display) -> Option<Capabilities> {
        let status = Status::from_file(self.file(process, "status")).ok()?;
        Some(Capabilities { effective: status.capeff, bounding: status.capbnd })
    }

    /// A process's oom_score_adj; `None` when it is gone.
    pub fn oom_score_adj(&self, process: impl Display) -> Option<i32> {
        self.line(&self.file(process, "oom_score_adj"))?.parse().ok()
    }

    /// Resident bytes of a process, without what it shares with others; `None` when it is gone.
    pub fn resident(&self, pid: i32) -> Option<u64> {
        let pages = StatM::from_file(self.file(pid, "statm")).ok()?;
        Some(pages.resident.saturating_sub(pages.shared) * procfs::page_size())
    }

    /// The cgroup of version 2 that a process is in, from the hierarchy's root, which is `/`; `None` where there is no
    /// version 2.
    pub fn cgroup(&self, process: impl Display) -> io::Result<Option<String>> {
        let groups = self.groups(process)?.into_iter();
        Ok(groups.filter(|group| group.hierarchy == 0).map(|group| group.pathname).next())
    }

    /// The cgroups that a process is in, of all hierarchies.
    pub fn cgroups(&self, process: impl Display) -> io::Result<Vec<String>> {
        Ok(self.groups(process)?.into_iter().map(|group| group.pathname).collect())
    }

    fn groups(&self, process: impl Display) -> io::Result<ProcessCGroups> {
        ProcessCGroups::from_file(self.file(process, "cgroup")).map_err(cause)
    }

    /// The mounts that a process sees, each after those it may be on.
    pub fn mounts(&self, process: impl Display) -> io::Result<Vec<Mount>> {
        let table = fs::read(self.file(process, "mountinfo"))?;
        Ok(table.split(|byte| *byte == b'\n').filter_map(mount).collect())
    }

    /// The machine's memory.
    pub fn memory(&self) -> Option<Memory> {
        let told = Meminfo::from_file(self.root.join("meminfo")).ok()?;
        Some(Memory { total: told.mem_total, available: told.mem_available? })
    }

    /// CPU time that all processors together did not idle.
    pub fn busy(&self) -> Option<Duration> {
        let file = io::BufReader::new(fs::File::open(self.root.join("stat")).ok()?);
        let ticks = KernelStats::from_buf_read(file, procfs::current_system_info()).ok()?.total;
        let interrupts = ticks.irq.unwrap_or_default() + ticks.softirq.unwrap_or_default();
        let busy = ticks.user + ticks.nice + ticks.system + interrupts + ticks.steal.unwrap_or_default();
        Some(Duration::from_millis(busy.checked_mul(1000)? / procfs::ticks_per_second()))
    }

    /// How many processes and threads there are, and how many there may be.
    pub fn processes(&self) -> Option<(u64, u64)> {
        let most = self.line(&self.root.join("sys/kernel/pid_max"))?.parse().ok()?;
        Some((LoadAverage::from_file(self.root.join("loadavg")).ok()?.max.into(), most))
    }

    /// Names this boot of the machine; empty where the kernel does not tell.
    pub fn boot_id(&self) -> String {
        self.line(&self.root.join("sys/kernel/random/boot_id")).unwrap_or_default()
    }

    /// The kernel's release; empty where it does not tell.
    pub fn release(&self) -> String {
        self.line(&self.root.join("sys/kernel/osrelease")).unwrap_or_default()
    }

    fn line(&self, path: &Path) -> Option<String> {
        fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    }
}

fn cause(error: ProcError) -> io::Error {
    match error {
        ProcError::NotFound(_) => nix::errno::Errno::ENOENT.into(),
        ProcError::PermissionDenied(_) => nix::errno::Errno::EACCES.into(),
        ProcError::Io(error, _) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(4);
    let point = unescaped(fields.next()?);
    let optional: Vec<&[u8]> = fields.skip(1).take_while(|field| *field != b"-").collect();
    let has = |prefix: &[u8]| optional.iter().any(|field| field.starts_with(prefix));
    Some(Mount { point, shared: has(b"shared:"), slave: has(b"master:") })
}

/// The kernel writes blanks and the like as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now_ms() -> i64 {
        jiff::Timestamp::now().as_millisecond()
    }

    /// Every parser against the kernel that the test runs on: a crate that does not know its files would fail here.
    #[test]
    fn this_machine_is_understood() {
        let (proc, own) = (Proc::new(), std::process::id());
        assert!(proc.is_alive(own) && !proc.is_alive(u32::MAX / 2));
        let started = proc.started_ms(own, now_ms()).unwrap();
        assert!((now_ms() - 86_400_000..=now_ms() + 1000).contains(&started), "{started}");
        assert!(proc.capabilities(SELF).unwrap().bounding.is_some());
        assert!(proc.oom_score_adj(SELF).is_some());
        assert!(proc.resident(i32::try_from(own).unwrap()).unwrap() > 0);
        assert!(proc.cgroups(SELF).unwrap().iter().all(|path| path.starts_with('/')));
        assert!(proc.mounts(SELF).unwrap().iter().any(|mount| mount.point == Path::new("/")));
        let memory = proc.memory().unwrap();
        assert!(memory.total > memory.available && memory.available > 0, "{memory:?}");
        assert!(proc.busy().unwrap() > Duration::ZERO);
        let (used, most) = proc.processes().unwrap();
        assert!(0 < used && used < most, "{used} {most}");
        assert!(!proc.boot_id().is_empty() && !proc.release().is_empty());
    }

    #[test]
    fn what_is_gone_is_gone() {
        let proc = Proc::at("/nonexistent");
        assert_eq!(proc.started_ms(1, 0), None);
        assert_eq!(proc.capabilities(1), None);
        assert_eq!(proc.memory(), None);
        let error = proc.cgroup(SELF).unwrap_err();
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
        assert_eq!(proc.mounts(1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn mounts_are_read_whatever_their_names() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("7")).unwrap();
        let table = b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            22 21 8:1 / /a\\040b/c\\134d rw shared:3 - ext4 /dev/sda1 rw\n\
            23 21 8:1 / /plain\\04 rw,noatime master:3 - ext4 /dev/\xff rw\n\
            24 21 8:1 / /\xfe rw unbindable shared:1 master:2 - tmpfs tmpfs rw\n";
        fs::write(root.path().join("7/mountinfo"), table).unwrap();
        let of = |point: &[u8], shared, slave| Mount {
            point: OsString::from_vec(point.to_vec()).into(),
            shared,
            slave,
        };
        let expected = [
            of(b"/", false, false),
            of(b"/a b/c\\d", true, false),
            of(b"/plain\\04", false, true),
            of(b"/\xfe", true, true),
        ];
        assert_eq!(Proc::at(root.path()).mounts(7).unwrap(), expected);
    }
}
