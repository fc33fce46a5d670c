//! The runtime adapter against a real containerd, shim and OCI runtime. Needs root, containerd, crun and runc.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

mod host;
mod image;
mod limits_of_the_host;
mod processes;
mod pulls;
mod registry;

use std::{collections::BTreeMap, fs, path::PathBuf};

use gantry_agent::{
    model::{ContainerId, ContainerName, ContainerState, Limits, PodUid},
    runtime::{ContainerSpec, Runtime, RuntimeError, START_ERROR, Seccomp},
};
use host::{Host, eventually};
use image::TestImage;

const IMAGE: &str = "docker.io/library/test:latest";

fn spec(host: &Host, attempt: u32, script: &str) -> ContainerSpec {
    let pod = PodUid::from("6f1c0c5e-5a57-4b4e-8f0f-3d2f8f7a9b10");
    ContainerSpec {
        id: ContainerId::of(&pod, &ContainerName::from("main"), attempt),
        pod_namespace: "default".into(),
        pod_name: "web".into(),
        image: IMAGE.into(),
        command: Vec::new(),
        args: vec![script.to_owned()],
        working_dir: None,
        env: Vec::new(),
        mounts: Vec::new(),
        user: None,
        group: None,
        run_as_non_root: false,
        extra_groups: Vec::new(),
        add_capabilities: Vec::new(),
        drop_capabilities: Vec::new(),
        privileged: false,
        allow_privilege_escalation: false,
        read_only_root: false,
        seccomp: Seccomp::RuntimeDefault,
        netns: None,
        ipcns: None,
        utsns: None,
        cgroup: format!("{}/pod/main", host.cgroup),
        limits: Limits::default(),
        oom_score_adj: 500,
        log_path: log_path(host, attempt),
        stdin: false,
        stdin_once: false,
        tty: false,
        handler: None,
        sysctls: BTreeMap::new(),
        host_pid: false,
        labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
    }
}

fn log_path(host: &Host, attempt: u32) -> PathBuf {
    host.path().join(format!("log-files/main/{attempt}.log"))
}

/// The log's content without times.
fn log(host: &Host, attempt: u32) -> String {
    let text = fs::read_to_string(log_path(host, attempt)).unwrap_or_default();
    text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
}

async fn exited(runtime: &impl Runtime, id: &ContainerId) -> (i32, bool) {
    eventually("the container ends", async || {
        let all = runtime.list().await.unwrap();
        let found = all.into_iter().find(|c| c.id == *id)?;
        match found.state {
            ContainerState::Exited { code, started_ms, finished_ms, oom_killed } => {
                assert!(
                    started_ms > 1_600_000_000_000 && finished_ms >= started_ms,
                    "{started_ms} {finished_ms}"
                );
                Some((code, oom_killed))
            }
            _ => None,
        }
    })
    .await
}

