//! Processes inside running containers. Their pipes are FIFOs below /run between us and the shim, unlinked as
//! soon as both sides have them open, so that nothing stays behind; closing the returned stdin reaches the process
//! as end of file.

use std::{
    collections::HashMap,
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, GetContainerRequest, KillRequest,
    ResizePtyRequest, StartRequest, WaitRequest,
};
use nix::{
    sys::{
        signal::{Signal, killpg},
        stat::Mode,
    },
    unistd::Pid,
};
use oci_spec::runtime::{Process, Spec};
use prost_types::Any;
use tokio::net::unix::pipe;
use tonic::Code;

use super::{
    ExecSession, ExecSpec, RuntimeError,
    errors::{call, start_failure},
    labels::native_id,
    options::PROCESS_TYPE,
};
use crate::{
    containerd::{Containerd, absent_is_ok},
    model::ContainerId,
};

/// A killed process is waited for so long before it is forgotten.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// Starts and follows processes in containers.
#[derive(Debug)]
pub(super) struct Execs {
    client: Containerd,
    directory: PathBuf,
    /// Leaders of the process groups that end with their execs.
    groups: Mutex<HashMap<String, i32>>,
}

/// The FIFOs of one exec, in a directory of their own that is removed with this value.
struct Pipes {
    directory: PathBuf,
}

impl Drop for Pipes {
    fn drop(&mut self) {
        // Already gone is fine; a left-over is removed at the next start of the agent.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Execs {
    pub(super) fn new(client: Containerd, directory: PathBuf) -> Self {
        Self { client, directory, groups: Mutex::default() }
    }

    /// FIFOs of an agent that was killed between making and unlinking them. The shim has its own descriptors.
    pub(super) fn remove_left_overs(&self) {
        let _ = fs::remove_dir_all(&self.directory);
    }

    /// FIFO for the standard input of a container with `stdin: true`; the shim keeps a writer open.
    pub(super) fn container_stdin(&self, id: &ContainerId) -> Result<String, RuntimeError> {
        let path = self.stdin_path(id);
        if let Some(parent) = path.parent() {
            private_directory(parent)?;
        }
        match nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(nix::Error::EEXIST) => Ok(path.to_string_lossy().into_owned()),
            Err(error) => Err(io_error("make the pipe", &path)(error.into())),
        }
    }

