//! What the node says of itself: facts at the start of a session, vitals with every heartbeat.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    cgroup::Cgroups,
    config::NodeConfig,
    control::NodeReporter,
    model::{ContainerName, ContainerUsage, NodeFacts, NodeView, PodUid, Vitals},
    observe::{Clock, Heard, Host, Machine},
    reconcile::NodeConditions,
    records::Records,
};

/// How long a hello waits for what the first look at the runtime and at the node's network tells.
const FIRST_ANSWER: Duration = Duration::from_secs(6);

/// Speaks for the node.
pub(super) struct Reporter {
    pub(super) node: NodeConfig,
    /// Where metrics and health are served.
    pub(super) port: Option<u16>,
    pub(super) host: Host,
    pub(super) machine: Machine,
    pub(super) view: watch::Receiver<Arc<NodeView>>,
    /// What the runtime said last.
    pub(super) heard: watch::Receiver<Heard>,
    pub(super) cgroups: Arc<dyn Cgroups>,
    pub(super) records: Arc<Records>,
    pub(super) conditions: NodeConditions,
    pub(super) clock: Clock,
}

/// Capacity less what is kept for the machine.
pub(super) fn allocatable(node: &NodeConfig, machine: &Machine) -> (i64, i64) {
    let memory = i64::try_from(machine.memory).unwrap_or(i64::MAX);
    let cpu = i64::from(machine.cpus) * 1000;
    ((cpu - node.reserved_cpu_milli).max(0), (memory - node.reserved_memory).max(0))
}

impl Reporter {
    fn resources(&self, cpu_milli: i64, memory: i64) -> BTreeMap<String, String> {
        let cpu = match cpu_milli % 1000 {
            0 => (cpu_milli / 1000).to_string(),
            _ => format!("{cpu_milli}m"),
        };
        let mut resources = BTreeMap::from([
            ("cpu".to_owned(), cpu),
            ("memory".to_owned(), format!("{}Ki", memory / 1024)),
            ("pods".to_owned(), self.node.max_pods.to_string()),
        ]);
        let state_dir = &self.view.borrow().layout.state_dir;
        if let Some((all, _)) = Host::disk(state_dir) {
            resources.insert("ephemeral-storage".to_owned(), format!("{}Ki", all / 1024));
        }
        resources
    }

    /// Waits for a runtime that was not asked yet; the first answer comes at once or not in time.
    async fn runtime_version(&self) -> String {
        let mut heard = self.heard.clone();
        let asked = tokio::time::timeout(FIRST_ANSWER, heard.wait_for(|heard| heard.asked)).await;
        let version = asked.ok().and_then(Result::ok).map(|heard| heard.version.clone());
        version.filter(|version| !version.is_empty()).unwrap_or_else(|| "containerd://unknown".to_owned())
    }

    /// Waits for an address: a hello without one would take the one away that the node had.
    async fn addresses(&self) -> Vec<(String, String)> {
        let mut view = self.view.clone();
        let known = view.wait_for(|view| !view.addresses.is_empty());
        // In the end there is none.
        let _ = tokio::time::timeout(FIRST_ANSWER, known).await;
        addresses(&self.view.borrow())
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.node.labels.clone();
        let own = [
            ("kubernetes.io/hostname", self.node.name.as_str()),
            ("kubernetes.io/arch", architecture()),
            ("kubernetes.io/os", "linux"),
        ];
        labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
        labels
    }

    fn containers(&self) -> Vec<ContainerUsage> {
        let time_ms = (self.clock)();
        let usage = |(pod, container): (PodUid, ContainerName)| {
            // A container that ended in between, or a cgroup that cannot be read, has no usage to tell.
            let usage = self.cgroups.container_usage(&pod, container.as_str()).ok()??;
            Some(ContainerUsage {
                pod,
                container,
                cpu_nano_seconds: usage.cpu_ns,
                memory_working_set_bytes: usage.memory_working_set,
                time_ms,
            })
        };
        self.running().into_iter().filter_map(usage).collect()
    }

    fn running(&self) -> Vec<(PodUid, ContainerName)> {
        let mut running = Vec::new();
        self.records.each(|pod, record| {
            let Some(status) = &record.status else { return };
            let init = status.init_container_statuses.iter().flatten();
            for container in status.container_statuses.iter().flatten().chain(init) {
                if container.state.as_ref().is_some_and(|state| state.running.is_some()) {
                    running.push((pod.clone(), container.name.as_str().into()));
                }
            }
        });
        running
    }
}

