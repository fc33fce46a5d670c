//! What became of a container, from the places that know: the shim's task, the labels written when its end was
//! seen, the cgroup's memory.events.

use std::path::Path;

use containerd_client::{
    services::v1::{Container, GetContainerRequest},
    types::v1::Process,
};

use tonic::Code;

use super::{RuntimeError, errors::call, labels};
use crate::{
    containerd::Containerd,
    model::{ContainerId, ContainerState},
    proc::Proc,
};

/// Killed by SIGKILL, as the kernel does for memory.
const KILLED: i32 = 137;

/// The end of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) finished_ms: i64,
    pub(super) oom_killed: bool,
}

impl Exit {
    /// From a stopped task.
    pub(super) fn of_task(task: &Process, record: &Container, cgroup_mount: &Path) -> Self {
        let code = i32::try_from(task.exit_status).unwrap_or(255);
        Self {
            code,
            finished_ms: task.exited_at.as_ref().map_or(0, milliseconds),
            oom_killed: oom_killed(code, record, cgroup_mount),
        }
    }

    /// From the record's labels.
    pub(super) fn recorded(record: &Container) -> Option<Self> {
        Some(Self {
            code: record.labels.get(labels::EXIT_CODE)?.parse().ok()?,
            finished_ms: record.labels.get(labels::FINISHED)?.parse().ok()?,
            oom_killed: record.labels.contains_key(labels::OOM_KILLED),
        })
    }

    /// As labels.
    pub(super) fn facts(self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            (labels::EXIT_CODE, self.code.to_string()),
            (labels::FINISHED, self.finished_ms.to_string()),
        ];
        if self.oom_killed {
            facts.push((labels::OOM_KILLED, "true".to_owned()));
        }
        facts
    }

    pub(super) fn state(self, started_ms: Option<i64>) -> ContainerState {
        ContainerState::Exited {
            code: self.code,
            // The start is recorded after it: a very short life may have ended before.
            started_ms: started_ms.map_or(self.finished_ms, |started| started.min(self.finished_ms)),
            finished_ms: self.finished_ms,
            oom_killed: self.oom_killed,
        }
    }
}

/// Writes down how a container ended, once, and lets its log be read to the end. Until this is done by whoever sees
/// the end first (event or observation), only the shim knows it.
pub(super) async fn settle(client: &Containerd, record: &Container, exit: Exit) {
    if let Some(log) = record.labels.get(labels::LOG)
        && let Err(error) = crate::logs::release(Path::new(log))
    {
        tracing::warn!(container = record.id, %error, "cannot tell the logger that its container has ended");
    }
    match client.label(&record.id, &exit.facts()).await {
        Ok(()) => {}
        // Removed meanwhile.
        Err(status) if status.code() == Code::NotFound => {}
        Err(status) => {
            tracing::warn!(container = record.id, error = %status.message(), "cannot record the end of a container");
        }
    }
}

/// As [`settle`] for whoever is about to forget the task: an end that is not on record yet must get there.
pub(super) async fn settle_task(
    client: &Containerd,
    id: &ContainerId,
    task: &Process,
    cgroup_mount: &Path,
) -> Result<(), RuntimeError> {
    let native = labels::native_id(id);
    let request = client.request(GetContainerRequest { id: native.clone() });
    let record = match client.containers().get(request).await {
        Ok(answer) => answer.into_inner().container.unwrap_or_default(),
        Err(status) if status.code() == Code::NotFound => return Ok(()),
        Err(status) => return Err(call("look at", id.as_str())(status)),
    };
    if Exit::recorded(&record).is_some() {
        return Ok(());
    }
    let exit = Exit::of_task(task, &record, cgroup_mount);
    settle(client, &record, exit).await;
    client.label(&native, &exit.facts()).await.map_err(call("label", id.as_str()))
}

pub(super) fn milliseconds(time: &prost_types::Timestamp) -> i64 {
    time.seconds * 1000 + i64::from(time.nanos) / 1_000_000
}