/// Runs a script to its end and returns what it said.
async fn run(host: &Host, spec: ContainerSpec) -> (i32, String) {
    let runtime = host.runtime();
    runtime.create(&spec).await.unwrap();
    runtime.start(&spec.id).await.unwrap();
    let (code, _) = exited(&runtime, &spec.id).await;
    let attempt = spec.id.parts().unwrap().2;
    let lock = fs::File::open(log_path(host, attempt)).unwrap();
    // The logger's lock ends when everything is written.
    let lock = tokio::task::spawn_blocking(move || {
        nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockShared).map_err(|(_, e)| e)
    });
    lock.await.unwrap().unwrap();
    let output = log(host, attempt);
    runtime.remove(&spec.id).await.unwrap();
    (code, output)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn a_container_lives_and_its_end_stays_known_until_removed() {
    let host = Host::start().await;
    TestImage::default().import(&host, IMAGE);
    let runtime = host.runtime();
    assert!(runtime.version().await.unwrap().starts_with("containerd://"));

    let spec = spec(&host, 0, "echo hello; trap 'exit 7' TERM; while :; do sleep 0.1; done");
    runtime.create(&spec).await.unwrap();
    assert_eq!(runtime.list().await.unwrap()[0].state, ContainerState::Created);
    // Repeating is allowed at every step.
    runtime.create(&spec).await.unwrap();
    let pid = runtime.start(&spec.id).await.unwrap();

    // Another agent process sees the same.
    let observed = host.runtime().list_pod(&spec.id.parts().unwrap().0).await.unwrap().remove(0);
    assert!(matches!(observed.state, ContainerState::Running { pid: p, .. } if p == pid));
    assert_eq!((observed.container.as_str(), observed.attempt, observed.image.as_str()), ("main", 0, IMAGE));
    assert!(observed.image_id.starts_with("docker.io/library/test@sha256:"), "{}", observed.image_id);
    assert_eq!(observed.labels["team"], "a");
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroup.contains(&format!("{}/0", spec.cgroup)), "{cgroup}");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "500");
    eventually("the log has the line", async || (log(&host, 0) == "hello\n").then_some(())).await;

    runtime.kill(&spec.id, libc::SIGTERM, false).await.unwrap();
    assert_eq!(exited(&runtime, &spec.id).await, (7, false));
    runtime.kill(&spec.id, libc::SIGTERM, false).await.unwrap();
    assert_eq!(exited(&host.runtime(), &spec.id).await, (7, false));

    runtime.remove(&spec.id).await.unwrap();
    runtime.remove(&spec.id).await.unwrap();
    assert!(runtime.list().await.unwrap().is_empty());
    eventually("shim and logger end", async || (host.processes().len() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn a_program_that_is_not_there_is_a_start_error_on_record() {
    let host = Host::start().await;
    TestImage::default().import(&host, IMAGE);
    let runtime = host.runtime();
    for (attempt, handler) in [(0, None), (1, Some("runc"))] {
        let command = vec!["nothing-here".to_owned()];
        let spec = ContainerSpec { command, handler: handler.map(Into::into), ..spec(&host, attempt, "") };
        let created = runtime.create(&spec).await;
        let failed = match created {
            Ok(()) => runtime.start(&spec.id).await.map(drop),
            failed => failed,
        };
        let Err(RuntimeError::Start { message }) = failed else { panic!("{failed:?}") };
        assert!(message.contains("exec: \"nothing-here\": executable file not found in $PATH"), "{message}");
        assert_eq!(exited(&runtime, &spec.id).await, (128, false));
        let all = runtime.list().await.unwrap();
        assert_eq!(all.iter().find(|c| c.id == spec.id).unwrap().labels[START_ERROR], message);
        runtime.remove(&spec.id).await.unwrap();
    }
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn users_groups_and_confinement_are_as_asked() {
    let host = Host::start().await;
    let config = serde_json::json!({"Entrypoint": ["/bin/sh", "-c"], "User": "app"});
    TestImage { config, ..TestImage::default() }.import(&host, IMAGE);

    let extra =
        ContainerSpec { extra_groups: vec![2000], ..spec(&host, 0, "id -u; id -g; id -G; echo $HOME") };
    assert_eq!(run(&host, extra).await, (0, "1000\n1001\n1001 1002 2000\n/home/app\n".into()));

    let other = ContainerSpec {
        user: Some(0),
        ..spec(&host, 1, "id -u; grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status")
    };
    let (_, status) = run(&host, other).await;
    assert_eq!(status, "0\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\n");

    let refused = "touch /x || echo no; mount -t tmpfs t /tmp 2>/dev/null || echo no; unshare -m true 2>/dev/null || echo no";
    let confined = ContainerSpec { user: Some(0), read_only_root: true, ..spec(&host, 2, refused) };
    assert_eq!(
        run(&host, confined).await.1.replace("touch: /x: Read-only file system\n", ""),
        "no\nno\nno\n"
    );

    let runtime = host.runtime();
    for (attempt, user, text) in [
        (3, None, "image has non-numeric user (app), cannot verify user is non-root"),
        (4, Some(0), "container's runAsUser breaks non-root policy"),
    ] {
        let spec = ContainerSpec { run_as_non_root: true, user, ..spec(&host, attempt, "true") };
        let error = runtime.create(&spec).await.unwrap_err();
        assert!(matches!(&error, RuntimeError::Config { message } if message.contains(text)), "{error:?}");
    }
    assert!(runtime.list().await.unwrap().is_empty(), "a configuration error leaves nothing");
}
