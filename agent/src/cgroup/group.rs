//! One cgroup: made, and through cgroups-rs limited, weighed, entered and killed. In: a directory and values. Out: our
//! errors, which name the file with its whole path and the value, and have the kernel's answer as their cause. Never
//! here: handing controllers on, statistics and events, for which the crate has nothing, or loses something (`files`,
//! docs/adr/0023-crates-for-cgroups-proc-and-dns.md).

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use cgroups_rs::{
    Cgroup, CgroupPid, ControllIdentifier, Controller, Hierarchy, MaxValue, Subsystem,
    cpu::CpuController,
    error::{Error as CrateError, ErrorKind},
    memory::MemController,
    pid::PidController,
};

use super::{CgroupError, failed};
use crate::model::Limits;

const CPU: &str = "cpu.max";
const WEIGHT: &str = "cpu.weight";
const MEMORY: &str = "memory.max";
const PIDS: &str = "pids.max";
/// What the kernel takes.
const WEIGHTS: (u64, u64) = (1, 10_000);
/// What the kernel has in a new group.
const DEFAULT_WEIGHT: u64 = 100;
const DEFAULT_PERIOD_US: u64 = 100_000;

/// A mount of cgroup v2, wherever it is. The crate's own takes it to be at /sys/fs/cgroup, where a host that boots with
/// both versions has none.
#[derive(Clone, Debug)]
struct Mount(PathBuf);

impl Hierarchy for Mount {
    /// Without asking which the kernel has: what is missing says so when it is written.
    fn subsystems(&self) -> Vec<Subsystem> {
        let at = || self.0.clone();
        vec![
            Subsystem::Cpu(CpuController::new(at(), true)),
            Subsystem::Mem(MemController::new(at(), true)),
            Subsystem::Pid(PidController::new(at(), true)),
        ]
    }

    fn root(&self) -> PathBuf {
        self.0.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), "")
    }

    fn parent_control_group(&self, path: &str) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), Path::new(path).parent().unwrap_or(Path::new("")))
    }

    fn v2(&self) -> bool {
        true
    }
}

/// A group, whether it is there or not.
#[derive(Debug)]
pub(super) struct Group {
    directory: PathBuf,
    cgroup: Cgroup,
}

impl Group {
    /// The group of this directory.
    pub(super) fn at(directory: &Path) -> Self {
        // The group is the root of its own hierarchy: the crate then joins no path, and cannot leave the directory.
        let cgroup = Cgroup::load(Box::new(Mount(directory.to_owned())), "");
        Self { directory: directory.to_owned(), cgroup }
    }

    /// Makes it, and those above it that are missing. By the crate, a failure would be a line in the log.
    pub(super) fn create(&self) -> Result<(), CgroupError> {
        fs::create_dir_all(&self.directory).map_err(failed("create", &self.directory))
    }

