//! The runtime port on containerd. A container is, in this order: a container record (with everything that
//! identifies it as labels), a snapshot on top of its image, a task. The record comes first and goes last, so
//! whatever a killed agent left behind is found through it. Standard output goes to a logger process
//! (docs/adr/0010-container-logs.md), never to the agent.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use containerd_client::{
    services::v1::{
        Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest, DeleteTaskRequest,
        GetRequest, KillRequest, StartRequest, WaitRequest,
        container::Runtime as RuntimeRecord,
        snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest},
    },
    types::Mount,
    types::v1::Process as TaskState,
};
use futures::stream::BoxStream;
use prost_types::Any;
use tokio::sync::OnceCell;
use tonic::{Code, Status};

use super::{
    ContainerSpec, ExecSession, ExecSpec, Propagation, Runtime, RuntimeError, RuntimeEvent,
    errors::{call, start_failure},
    exec::Execs,
    facts, host,
    labels::{self, native_id},
    oom,
    options::{RuncOptions, SPEC_TYPE},
    piped::Piped,
    rootfs::UserDatabase,
    spec, user,
};
use crate::{
    containerd::{Containerd, absent_is_ok},
    failpoint,
    images::local::{LocalImage, LocalImages},
    logs::LoggerArgs,
    model::{ContainerId, ObservedContainer, PodUid},
    proc::{self, Proc, SELF},
};

/// After SIGKILL the kernel needs this long at most, unless it is stuck in a driver.
const KILL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// How the adapter is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Snapshotter plugin, `overlayfs`.
    pub snapshotter: String,
    /// OCI runtimes by handler name.
    pub handlers: BTreeMap<String, Handler>,
    /// Handler of pods without a RuntimeClass.
    pub default_handler: String,
    /// The program that writes container logs.
    pub logger: PathBuf,
    /// Rotation of container logs.
    pub rotation: crate::logs::Rotation,
    /// Runtime files: FIFOs of exec sessions. Below /run.
    pub state_dir: PathBuf,
    /// Where cgroup v2 is mounted.
    pub cgroup_mount: PathBuf,
}

/// An OCI runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// containerd's shim, `io.containerd.runc.v2`.
    pub runtime_type: String,
    /// Program that the runc shim calls (`crun`, a path); `None`: `runc`.
    pub binary: Option<String>,
}

/// The adapter.
#[derive(Debug)]
pub struct ContainerdRuntime {
    pub(super) client: Containerd,
    pub(super) options: Options,
    images: LocalImages,
    pub(super) users: UserDatabase,
    pub(super) execs: Execs,
    pub(super) recovered: OnceCell<()>,
    /// `/proc/sys/kernel/random/boot_id`
    pub(super) boot: String,
}

impl ContainerdRuntime {
    /// Needs no connection yet.
    pub fn new(client: Containerd, options: Options) -> Self {
        let mount_point = options.state_dir.join("image");
        Self {
            images: LocalImages::new(client.clone()),
            users: UserDatabase::new(client.clone(), options.snapshotter.clone(), mount_point),
            execs: Execs::new(client.clone(), options.state_dir.join("exec")),
            recovered: OnceCell::new(),
            boot: Proc::new().boot_id(),
            client,
            options,
        }
    }

    async fn image(&self, spec: &ContainerSpec) -> Result<LocalImage, RuntimeError> {
        let failed = call("find image", &spec.image);
        let found = self.images.find(&spec.image).await.map_err(&failed)?;
        found.ok_or_else(|| failed(Status::not_found(format!("image {:?} is not present", spec.image))))
    }

    /// The OCI specification, after the checks that need the image.
    async fn specification(&self, spec: &ContainerSpec, image: &LocalImage) -> Result<Any, RuntimeError> {
        let config = &image.content.config;
        let image_user = config.user().as_deref().unwrap_or_default();
        check_non_root(spec, image_user)?;
        let files = self.users.of(&image.content.chain_id, &spec.id).await?;
        let identity = user::resolve(image_user, spec.user, spec.group, &files)
            .map_err(|error| RuntimeError::Config { message: error.to_string() })?;
        let group = spec.id.parts().map_or_else(|| native_id(&spec.id), |(pod, ..)| pod.to_string());
        let root_propagation = host::root_propagation(&spec.mounts, &self.mounts(spec))?;
        let oci = spec::build(spec, config, &identity, &group, root_propagation, self.given(spec))?;
        let value = serde_json::to_vec(&oci)
            .map_err(|error| RuntimeError::Config { message: format!("OCI specification: {error}") })?;
        Ok(Any { type_url: SPEC_TYPE.to_owned(), value })
    }

