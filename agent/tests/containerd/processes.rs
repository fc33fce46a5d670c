//! exec, events, logs and restarts against a real containerd.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
};

use futures::StreamExt;
use gantry_agent::handlers::exec::{self, Children};
use gantry_agent::model::ContainerState;
use gantry_agent::runtime::{ContainerSpec, ExecSpec, Runtime, RuntimeError, RuntimeEvent};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::{
    IMAGE, exited,
    host::{Host, eventually},
    image::TestImage,
    log, log_path, spec,
};

const IDLE: &str = "trap exit TERM; while :; do sleep 0.1; done";

/// Everything until the end of the pipe.
async fn drain(fd: OwnedFd) -> String {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let read = move || {
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        text
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

fn command(words: &[&str]) -> ExecSpec {
    ExecSpec { command: words.iter().map(|&w| w.to_owned()).collect(), ..ExecSpec::default() }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn exec_has_pipes_a_terminal_codes_and_leaves_nothing() {
    let host = Host::start().await;
    TestImage::default().import(&host, IMAGE);
    let runtime = host.runtime();
    let spec = ContainerSpec { env: vec![("GIVEN".into(), "pod".into())], ..spec(&host, 0, IDLE) };
    runtime.create(&spec).await.unwrap();
    runtime.start(&spec.id).await.unwrap();

    let shell = command(&["sh", "-c", "echo out $GIVEN; echo err >&2; exit 3"]);
    let session = runtime.exec(&spec.id, &shell).await.unwrap();
    let (out, err) = tokio::join!(drain(session.stdout), drain(session.stderr.unwrap()));
    assert_eq!((out.as_str(), err.as_str()), ("out pod\n", "err\n"));
    assert_eq!(runtime.exec_wait(&spec.id, &session.id).await.unwrap(), 3);

    // Closing stdin ends a program that reads it.
    let cat = ExecSpec { stdin: true, ..command(&["cat"]) };
    let session = runtime.exec(&spec.id, &cat).await.unwrap();
    let mut stdin = File::from(session.stdin.unwrap());
    stdin.write_all(b"through").unwrap();
    drop(stdin);
    assert_eq!(drain(session.stdout).await, "through");
    assert_eq!(runtime.exec_wait(&spec.id, &session.id).await.unwrap(), 0);

    let terminal = ExecSpec { tty: true, ..command(&["sh", "-c", "sleep 0.3; stty size; echo $TERM"]) };
    let session = runtime.exec(&spec.id, &terminal).await.unwrap();
    runtime.exec_resize(&spec.id, &session.id, 100, 40).await.unwrap();
    assert_eq!(drain(session.stdout).await, "40 100\r\nxterm\r\n");
    assert_eq!(runtime.exec_wait(&spec.id, &session.id).await.unwrap(), 0);

    let missing = runtime.exec(&spec.id, &command(&["nothing-here"])).await.unwrap_err();
    assert!(
        matches!(&missing, RuntimeError::Start { message } if message.contains("nothing-here")),
        "{missing:?}"
    );

    let session = runtime.exec(&spec.id, &command(&["sleep", "1000"])).await.unwrap();
    runtime.exec_kill(&spec.id, &session.id).await.unwrap();
    runtime.exec_kill(&spec.id, &session.id).await.unwrap();
    assert_eq!(std::fs::read_dir(host.path().join("run/exec")).unwrap().count(), 0, "no pipe stays behind");
    runtime.remove(&spec.id).await.unwrap();
    let gone = runtime.exec(&spec.id, &command(&["true"])).await.unwrap_err();
    assert!(matches!(gone, RuntimeError::NotFound(_)), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn what_a_probe_leaves_behind_ends_with_it_and_what_a_hook_starts_stays() {
    let host = Host::start().await;
    TestImage::default().import(&host, IMAGE);
    let runtime = host.runtime();
    let spec = spec(&host, 0, "while :; do sleep 0.1; done");
    runtime.create(&spec).await.unwrap();
    runtime.start(&spec.id).await.unwrap();
    let cgroup = host.cgroup_mount.join(&spec.cgroup[1..]).join("0/cgroup.procs");
    let alive = |seconds: &str| {
        let pids = std::fs::read_to_string(&cgroup).unwrap();
        let line = |pid: &str| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pids.lines()
            .filter(|pid| String::from_utf8_lossy(&line(pid)).contains(&format!("sleep\0{seconds}")))
            .count()
    };
    let run = async |seconds: &str, code: i32, children: Children| {
        // The child holds both outputs open.
        let script = format!("echo said; sleep {seconds} & exit {code}");
        let command = ["sh", "-c", script.as_str()].map(str::to_owned);
        let began = std::time::Instant::now();
        let limit = Some(std::time::Duration::from_secs(20));
        let outcome = exec::run(&runtime, &spec.id, &command, limit, children).await.unwrap();
        assert_eq!((outcome.code, outcome.output.as_str()), (code, "said\n"));
        assert!(began.elapsed() < std::time::Duration::from_secs(8), "{:?}", began.elapsed());
    };
    for _ in 0..3 {
        run("4711", 0, Children::End).await;
        run("4711", 1, Children::End).await;
    }
    assert_eq!(alive("4711"), 0);
    run("4712", 0, Children::Stay).await;
    assert_eq!(alive("4712"), 1);
    // One that takes too long is ended with its children too.
    let command = ["sh", "-c", "sleep 4713 & sleep 4713"].map(str::to_owned);
    let limit = Some(std::time::Duration::from_secs(1));
    let outcome = exec::run(&runtime, &spec.id, &command, limit, Children::End).await;
    assert!(matches!(outcome, Err(exec::NoOutcome::TimedOut(_))), "{outcome:?}");
    eventually("no child is left", async || (alive("4713") == 0).then_some(())).await;
    runtime.remove(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn containers_and_their_logs_outlive_agent_and_containerd() {
    let mut host = Host::start().await;
    TestImage::default().import(&host, IMAGE);
    let runtime = host.runtime();
    let script = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 5";
    let spec = spec(&host, 0, script);
    let mut events = runtime.events();
    assert_eq!(events.next().await, Some(RuntimeEvent::Resync));
    runtime.create(&spec).await.unwrap();
    let pid = runtime.start(&spec.id).await.unwrap();
    drop(runtime);

    host.restart_containerd().await;
    let runtime = host.runtime();
    let observed = runtime.list().await.unwrap().remove(0).state;
    assert!(matches!(observed, ContainerState::Running { pid: p, .. } if p == pid), "{observed:?}");
    assert_eq!(events.next().await, Some(RuntimeEvent::Resync), "the stream came back by itself");
    assert_eq!(events.next().await, Some(RuntimeEvent::Exited(spec.id.clone())));
    assert_eq!(exited(&runtime, &spec.id).await, (5, false));
    let expected: String = (0..300).map(|i| format!("{i}\n")).collect();
    eventually("the log is complete", async || (log(&host, 0) == expected).then_some(())).await;

    // The shim dies with what it knows: how the container ended is on record all the same.
    for shim in host.processes() {
        let name = std::fs::read_to_string(format!("/proc/{shim}/comm")).unwrap_or_default();
        if name.starts_with("containerd-shim") {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
        }
    }
    host.restart_containerd().await;
    assert_eq!(exited(&host.runtime(), &spec.id).await, (5, false));
    host.runtime().remove(&spec.id).await.unwrap();
    assert!(host.runtime().list().await.unwrap().is_empty());
    assert!(log_path(&host, 0).exists(), "logs belong to the pod, not to the container");
}

/// Ends the pause of a process however the test ends.
struct Paused(nix::unistd::Pid);

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGCONT);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn a_shim_that_hangs_ends_nothing_and_a_released_task_leaves_its_end() {
    let host = Host::start().await;
    TestImage::default().import(&host, IMAGE);
    let runtime = host.runtime();
    let spec = spec(&host, 0, "trap 'exit 7' TERM; while :; do sleep 0.1; done");
    runtime.create(&spec).await.unwrap();
    let pid = runtime.start(&spec.id).await.unwrap();
    let shim = host.processes().into_iter().find(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("containerd-shim")
    });
    let paused = Paused(nix::unistd::Pid::from_raw(shim.unwrap()));
    nix::sys::signal::kill(paused.0, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let pod = spec.id.parts().unwrap().0;
    let observed = runtime.list_pod(&pod).await.unwrap().remove(0).state;
    assert!(matches!(observed, ContainerState::Running { pid: p, .. } if p == pid), "{observed:?}");
    let listed = runtime.list().await.unwrap().remove(0).state;
    assert!(matches!(listed, ContainerState::Running { pid: p, .. } if p == pid), "{listed:?}");
    drop(paused);

    // Not while it runs.
    runtime.release(&spec.id).await.unwrap();
    assert!(runtime.list().await.unwrap()[0].task);
    runtime.kill(&spec.id, libc::SIGTERM, false).await.unwrap();
    assert_eq!(exited(&runtime, &spec.id).await, (7, false));
    runtime.release(&spec.id).await.unwrap();
    runtime.release(&spec.id).await.unwrap();
    eventually("shim and logger end", async || (host.processes().len() == 1).then_some(())).await;
    assert_eq!(exited(&host.runtime(), &spec.id).await, (7, false));
    let released = runtime.list().await.unwrap().remove(0);
    assert!(!released.task && !released.earlier_boot);
    assert!(log_path(&host, 0).exists());
    runtime.remove(&spec.id).await.unwrap();
}

/// A container that reads its input to the end, and says so on both outputs.
const READER: &str = "echo ready; while read -r line; do echo got $line; done; echo end >&2; exit 5";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn a_container_reads_what_its_clients_write() {
    let host = Host::start().await;
    TestImage::default().import(&host, IMAGE);
    let runtime = host.runtime();
    let logged = async |attempt, text: &str| {
        eventually("the log has it", async || (log(&host, attempt) == text).then_some(())).await;
    };
    let write =
        |stdin: Option<OwnedFd>, text: &str| File::from(stdin.unwrap()).write_all(text.as_bytes()).unwrap();

    let once = ContainerSpec { stdin: true, stdin_once: true, ..spec(&host, 0, READER) };
    runtime.create(&once).await.unwrap();
    runtime.start(&once.id).await.unwrap();
    logged(0, "ready\n").await;
    // The agent that made it is not needed any more.
    let other = host.runtime();
    write(other.attach_stdin(&once.id, true).await.unwrap(), "one\ntwo\n");
    assert_eq!(exited(&other, &once.id).await, (5, false));
    logged(0, "ready\ngot one\ngot two\nend\n").await;

    let often = ContainerSpec { stdin: true, ..spec(&host, 1, READER) };
    runtime.create(&often).await.unwrap();
    runtime.start(&often.id).await.unwrap();
    for (line, sofar) in [("a\n", "ready\ngot a\n"), ("b\n", "ready\ngot a\ngot b\n")] {
        write(runtime.attach_stdin(&often.id, false).await.unwrap(), line);
        logged(1, sofar).await;
    }

    // What fails to start leaves no logger behind.
    let broken = ContainerSpec { stdin: true, command: vec!["nothing-here".into()], ..spec(&host, 2, "") };
    let started = async {
        runtime.create(&broken).await?;
        runtime.start(&broken.id).await
    };
    assert!(matches!(started.await, Err(RuntimeError::Start { .. })));
    for id in [&once.id, &often.id, &broken.id] {
        runtime.remove(id).await.unwrap();
    }
    eventually("shims and loggers end", async || (host.processes().len() == 1).then_some(())).await;
    assert_eq!(std::fs::read_dir(host.path().join("run/stdin")).unwrap().count(), 0, "no pipe stays behind");
}