    /// Sets all limits; what is not limited is set back to what a new group has.
    pub(super) fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        let (quota, period) =
            (limits.cpu_quota_us.unwrap_or(-1), limits.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US));
        let max = |value: Option<i64>| value.map_or(MaxValue::Max, MaxValue::Value);
        self.weigh(limits.cpu_weight.unwrap_or(DEFAULT_WEIGHT))?;
        let (cpu, memory, pids) =
            (self.cpu()?, self.controller::<MemController>()?, self.controller::<PidController>()?);
        let told = format!("{} {period}", max(limits.cpu_quota_us));
        self.set(CPU, &told, cpu.set_cfs_quota_and_period(Some(quota), Some(period)))?;
        let told = max(limits.memory_max);
        self.set(MEMORY, &told.to_string(), memory.set_limit(limits.memory_max.unwrap_or(-1)))?;
        let told = max(limits.pids_max);
        self.set(PIDS, &told.to_string(), pids.set_pid_max(told))
    }

    /// Sets its weight against those beside it, within what the kernel takes.
    pub(super) fn weigh(&self, weight: u64) -> Result<(), CgroupError> {
        let weight = weight.clamp(WEIGHTS.0, WEIGHTS.1);
        self.set(WEIGHT, &weight.to_string(), self.cpu()?.set_shares(weight))
    }

    /// Its weight; `None` when it is gone.
    pub(super) fn weight(&self) -> Option<u64> {
        self.cpu().ok()?.shares().ok()
    }

    /// Moves a process into it.
    pub(super) fn take(&self, pid: u64) -> Result<(), CgroupError> {
        let taken = self.cpu()?.add_task_by_tgid(&CgroupPid::from(pid));
        self.set("cgroup.procs", &pid.to_string(), taken)
    }

    /// Kills every process in it and below. Nothing when it is gone, or the kernel is older than 5.14.
    pub(super) fn kill(&self) -> Result<(), CgroupError> {
        match self.cgroup.kill() {
            Err(error) if *error.kind() == ErrorKind::InvalidOperation => Ok(()),
            Err(error) if cause(&error).kind() == io::ErrorKind::NotFound => Ok(()),
            done => self.set("cgroup.kill", "1", done),
        }
    }

    fn cpu(&self) -> Result<&CpuController, CgroupError> {
        self.controller()
    }

    /// One of those that `Mount` names, so that it is always there.
    fn controller<'a, T>(&'a self) -> Result<&'a T, CgroupError>
    where
        &'a T: From<&'a Subsystem>,
        T: Controller + ControllIdentifier,
    {
        self.cgroup.controller_of().ok_or_else(|| CgroupError::Path {
            operation: "find a controller of",
            path: self.directory.clone(),
            source: io::ErrorKind::Unsupported.into(),
        })
    }

    fn set(&self, file: &str, value: &str, done: Result<(), CrateError>) -> Result<(), CgroupError> {
        done.map_err(|error| CgroupError::Write {
            path: self.directory.join(file),
            value: value.to_owned(),
            source: cause(&error),
        })
    }
}

/// What the kernel answered. The crate's own words name no directory and repeat the cause in them.
fn cause(error: &CrateError) -> io::Error {
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(io) => io.raw_os_error().map_or_else(|| io.kind().into(), io::Error::from_raw_os_error),
        None => io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::chain;

    #[test]
    fn a_refusal_names_file_value_and_the_kernels_answer() {
        let directory = tempfile::tempdir().unwrap();
        let group = Group::at(&directory.path().join("pod"));
        let gone = chain(&group.weigh(7).unwrap_err());
        let expected = format!(
            "cannot set \"{}/pod/cpu.weight\" to \"7\": No such file or directory (os error 2)",
            directory.path().display()
        );
        assert_eq!(gone, expected);
        group.create().unwrap();
        // A directory in its place is refused as a controller that is missing would be.
        fs::create_dir(directory.path().join("pod/memory.max")).unwrap();
        fs::write(directory.path().join("pod/cpu.max"), "max 100000\n").unwrap();
        let refused =
            chain(&group.limit(&Limits { memory_max: Some(4096), ..Limits::default() }).unwrap_err());
        assert!(refused.contains("pod/memory.max\" to \"4096\": Is a directory"), "{refused}");
    }

    #[test]
    fn a_group_that_is_gone_has_no_weight_and_nothing_to_kill() {
        let directory = tempfile::tempdir().unwrap();
        let group = Group::at(&directory.path().join("gone"));
        assert_eq!(group.weight(), None);
        group.kill().unwrap();
    }

    #[test]
    fn weights_stay_within_what_the_kernel_takes() {
        let directory = tempfile::tempdir().unwrap();
        let group = Group::at(directory.path());
        for (asked, set) in [(0, 1), (39, 39), (20_000, 10_000)] {
            group.weigh(asked).unwrap();
            assert_eq!(group.weight(), Some(set));
        }
    }
}
