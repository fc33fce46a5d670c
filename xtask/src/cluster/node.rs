//! One node on this machine: its mount namespace (own sysfs, cgroup v2 and bpffs, pinned so that restarted
//! daemons enter the same one), its containerd, its agent, and their configuration.

use std::fs;

use anyhow::{Context, Result};

use super::{scheduler::JoinMaterial, supervisor::Process, traces};
use crate::{
    images::ALIASES,
    layout::{Layout, Node, cgroup_v2_mount},
    sh::sh,
};

/// Makes directories, cgroups and the pinned mount namespace.
pub(crate) fn prepare(layout: &Layout, node: &Node) -> Result<()> {
    for directory in [&node.dir, &node.run, &node.dir.join("containerd"), &node.dir.join("agent")] {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    for group in ["", "daemons", "pods"] {
        fs::create_dir_all(node.cgroup.join(group))?;
    }
    pin_mount_namespace(layout, node)?;
    fs::write(node.dir.join("containerd.toml"), containerd_config(node))?;
    Ok(())
}

/// A mount namespace in which the node looks like a host of its own: /sys is that of its network namespace, cgroup v2
/// is where a container runtime looks for it, and mounts are shared as systemd has them, which pods with mount
/// propagation need; nothing of it reaches the machine.
fn pin_mount_namespace(layout: &Layout, node: &Node) -> Result<()> {
    let pins = layout.run.join("mnt");
    if !pins.is_dir() {
        fs::create_dir_all(&pins)?;
        // A pin cannot live on a mount that propagates to the namespace it pins.
        sh("mount").arg("--bind").arg(&pins).arg(&pins).run()?;
        sh("mount").arg("--make-private").arg(&pins).run()?;
    }
    fs::write(&node.mntns, "")?;
    let bpf = node.run.join("bpf");
    fs::create_dir_all(&bpf)?;
    let script = format!(
        "mount --make-rshared / && mount -t sysfs sysfs /sys && mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t bpf -o mode=0700 bpf {}",
        bpf.display()
    );
    sh("nsenter")
        .arg(format!("--net=/run/netns/{}", node.netns))
        .args(["unshare", "--propagation", "private"])
        .arg(format!("--mount={}", node.mntns.display()))
        .args(["sh", "-ec", &script])
        .run()
}

/// The node's two daemons.
pub(crate) fn processes(layout: &Layout, node: &Node) -> Vec<Process> {
    let enter = |name: &str, argv: Vec<String>| Process {
        name: format!("{}-{name}", node.name),
        cgroup: node.cgroup.join("daemons"),
        log: layout.dir.join("logs").join(format!("{}-{name}.log", node.name)),
        argv: [
            "nsenter".to_owned(),
            format!("--net=/run/netns/{}", node.netns),
            format!("--mount={}", node.mntns.display()),
            "--".to_owned(),
        ]
        .into_iter()
        .chain(argv)
        .collect(),
    };
    let agent = layout.binaries.join("gantry-agent").display().to_string();
    vec![
        enter(
            "containerd",
            vec!["containerd".into(), "-c".into(), node.dir.join("containerd.toml").display().to_string()],
        ),
        enter("agent", vec![agent, "--config".into(), node.dir.join("agent.toml").display().to_string()]),
    ]
}

fn containerd_config(node: &Node) -> String {
    let (root, run) = (node.dir.join("containerd"), node.run.join("containerd"));
    // CRI is off: Gantry speaks to containerd's own services.
    format!(
        "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\n  address = {socket:?}\n[ttrpc]\n  address = {ttrpc:?}\n[debug]\n  level = \"warn\"\n",
        state = run.join("state"),
        socket = containerd_socket(node),
        ttrpc = node.run.join("containerd.ttrpc"),
    )
}

fn containerd_socket(node: &Node) -> std::path::PathBuf {
    node.run.join("containerd.sock")
}

/// crun starts containers faster than runc, but raises its limit of locked memory for every one: a machine that
/// does not let root do that (no CAP_SYS_RESOURCE) has runc.
fn handler() -> &'static str {
    let raised = sh("prlimit").args(["--memlock=unlimited:unlimited", "true"]).text();
    if raised.is_ok() { "crun" } else { "runc" }
}

/// The shop's front door is at the first node's.
fn labels(node: &Node) -> &'static str {
    if node.name == "node-1" { "\n[node.labels]\nzone = \"street-side\"\n" } else { "" }
}

/// A cluster to try things on shares the machine's disk with what else is there.
const PRESSURE: &str = "[pressure]\ndisk = \"1Gi\"\n";

/// The agent's configuration file.
pub(crate) fn agent_config(layout: &Layout, node: &Node, join: &JoinMaterial) -> Result<String> {
    let registry = format!("{}:{}", layout.host_address(), Layout::REGISTRY_PORT);
    let aliases: String =
        ALIASES.iter().map(|(name, local)| format!("{name:?} = \"{registry}/{local}\"\n")).collect();
    // Inside the node's mount namespace cgroup v2 is at /sys/fs/cgroup, wherever this machine has it.
    let below_mount =
        node.cgroup.strip_prefix(cgroup_v2_mount()?).context("the cgroup is not below its mount")?;
    Ok(format!(
        r#"# Written by cargo xtask up.
[node]
name = "{name}"
addresses = ["{address}"]
{labels}
[scheduler]
address = "{host}:{port}"
ca_file = {ca:?}
token_file = {token:?}

[containerd]
socket = {socket:?}
default_handler = "{handler}"
handlers.crun = {{ binary = "crun" }}

{pressure}
[images]
plain_http = ["{registry}"]

[images.aliases]
{aliases}
[cgroup]
root = "/{cgroup}/pods"
enforcement = "{enforcement}"

[network]
uplink = "eth0"

[dataplane]
bpffs = {bpf:?}
cgroup = "/sys/fs/cgroup/{cgroup}"

[paths]
state_dir = {state:?}
run_dir = {run:?}
log_dir = {logs:?}

[metrics]
listen = "{address}:10250"
"#,
        name = node.name,
        labels = labels(node),
        pressure = if layout.earlier { "" } else { PRESSURE },
        address = node.address,
        host = layout.host_address(),
        port = Layout::NODE_PORT,
        ca = join.ca_file,
        token = join.token_file,
        socket = containerd_socket(node),
        handler = handler(),
        cgroup = below_mount.display(),
        enforcement = if traces::has_controllers(&node.cgroup)? { "required" } else { "best-effort" },
        bpf = node.run.join("bpf"),
        state = node.dir.join("agent"),
        run = node.run.join("agent"),
        logs = node.dir.join("pods"),
    ))
}