    /// Mounts as containerd sees them; not read when nothing asks for them.
    fn mounts(&self, spec: &ContainerSpec) -> Vec<proc::Mount> {
        if spec.mounts.iter().all(|mount| mount.propagation == Propagation::None) {
            return Vec::new();
        }
        // Unreadable: nothing is known to be shared, which the refusal says.
        Proc::new().mounts(self.daemon()).unwrap_or_default()
    }

    /// The capabilities that containerd can hand on; not read when nothing asks for all of them. A machine that is itself
    /// contained lacks some, and a runtime that is asked for those fails to start the container.
    fn given(&self, spec: &ContainerSpec) -> u64 {
        let all = |name: &String| name.eq_ignore_ascii_case("ALL");
        if !spec.privileged && !spec.add_capabilities.iter().any(all) {
            return u64::MAX;
        }
        // Unreadable: all that there are, and the runtime has the word.
        Proc::new().capabilities(self.daemon()).and_then(|set| set.bounding).unwrap_or(u64::MAX)
    }

    /// Which process containerd is; the agent itself where it is out of sight.
    fn daemon(&self) -> String {
        oom::daemon(self.client.socket()).map_or_else(|| SELF.to_owned(), |pid| pid.to_string())
    }

    fn runtime(&self, spec: &ContainerSpec) -> Result<RuntimeRecord, RuntimeError> {
        let name = spec.handler.as_ref().unwrap_or(&self.options.default_handler);
        let handler = self.options.handlers.get(name).ok_or_else(|| RuntimeError::Config {
            message: format!(
                "no runtime for {name:?} is configured: add it to [containerd.handlers] of the agent's configuration"
            ),
        })?;
        let options = handler.binary.as_ref().map(|binary| RuncOptions::with_binary(binary).to_any());
        Ok(RuntimeRecord { name: handler.runtime_type.clone(), options })
    }