    /// The write end of that FIFO; `None` when the container has no standard input. With `once` its end of file reaches
    /// the process.
    pub(super) fn attach_stdin(&self, id: &ContainerId, once: bool) -> Result<Option<OwnedFd>, RuntimeError> {
        let path = self.stdin_path(id);
        let mut options = fs::OpenOptions::new();
        match options.write(true).custom_flags(libc::O_NONBLOCK).open(&path) {
            Ok(file) if once => self.pump_stdin(id, "", file.into()).map(Some),
            Ok(file) => Ok(Some(file.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("open the pipe", &path)(error)),
        }
    }

    fn stdin_path(&self, id: &ContainerId) -> PathBuf {
        self.directory.with_file_name("stdin").join(native_id(id))
    }

    pub(super) fn forget_container(&self, id: &ContainerId) {
        let _ = fs::remove_file(self.stdin_path(id));
    }

    pub(super) async fn start(&self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecSession, RuntimeError> {
        let process = self.process(id, spec).await?;
        let exec = format!("e{}", uuid::Uuid::new_v4().simple());
        let pipes = Pipes { directory: self.directory.join(&exec) };
        private_directory(&pipes.directory)?;
        let stdout = pipes.reader("stdout")?;
        let stderr = if spec.tty { None } else { Some(pipes.reader("stderr")?) };
        let stdin = if spec.stdin { Some(pipes.open("stdin", true)?) } else { None };
        let request = ExecProcessRequest {
            container_id: native_id(id),
            exec_id: exec.clone(),
            terminal: spec.tty,
            stdin: pipes.name_if(spec.stdin, "stdin"),
            stdout: pipes.name_if(true, "stdout"),
            stderr: pipes.name_if(!spec.tty, "stderr"),
            spec: Some(process),
        };
        match self.client.tasks().exec(self.client.request(request)).await {
            Err(status) if status.code() == Code::NotFound => return Err(RuntimeError::NotFound(id.clone())),
            other => other.map_err(|status| start_failure("exec in", id.as_str(), status))?,
        };
        let request = StartRequest { container_id: native_id(id), exec_id: exec.clone() };
        let pid = match self.client.tasks().start(self.client.request(request)).await {
            Ok(started) => started.into_inner().pid,
            Err(status) => {
                forget(&self.client, id, &exec).await?;
                return Err(start_failure("exec in", id.as_str(), status));
            }
        };
        if let Ok(pid @ 1..) = i32::try_from(pid)
            && spec.group
        {
            self.groups().insert(exec.clone(), pid);
        }
        let stdin = match stdin {
            Some(held_open) => {
                let fifo = pipes.writer("stdin")?;
                drop(held_open);
                Some(self.pump_stdin(id, &exec, fifo)?)
            }
            None => None,
        };
        Ok(ExecSession { stdin, stdout, stderr, id: exec })
    }

    pub(super) async fn wait(&self, id: &ContainerId, exec: &str) -> Result<i32, RuntimeError> {
        let request = WaitRequest { container_id: native_id(id), exec_id: exec.to_owned() };
        let answer = self.client.tasks().wait(self.client.open_ended(request)).await;
        let code = answer.map_err(call("wait for a process in", id.as_str()))?.into_inner().exit_status;
        self.end_group(exec);
        // The shim forgets a process only once nobody holds its output any more, for which it waits ten seconds.
        let (client, id, exec) = (self.client.clone(), id.clone(), exec.to_owned());
        tokio::spawn(async move {
            if let Err(error) = forget(&client, &id, &exec).await {
                tracing::debug!(error = %crate::model::chain(&error), "a process that has ended stays on record");
            }
        });
        Ok(i32::try_from(code).unwrap_or(255))
    }

    /// Kills what a process that has ended left in its group. Both runtimes make a process that they run in a container
    /// the leader of a group, and a number is not given again while a group bears it: should there be a process
    /// of this number, it is another one, and the group was empty.
    fn end_group(&self, exec: &str) {
        let Some(leader) = self.groups().remove(exec) else { return };
        if !Path::new("/proc").join(leader.to_string()).exists() {
            // Mostly there is none.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<String, i32>> {
        // Numbers: valid whatever a panicking holder left.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn resize(
        &self,
        id: &ContainerId,
        exec: &str,
        width: u16,
        height: u16,
    ) -> Result<(), RuntimeError> {
        let request = ResizePtyRequest {
            container_id: native_id(id),
            exec_id: exec.to_owned(),
            width: width.into(),
            height: height.into(),
        };
        let answer = self.client.tasks().resize_pty(self.client.request(request)).await;
        absent_is_ok(answer).map_err(call("resize the terminal of", id.as_str()))
    }

    pub(super) async fn kill(&self, id: &ContainerId, exec: &str) -> Result<(), RuntimeError> {
        let request = KillRequest {
            container_id: native_id(id),
            exec_id: exec.to_owned(),
            signal: libc::SIGKILL.unsigned_abs(),
            all: false,
        };
        absent_is_ok(self.client.tasks().kill(self.client.request(request)).await)
            .map_err(call("kill a process in", id.as_str()))?;
        let wait = WaitRequest { container_id: native_id(id), exec_id: exec.to_owned() };
        // Not gone in time (stuck in the kernel): it is forgotten with its container.
        let _ = tokio::time::timeout(KILL_WAIT, self.client.tasks().wait(self.client.open_ended(wait))).await;
        self.end_group(exec);
        forget(&self.client, id, exec).await
    }

    /// The container's own process specification with another command line.
    async fn process(&self, id: &ContainerId, spec: &ExecSpec) -> Result<Any, RuntimeError> {
        let request = GetContainerRequest { id: native_id(id) };
        let record = match self.client.containers().get(self.client.request(request)).await {
            Ok(answer) => answer.into_inner().container.unwrap_or_default(),
            Err(status) if status.code() == Code::NotFound => return Err(RuntimeError::NotFound(id.clone())),
            Err(status) => return Err(call("look at", id.as_str())(status)),
        };
        let damaged =
            |why: String| RuntimeError::Config { message: format!("OCI specification of {id}: {why}") };
        let oci: Spec = serde_json::from_slice(&record.spec.unwrap_or_default().value)
            .map_err(|error| damaged(error.to_string()))?;
        let mut process: Process =
            oci.process().clone().ok_or_else(|| damaged("it has no process".into()))?;
        process.set_args(Some(spec.command.clone())).set_terminal(Some(spec.tty));
        if let Some(env) = process.env_mut().as_mut().filter(|_| spec.tty)
            && !env.iter().any(|e| e.starts_with("TERM="))
        {
            env.push("TERM=xterm".to_owned());
        }
        let value = serde_json::to_vec(&process).map_err(|error| damaged(error.to_string()))?;
        Ok(Any { type_url: PROCESS_TYPE.to_owned(), value })
    }

    /// The shim keeps its own writer of the stdin FIFO, so closing ours would not end it: end of file on the
    /// returned pipe becomes a CloseIO call. An empty `exec` is the container's own process.
    fn pump_stdin(&self, id: &ContainerId, exec: &str, fifo: OwnedFd) -> Result<OwnedFd, RuntimeError> {
        let failed = io_error("connect stdin", &self.directory);
        let (writer, reader) = pipe::pipe().map_err(&failed)?;
        let mut fifo = pipe::Sender::from_owned_fd(fifo).map_err(&failed)?;
        let writer = writer.into_blocking_fd().map_err(&failed)?;
        let client = self.client.clone();
        let request = CloseIoRequest { container_id: native_id(id), exec_id: exec.to_owned(), stdin: true };
        tokio::spawn(async move {
            let mut reader = reader;
            // A process that does not read its input any more ends the copy like end of file does.
            let _ = tokio::io::copy(&mut reader, &mut fifo).await;
            drop(fifo);
            if let Err(error) = absent_is_ok(client.tasks().close_io(client.request(request)).await) {
                tracing::debug!(error = %error.message(), "cannot close the standard input of an exec");
            }
        });
        Ok(writer)
    }
}

async fn forget(client: &Containerd, id: &ContainerId, exec: &str) -> Result<(), RuntimeError> {
    let request = DeleteProcessRequest { container_id: native_id(id), exec_id: exec.to_owned() };
    absent_is_ok(client.tasks().delete_process(client.request(request)).await)
        .map_err(call("forget a process in", id.as_str()))
}

impl Pipes {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn name_if(&self, wanted: bool, name: &str) -> String {
        if wanted { self.path(name).to_string_lossy().into_owned() } else { String::new() }
    }

    /// Makes the FIFO; reading from it does not block.
    fn reader(&self, name: &str) -> Result<OwnedFd, RuntimeError> {
        self.open(name, false)
    }

    fn open(&self, name: &str, hold_both_ends: bool) -> Result<OwnedFd, RuntimeError> {
        let path = self.path(name);
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|error| io_error("make the pipe", &path)(error.into()))?;
        let mut options = fs::OpenOptions::new();
        options.read(true).write(hold_both_ends).custom_flags(libc::O_NONBLOCK);
        Ok(options.open(&path).map_err(io_error("open the pipe", &path))?.into())
    }

    fn writer(&self, name: &str) -> Result<OwnedFd, RuntimeError> {
        let path = self.path(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK);
        Ok(options.open(&path).map_err(io_error("open the pipe", &path))?.into())
    }
}

fn private_directory(path: &Path) -> Result<(), RuntimeError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
}

fn io_error(operation: &'static str, path: &Path) -> impl Fn(std::io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |source| RuntimeError::Io { operation, path: path.clone(), source }
}