/// The container's cgroup stays until its task is removed, so this can be answered at any time before.
pub(super) fn oom_killed(code: i32, record: &Container, cgroup_mount: &Path) -> bool {
    let Some(path) = record.labels.get(labels::CGROUP) else { return false };
    if record.labels.contains_key(labels::OOM_KILLED) {
        return true;
    }
    if code != KILLED {
        return false;
    }
    let file = cgroup_mount.join(path.trim_start_matches('/')).join("memory.events");
    std::fs::read_to_string(file).is_ok_and(|events| {
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|n| n.trim() != "0"))
    })
}

/// Start time of a process that runs, for a container whose start was not recorded (the agent was killed between
/// the start and the record of it); 0 when it ended meanwhile.
pub(super) fn process_started_ms(proc: &Proc, pid: u32) -> i64 {
    proc.started_ms(pid, jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// The container's first process as the kernel knows it, for when the shim does not answer: a live process under the
/// recorded id that is in the container's own cgroup. Ids are given out again, cgroups of attempts are not.
pub(super) fn live_pid(proc: &Proc, record: &Container, told: u32) -> Option<u32> {
    let recorded = || record.labels.get(labels::PID)?.parse().ok();
    let pid = if told > 0 { told } else { recorded()? };
    let cgroup = record.labels.get(labels::CGROUP)?;
    // The process may have made cgroups below its own.
    let inside = |path: &String| path.ends_with(cgroup.as_str()) || path.contains(&format!("{cgroup}/"));
    (proc.is_alive(pid) && proc.cgroups(pid).ok()?.iter().any(inside)).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel tells of a process: its name may hold blanks and parentheses.
    fn stat(name: &str, state: char) -> String {
        format!("7 ({name}) {state}{}", " 1".repeat(50))
    }

    #[test]
    fn a_process_is_the_containers_only_in_its_cgroup_and_alive() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("7")).unwrap();
        let write = |file: &str, text: &str| std::fs::write(root.path().join("7").join(file), text).unwrap();
        let proc = Proc::at(root.path());
        let labels = [(labels::CGROUP, "/gantry/pods/podp/web/1"), (labels::PID, "7")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let record = Container { labels, ..Container::default() };
        assert_eq!(live_pid(&proc, &record, 0), None);
        write("stat", &stat("a ) b", 'S'));
        for (cgroup, alive) in [
            ("0::/gantry/pods/podp/web/1\n", true),
            ("4:memory:/other\n0::/up/gantry/pods/podp/web/1/init.scope\n", true),
            ("0::/gantry/pods/podp/web/12\n", false),
            ("0::/user.slice\n", false),
        ] {
            write("cgroup", cgroup);
            assert_eq!(live_pid(&proc, &record, 0), alive.then_some(7), "{cgroup}");
        }
        write("cgroup", "0::/gantry/pods/podp/web/1\n");
        assert_eq!(live_pid(&proc, &record, 8), None, "what containerd says goes first");
        write("stat", &stat("web", 'Z'));
        assert_eq!(live_pid(&proc, &record, 0), None, "a zombie has ended");
    }

    #[test]
    fn facts_survive_as_labels() {
        let exit = Exit { code: 137, finished_ms: 5, oom_killed: true };
        let labels = exit.facts().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let record = Container { labels, ..Container::default() };
        assert_eq!(Exit::recorded(&record), Some(exit));
        assert_eq!(Exit::recorded(&Container::default()), None);
    }

    #[test]
    fn memory_kill_is_read_from_the_cgroup_and_only_for_killed_containers() {
        let mount = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(mount.path().join("gantry/c")).unwrap();
        std::fs::write(mount.path().join("gantry/c/memory.events"), "oom 1\noom_kill 1\noom_group_kill 0\n")
            .unwrap();
        let labels = [(labels::CGROUP.to_owned(), "/gantry/c".to_owned())].into();
        let record = Container { labels, ..Container::default() };
        assert!(oom_killed(137, &record, mount.path()));
        assert!(!oom_killed(1, &record, mount.path()));
        assert!(!oom_killed(137, &Container::default(), mount.path()));
    }
}