    async fn create_record(&self, spec: &ContainerSpec, image: &LocalImage) -> Result<(), RuntimeError> {
        let id = native_id(&spec.id);
        let record = Container {
            id: id.clone(),
            labels: labels::of(spec, &image.id, &self.boot),
            image: image.name.clone(),
            runtime: Some(self.runtime(spec)?),
            spec: Some(self.specification(spec, image).await?),
            snapshotter: self.options.snapshotter.clone(),
            snapshot_key: id,
            ..Container::default()
        };
        let request = CreateContainerRequest { container: Some(record) };
        let create = || self.client.request(request.clone());
        match self.client.containers().create(create()).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                self.remove(&spec.id).await?;
                self.client.containers().create(create()).await
            }
            other => other,
        }
        .map(drop)
        .map_err(call("create", spec.id.as_str()))
    }

    async fn prepare_snapshot(
        &self,
        spec: &ContainerSpec,
        image: &LocalImage,
    ) -> Result<Vec<Mount>, RuntimeError> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.options.snapshotter.clone(),
            key: native_id(&spec.id),
            parent: image.content.chain_id.clone(),
            labels: HashMap::new(),
        };
        let prepare = || self.client.request(request.clone());
        let answer = match self.client.snapshots().prepare(prepare()).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                self.remove_snapshot(&spec.id).await?;
                self.client.snapshots().prepare(prepare()).await
            }
            other => other,
        };
        Ok(answer.map_err(call("prepare the snapshot of", spec.id.as_str()))?.into_inner().mounts)
    }

    async fn create_task(&self, spec: &ContainerSpec, rootfs: Vec<Mount>) -> Result<(), RuntimeError> {
        prepare_log_directory(&spec.log_path)?;
        let stdin = if spec.stdin { Some(self.execs.container_stdin(&spec.id)?) } else { None };
        let logger = &self.options.logger;
        let args = LoggerArgs::of(&spec.log_path, &self.options.rotation, spec.tty);
        let piped = match &stdin {
            Some(stdin) if !spec.tty => Some(Piped::open(Path::new(stdin), logger, args.clone()).await?),
            _ => None,
        };
        let [stdout, stderr] = match &piped {
            Some(piped) => piped.paths(),
            None => [args.uri(logger), args.uri(logger)],
        };
        let request = CreateTaskRequest {
            container_id: native_id(&spec.id),
            rootfs,
            stdin: stdin.unwrap_or_default(),
            stdout,
            // With a terminal there is one output only.
            stderr: if spec.tty { String::new() } else { stderr },
            terminal: spec.tty,
            ..CreateTaskRequest::default()
        };
        let answer = self.client.tasks().create(self.client.request(request)).await;
        answer.map_err(|status| start_failure("create the task of", spec.id.as_str(), status))?;
        if let Some(piped) = piped {
            piped.let_go();
        }
        Ok(())
    }

    /// A failed start is a fact like an exit: it stays on record until removed. The snapshot is not needed.
    async fn record_start_failure(&self, id: &ContainerId, error: RuntimeError) -> RuntimeError {
        if let RuntimeError::Start { message } = &error {
            let now = jiff::Timestamp::now().as_millisecond().to_string();
            let facts = [(labels::START_ERROR, labels::fitting(message)), (labels::FINISHED, now)];
            let cleaned = self.remove_task(id).await.and(self.remove_snapshot(id).await);
            let recorded =
                self.client.label(&native_id(id), &facts).await.map_err(call("label", id.as_str()));
            return cleaned.and(recorded).err().unwrap_or(error);
        }
        // containerd's own failure: the next create starts from nothing. What cannot be removed now is found as a
        // left-over then.
        let _ = self.remove(id).await;
        error
    }

    pub(super) async fn task(&self, id: &ContainerId) -> Result<Option<TaskState>, RuntimeError> {
        let request = GetRequest { container_id: native_id(id), exec_id: String::new() };
        match self.client.tasks().get(self.client.request(request)).await {
            Ok(answer) => Ok(answer.into_inner().process),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(call("look at", id.as_str())(status)),
        }
    }

    async fn remove_task(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let failed = call("remove the task of", id.as_str());
        let delete = || {
            let request = self.client.request(DeleteTaskRequest { container_id: native_id(id) });
            async { absent_is_ok(self.client.tasks().delete(request).await) }
        };
        // A refusal most likely means that it runs (each version of containerd says so differently): then it is ended
        // first. What else is wrong, the second attempt tells.
        if delete().await.is_ok() {
            return Ok(());
        }
        self.kill(id, libc::SIGKILL, true).await?;
        let wait = WaitRequest { container_id: native_id(id), exec_id: String::new() };
        let ended =
            tokio::time::timeout(KILL_TIMEOUT, self.client.tasks().wait(self.client.open_ended(wait))).await;
        match ended {
            Ok(result) => absent_is_ok(result).map_err(&failed)?,
            Err(_) => {
                return Err(failed(Status::deadline_exceeded("the process does not end after SIGKILL")));
            }
        }
        delete().await.map_err(failed)
    }

    async fn remove_snapshot(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let request =
            RemoveSnapshotRequest { snapshotter: self.options.snapshotter.clone(), key: native_id(id) };
        let removed = self.client.snapshots().remove(self.client.request(request)).await;
        absent_is_ok(removed).map_err(call("remove the snapshot of", id.as_str()))
    }

    async fn create_new(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let image = self.image(spec).await?;
        host::set_sysctls(spec).await?;
        self.create_record(spec, &image).await?;
        failpoint::reach("runtime.create.recorded", spec.id.as_str());
        let result = async {
            let rootfs = self.prepare_snapshot(spec, &image).await?;
            failpoint::reach("runtime.create.snapshot", spec.id.as_str());
            self.create_task(spec, rootfs).await
        };
        match result.await {
            Ok(()) => {
                failpoint::reach("runtime.create.task", spec.id.as_str());
                Ok(())
            }
            Err(error) => Err(self.record_start_failure(&spec.id, error).await),
        }
    }
}

/// The kubelet's rule and words.
fn check_non_root(spec: &ContainerSpec, image_user: &str) -> Result<(), RuntimeError> {
    if !spec.run_as_non_root {
        return Ok(());
    }
    let (uid, container) = spec
        .id
        .parts()
        .map_or_else(Default::default, |(pod, container, _)| (pod.to_string(), container.to_string()));
    let whose = format!("(pod: \"{}_{}({uid})\", container: {container})", spec.pod_name, spec.pod_namespace);
    let message = match (spec.user, user::numeric_uid(image_user)) {
        (Some(0), _) => format!("container's runAsUser breaks non-root policy {whose}"),
        (Some(_), _) => return Ok(()),
        (None, Some(0)) => format!("container has runAsNonRoot and image will run as root {whose}"),
        (None, Some(_)) => return Ok(()),
        (None, None) => format!(
            "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is \
             non-root {whose}"
        ),
    };
    Err(RuntimeError::Config { message })
}

fn prepare_log_directory(log: &Path) -> Result<(), RuntimeError> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(directory) = log.parent() else { return Ok(()) };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory)
        .map_err(|source| RuntimeError::Io { operation: "create", path: directory.to_owned(), source })
}

