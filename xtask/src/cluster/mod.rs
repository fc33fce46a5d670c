//! A cluster on this machine: made from nothing, supervised, and removed without a trace. Each node is a network
//! namespace with its own containerd and agent; the scheduler and the image registry run beside them.

mod network;
mod node;
mod scheduler;
pub(crate) mod supervisor;
mod traces;

use std::{
    fs,
    net::TcpStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    images,
    layout::{Layout, Node},
    sh::{Sh, sh},
    ui,
};
use supervisor::Process;

/// How long the daemons may take to answer after they were started.
const START_TIME: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A cluster's handle.
pub(crate) struct Cluster {
    /// Its places.
    pub(crate) layout: Layout,
    /// kubectl to talk to it with.
    pub(crate) kubectl: PathBuf,
}

impl Cluster {
    /// Starts a cluster of `nodes` nodes; fails when one of that name is there already. One that does not come up is ended
    /// again, and its logs are kept.
    pub(crate) fn start(layout: Layout, kubectl: PathBuf, nodes: u8) -> Result<Self> {
        let cluster = Self { layout, kubectl };
        let name = &cluster.layout.name;
        if supervisor::is_running(&cluster.plan_file()) {
            bail!("the cluster {name:?} is up already: `cargo xtask down --name {name}` ends it");
        }
        // Left-overs of a cluster that was killed rather than ended would look like ours.
        cluster.stop()?;
        if let Err(error) = cluster.begin(nodes) {
            let kept = cluster.layout.keep_logs(&format!("{name}-logs"));
            let ended = kept.and(cluster.stop().context("ending the cluster left traces"));
            return Err(match ended {
                Ok(()) => error,
                Err(more) => error.context(format!("{more:#}; before that")),
            });
        }
        Ok(cluster)
    }

    fn begin(&self, nodes: u8) -> Result<()> {
        let layout = &self.layout;
        fs::create_dir_all(layout.dir.join("logs"))?;
        fs::create_dir_all(&layout.run)?;
        fs::create_dir_all(layout.cgroup.join("centre"))?;
        traces::delegate_controllers(&layout.cgroup)?;
        let nodes: Vec<Node> = (1..=nodes).map(|i| layout.node(i)).collect();
        ui::step("making networks and namespaces", |_| {
            network::create_bridge(layout)?;
            for node in &nodes {
                network::create_node(layout, node)?;
                node::prepare(layout, node)?;
                traces::delegate_controllers(&node.cgroup)?;
            }
            Ok(format!("{} nodes on {}", nodes.len(), layout.underlay()))
        })?;
        scheduler::prepare(layout)?;
        let join = scheduler::join_material(layout)?;
        for node in &nodes {
            fs::write(node.dir.join("agent.toml"), node::agent_config(layout, node, &join)?)?;
        }
        let mut processes = vec![self.registry_process()?, scheduler::process(layout)];
        processes.extend(nodes.iter().flat_map(|node| node::processes(layout, node)));
        supervisor::start(&self.plan_file(), &processes)?;
        ui::step("starting scheduler, registry and agents", |step| {
            self.wait_until_up(&nodes, step)?;
            Ok(format!("API on {}", scheduler::api(layout)))
        })?;
        images::build_and_push(&layout.root, &self.registry())?;
        images::postgres::build_and_push(&layout.root, &self.registry())
    }

    /// Ends the cluster and removes every trace of it; says what it could not remove.
    pub(crate) fn stop(&self) -> Result<()> {
        let layout = &self.layout;
        supervisor::stop(&self.plan_file())?;
        traces::remove_cgroup(&layout.cgroup)?;
        network::remove(layout)?;
        traces::remove_mounts(&layout.run)?;
        for directory in [&layout.run, &layout.dir] {
            traces::remove_mounts(directory)?;
            match fs::remove_dir_all(directory) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot remove {}", directory.display()));
                }
                _ => {}
            }
        }
        let left = traces::find(layout)?;
        ensure!(left.is_empty(), "these traces could not be removed:\n  {}", left.join("\n  "));
        Ok(())
    }

    /// A kubectl command against this cluster.
    pub(crate) fn kubectl(&self) -> Sh {
        sh(&self.kubectl).env("KUBECONFIG", self.layout.kubeconfig())
    }

    /// `host:port` of the registry, as nodes reach it.
    pub(crate) fn registry(&self) -> String {
        format!("{}:{}", self.layout.host_address(), Layout::REGISTRY_PORT)
    }

    /// The supervisor's plan file; processes' pid files are beside it.
    pub(crate) fn plan_file(&self) -> PathBuf {
        self.layout.dir.join("processes.json")
    }

    fn registry_process(&self) -> Result<Process> {
        let layout = &self.layout;
        let config = layout.dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {:?}\nhttp:\n  addr: {}\n",
            layout.dir.join("registry"),
            self.registry()
        );
        fs::write(&config, text)?;
        Ok(Process {
            name: "registry".to_owned(),
            cgroup: layout.cgroup.join("centre"),
            log: layout.dir.join("logs/registry.log"),
            argv: vec!["docker-registry".into(), "serve".into(), config.display().to_string()],
        })
    }

    fn wait_until_up(&self, nodes: &[Node], step: &mut ui::Step) -> Result<()> {
        let end = Instant::now() + START_TIME;
        step.detail("waiting for the registry");
        self.wait(end, "the registry to listen", "registry.log", || {
            TcpStream::connect(self.registry()).is_ok()
        })?;
        step.detail("waiting for the Kubernetes API");
        let ready = || self.kubectl().args(["get", "--raw", "/readyz"]).succeeds();
        self.wait(end, "the Kubernetes API to answer", "scheduler.log", ready)?;
        for node in nodes {
            step.detail(format!("waiting for {}", node.name));
            let jsonpath = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
            let ready = || {
                let status = self.kubectl().args(["get", "node", &node.name, "-o", jsonpath]).text();
                status.is_ok_and(|s| s == "True")
            };
            self.wait(
                end,
                &format!("{} to be Ready", node.name),
                &format!("{}-agent.log", node.name),
                ready,
            )?;
        }
        Ok(())
    }

    fn wait(&self, end: Instant, what: &str, log: &str, mut done: impl FnMut() -> bool) -> Result<()> {
        while !done() {
            if Instant::now() > end {
                let log = self.layout.dir.join("logs").join(log);
                let text = fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(15)..].join("\n    ");
                bail!(
                    "waited {} for {what}; the end of {}:\n    {tail}",
                    ui::seconds(START_TIME),
                    log.display()
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}
