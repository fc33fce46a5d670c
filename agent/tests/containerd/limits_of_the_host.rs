//! What the host lets a container have, and how a refusal reads.

use std::{fs, path::PathBuf, process::Command};

use gantry_agent::runtime::{ContainerSpec, Mount, Propagation, Runtime, RuntimeError, oom};

use crate::{
    IMAGE, exited,
    host::{Host, eventually},
    image::TestImage,
    log, run, spec,
};

/// Pinned namespaces of a pod that nobody runs in.
struct Pins(tempfile::TempDir);

impl Pins {
    fn make() -> Self {
        let directory = tempfile::Builder::new().prefix("gantry-pins-").tempdir_in("/var/tmp").unwrap();
        let pins = Self(directory);
        for name in ["net", "ipc"] {
            fs::write(pins.at(name), "").unwrap();
        }
        let option = |name: &str| format!("--{name}={}", pins.at(name).display());
        let made = Command::new("unshare").args([option("net"), option("ipc")]).arg("true").status().unwrap();
        assert!(made.success());
        pins
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for name in ["net", "ipc"] {
            let _ = Command::new("umount").arg(self.at(name)).status();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn kernel_parameters_are_the_pods_and_a_refused_one_is_named() {
    let pins = Pins::make();
    let host = Host::start().await;
    TestImage::default().import(&host, IMAGE);
    let with = |attempt, sysctls: &[(&str, &str)]| ContainerSpec {
        netns: Some(pins.at("net")),
        ipcns: Some(pins.at("ipc")),
        sysctls: sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..spec(&host, attempt, "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/tcp_fin_timeout")
    };
    let set = with(0, &[("kernel.shm_rmid_forced", "1"), ("net.ipv4.tcp_fin_timeout", "17")]);
    assert_eq!(run(&host, set).await, (0, "1\n17\n".into()));
    let own = fs::read_to_string("/proc/sys/net/ipv4/tcp_fin_timeout").unwrap();
    assert_ne!(own.trim(), "17", "the node's own stays");
    for (attempt, name, value, why) in [
        (1, "net.ipv4.tcp_fin_timeout", "soon", "cannot be set to \"soon\" on this node: Invalid argument"),
        (2, "net.ipv4.nosuch", "1", "there is no such parameter"),
    ] {
        let error = host.runtime().create(&with(attempt, &[(name, value)])).await.unwrap_err();
        assert!(matches!(&error, RuntimeError::Config { message } if message.contains(why)), "{error:?}");
    }
    let of_node = ContainerSpec { netns: None, ..with(3, &[("net.ipv4.tcp_fin_timeout", "17")]) };
    assert!(matches!(host.runtime().create(&of_node).await, Err(RuntimeError::Config { .. })));
    assert!(host.runtime().list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn mounts_are_seen_as_far_as_propagation_says() {
    let host = Host::start().await;
    TestImage::default().import(&host, IMAGE);
    let runtime = host.runtime();
    let source = host.path().join("shared");
    fs::create_dir(&source).unwrap();
    let with = |attempt, propagation, script: &str| ContainerSpec {
        mounts: vec![Mount { source: source.clone(), target: "/data".into(), read_only: false, propagation }],
        user: Some(0),
        privileged: true,
        allow_privilege_escalation: true,
        ..spec(&host, attempt, script)
    };
    let wait = "until [ -e /data/go ]; do sleep 0.1; done; cat /data/m/f 2>/dev/null || echo nothing";
    let apart = with(0, Propagation::None, wait);
    let sees = with(1, Propagation::HostToContainer, wait);
    let both = "mkdir /data/m && mount -t tmpfs t /data/m && echo here > /data/m/f && touch /data/go; \
                while :; do sleep 0.1; done";
    let both = with(2, Propagation::Bidirectional, both);
    for spec in [&apart, &sees, &both] {
        runtime.create(spec).await.unwrap();
        runtime.start(&spec.id).await.unwrap();
    }
    for (spec, attempt, said) in [(&apart, 0, "nothing\n"), (&sees, 1, "here\n")] {
        assert_eq!(exited(&runtime, &spec.id).await.0, 0);
        eventually("it said what it sees", async || log(&host, attempt).ends_with(said).then_some(())).await;
    }
    for spec in [&apart, &sees, &both] {
        runtime.remove(&spec.id).await.unwrap();
    }
    let nowhere = Mount { source: "/proc".into(), ..both.mounts[0].clone() };
    let refused = ContainerSpec { mounts: vec![nowhere], ..with(3, Propagation::None, "") };
    match runtime.create(&refused).await {
        Err(RuntimeError::Config { message }) => {
            assert!(message.contains("is mounted on") && message.contains("not a shared mount"), "{message}");
        }
        // Made shared with everything else.
        other => assert!(other.is_ok(), "{other:?}"),
    }
    runtime.remove(&refused.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn the_lowest_oom_score_that_is_found_is_one_that_a_container_gets() {
    let host = Host::start().await;
    TestImage::default().import(&host, IMAGE);
    let floor = oom::floor(&host.socket());
    let lowest =
        ContainerSpec { oom_score_adj: floor.max(-997), ..spec(&host, 0, "cat /proc/self/oom_score_adj") };
    let wanted = lowest.oom_score_adj;
    assert_eq!(run(&host, lowest).await, (0, format!("{wanted}\n")));
    // And none below it, where there is one below.
    if floor > oom::LOWEST {
        let runtime = host.runtime();
        let below = ContainerSpec { oom_score_adj: floor - 1, ..spec(&host, 1, "true") };
        let started = async {
            runtime.create(&below).await?;
            runtime.start(&below.id).await
        };
        assert!(started.await.is_err(), "the floor is too high");
        runtime.remove(&below.id).await.unwrap();
    }
}