#[async_trait]
impl Runtime for ContainerdRuntime {
    async fn version(&self) -> Result<String, RuntimeError> {
        let answer = self.client.version().version(self.client.request(())).await;
        let version = answer.map_err(call("ask the version", "containerd"))?.into_inner().version;
        // Debian's packages say `1.6.20~ds1`.
        let version = version.split('~').next().unwrap_or_default();
        Ok(format!("containerd://{}", version.trim_start_matches('v')))
    }

    async fn list(&self) -> Result<Vec<ObservedContainer>, RuntimeError> {
        self.observe().await
    }

    async fn list_pod(&self, pod: &PodUid) -> Result<Vec<ObservedContainer>, RuntimeError> {
        self.observe_pod(pod).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        use containerd_client::types::v1::Status as Task;
        match self.task(&spec.id).await?.map(|task| task.status()) {
            // It got further before: a repeated call changes nothing.
            Some(Task::Running | Task::Stopped | Task::Paused | Task::Pausing) => Ok(()),
            Some(Task::Created | Task::Unknown) | None => self.create_new(spec).await,
        }
    }

    async fn start(&self, id: &ContainerId) -> Result<u32, RuntimeError> {
        let request = StartRequest { container_id: native_id(id), exec_id: String::new() };
        let started = match self.client.tasks().start(self.client.request(request)).await {
            Ok(answer) => answer.into_inner().pid,
            Err(status) if status.code() == Code::NotFound => return Err(RuntimeError::NotFound(id.clone())),
            Err(status) => match self.task(id).await? {
                // Started by a call whose answer was lost.
                Some(task) if task.status() == containerd_client::types::v1::Status::Running => task.pid,
                _ => {
                    let error = start_failure("start", id.as_str(), status);
                    return Err(self.record_start_failure(id, error).await);
                }
            },
        };
        failpoint::reach("runtime.start.started", id.as_str());
        let now = jiff::Timestamp::now().as_millisecond().to_string();
        self.client
            .label(&native_id(id), &[(labels::STARTED, now), (labels::PID, started.to_string())])
            .await
            .map_err(call("label", id.as_str()))?;
        Ok(started)
    }

    async fn kill(&self, id: &ContainerId, signal: i32, all: bool) -> Result<(), RuntimeError> {
        let request = KillRequest {
            container_id: native_id(id),
            exec_id: String::new(),
            signal: u32::try_from(signal).unwrap_or_default(),
            all,
        };
        match self.client.tasks().kill(self.client.request(request)).await {
            Ok(_) => {
                failpoint::reach("runtime.kill.signalled", id.as_str());
                Ok(())
            }
            // "process already finished" is NotFound; a task that was only created is a failed precondition.
            Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => Ok(()),
            Err(status) => Err(call("kill", id.as_str())(status)),
        }
    }

    async fn release(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        use containerd_client::types::v1::Status as Task;
        let Some(task) = self.task(id).await?.filter(|task| task.status() == Task::Stopped) else {
            return Ok(());
        };
        // From now on the record alone knows how it ended.
        facts::settle_task(&self.client, id, &task, &self.options.cgroup_mount).await?;
        failpoint::reach("runtime.release.settled", id.as_str());
        self.remove_task(id).await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.remove_task(id).await?;
        failpoint::reach("runtime.remove.task", id.as_str());
        self.remove_snapshot(id).await?;
        failpoint::reach("runtime.remove.snapshot", id.as_str());
        let request = self.client.request(DeleteContainerRequest { id: native_id(id) });
        absent_is_ok(self.client.containers().delete(request).await).map_err(call("remove", id.as_str()))?;
        failpoint::reach("runtime.remove.recorded", id.as_str());
        self.execs.forget_container(id);
        Ok(())
    }

    async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecSession, RuntimeError> {
        self.execs.start(id, spec).await
    }

    async fn exec_wait(&self, id: &ContainerId, exec: &str) -> Result<i32, RuntimeError> {
        self.execs.wait(id, exec).await
    }

    async fn exec_resize(
        &self,
        id: &ContainerId,
        exec: &str,
        width: u16,
        height: u16,
    ) -> Result<(), RuntimeError> {
        self.execs.resize(id, exec, width, height).await
    }

    async fn exec_kill(&self, id: &ContainerId, exec: &str) -> Result<(), RuntimeError> {
        self.execs.kill(id, exec).await
    }

    async fn attach_stdin(&self, id: &ContainerId, once: bool) -> Result<Option<OwnedFd>, RuntimeError> {
        self.execs.attach_stdin(id, once)
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        super::events::stream(self.client.clone(), self.options.cgroup_mount.clone())
    }
}