/// As the Node has them.
fn addresses(view: &NodeView) -> Vec<(String, String)> {
    let internal = view.addresses.iter().map(|address| ("InternalIP".to_owned(), address.to_string()));
    internal.chain([("Hostname".to_owned(), view.name.to_string())]).collect()
}

/// As Go and the container world name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[async_trait]
impl NodeReporter for Reporter {
    async fn facts(&self) -> NodeFacts {
        let memory = i64::try_from(self.machine.memory).unwrap_or(i64::MAX);
        // Together: the scheduler waits for a hello no longer than ten seconds.
        let (addresses, container_runtime) = tokio::join!(self.addresses(), self.runtime_version());
        let (cpu, allocatable_memory) = allocatable(&self.node, &self.machine);
        NodeFacts {
            capacity: self.resources(i64::from(self.machine.cpus) * 1000, memory),
            allocatable: self.resources(cpu, allocatable_memory),
            labels: self.labels(),
            taints: self.node.taints.clone(),
            addresses,
            kernel_version: self.machine.kernel.clone(),
            os_image: self.machine.os_image.clone(),
            container_runtime,
            architecture: architecture().to_owned(),
            machine_id: self.machine.machine_id.clone(),
            boot_id: self.machine.boot_id.clone(),
            conditions: self.conditions.now(),
            kubelet_port: self.port,
        }
    }

    async fn readdressed(&self, told: &[(String, String)]) {
        let mut view = self.view.clone();
        // Its other end lives as long as the agent.
        if view.wait_for(|view| addresses(view) != told).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn vitals(&self) -> Vitals {
        Vitals {
            conditions: self.conditions.now(),
            node: self.host.usage((self.clock)()),
            containers: self.containers(),
            images: self.heard.borrow().images.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, path::Path};

    use super::*;
    use crate::observe::Thresholds;
    use crate::testing::{FakeNode, view};

    fn reporter(dir: &Path, view: &watch::Receiver<Arc<NodeView>>) -> Reporter {
        let (cgroups, host) = (Arc::new(FakeNode::new()), Host::at(dir.to_owned()));
        let health = watch::channel(None).1;
        let conditions = NodeConditions {
            thresholds: Thresholds::default(),
            host: host.clone(),
            cgroups: cgroups.clone(),
            view: view.clone(),
            health,
        };
        Reporter {
            node: NodeConfig {
                name: "node-1".into(),
                labels: BTreeMap::new(),
                taints: Vec::new(),
                addresses: Vec::new(),
                max_pods: 110,
                pod_pids: None,
                allowed_unsafe_sysctls: Vec::new(),
                reserved_cpu_milli: 0,
                reserved_memory: 0,
                pressure: Thresholds::default(),
            },
            port: None,
            host,
            machine: Machine::default(),
            view: view.clone(),
            heard: watch::channel(Heard { asked: true, ..Heard::default() }).1,
            cgroups,
            records: Arc::new(Records::open(dir.join("records"), "boot").unwrap()),
            conditions,
            clock: Arc::new(|| 0),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_told_is_outdated_by_other_addresses_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (node, seen) = watch::channel(Arc::new(view(dir.path())));
        let reporter = reporter(dir.path(), &seen);
        let told = reporter.facts().await.addresses;
        assert_eq!(told[0], ("InternalIP".to_owned(), "192.0.2.1".to_owned()));
        let change = |change: &dyn Fn(&mut NodeView)| node.send_modify(|view| change(Arc::make_mut(view)));
        let outdated =
            async || tokio::time::timeout(Duration::from_secs(1), reporter.readdressed(&told)).await.is_ok();
        change(&|view| view.cluster = None);
        assert!(!outdated().await);
        change(&|view| view.addresses = vec![IpAddr::from([192, 0, 2, 9])]);
        assert!(outdated().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hello_waits_for_the_first_look_at_the_network_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let unaddressed = NodeView { addresses: Vec::new(), ..view(dir.path()) };
        let (node, seen) = watch::channel(Arc::new(unaddressed));
        let reporter = reporter(dir.path(), &seen);
        let internal =
            |facts: &NodeFacts| facts.addresses.iter().filter(|(kind, _)| kind == "InternalIP").count();
        let begun = tokio::time::Instant::now();
        assert_eq!(internal(&reporter.facts().await), 0);
        assert_eq!(begun.elapsed(), FIRST_ANSWER);
        let looked = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            node.send_replace(Arc::new(view(dir.path())));
        };
        let (facts, ()) = tokio::join!(reporter.facts(), looked);
        assert_eq!(internal(&facts), 1);
        assert!(begun.elapsed() < FIRST_ANSWER + Duration::from_secs(1));
    }
}
