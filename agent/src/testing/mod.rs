//! Stateful fakes of the ports: one node in memory that keeps what it was told, fails when a script says so, and can
//! be broken behind the agent's back. They say no where the real ones would (a start without a network namespace, a
//! second attempt beside a running one), so that a test that passes has shown something.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::ThreadId,
    time::Duration,
};

use tokio::sync::{broadcast, watch};

use crate::{
    dataplane::MemoryDataplane,
    model::{
        ContainerId, Desired, DesiredPod, Layout, NetworkStatus, NodeView, ObservedContainer, PodUid,
        Resolver, ServiceId,
    },
    net::NodeWants,
    observe::Ports,
    runtime::{ContainerSpec, RuntimeEvent},
};

mod containers;
mod node;
mod upstream;

pub use upstream::{Heard, Said};

/// The node in memory. Cheap to clone: all clones are one node.
#[derive(Clone)]
pub struct FakeNode {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<RuntimeEvent>,
    hanging: watch::Sender<bool>,
    changed: watch::Sender<()>,
    network_changed: watch::Sender<()>,
    /// The kernel's service table, which agents leave to the next one.
    datapath: Arc<MemoryDataplane>,
}

/// Frontends that the kernel has room for.
const FRONTENDS: u32 = 256;

/// The node's state while it is looked at; who waits for a state of it looks again once it was changed.
pub struct Held<'a> {
    state: MutexGuard<'a, State>,
    changed: &'a watch::Sender<()>,
    written: bool,
}

impl Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.written = true;
        &mut self.state
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.written {
            self.changed.send_replace(());
        }
    }
}

/// All there is on the node.
#[derive(Default)]
pub struct State {
    /// Containers with their specification.
    pub containers: BTreeMap<ContainerId, (ObservedContainer, ContainerSpec)>,
    /// Images present.
    pub images: BTreeSet<String>,
    /// Images that a registry would give.
    pub registry: BTreeSet<String>,
    /// Services that the datapath has no room for.
    pub unprogrammable: BTreeSet<ServiceId>,
    /// How long a pull takes.
    pub pull_time: Duration,
    /// Pod networks.
    pub networks: BTreeMap<PodUid, NetworkStatus>,
    /// What the node's own network has.
    pub node_network: NodeWants,
    /// The interface by which the node is reached.
    pub uplink: Option<String>,
    /// The node's addresses there.
    pub addresses: Vec<IpAddr>,
    /// Those that services were last published with.
    pub published_at: Vec<IpAddr>,
    /// Pods the datapath knows.
    pub attached: BTreeSet<PodUid>,
    /// Pods with a cgroup.
    pub cgroups: BTreeSet<PodUid>,
    /// The thread that removed the last one, which may take seconds.
    pub cgroup_removed_by: Option<ThreadId>,
    /// Volumes by pod, with their digest.
    pub volumes: BTreeMap<PodUid, BTreeMap<String, u64>>,
    /// Pods whose volumes were given back.
    pub released: BTreeSet<PodUid>,
    /// How often it was started.
    pub boots: u32,
    /// Operations that fail next, by name, with the text.
    pub failures: BTreeMap<&'static str, VecDeque<String>>,
    /// Containers that do not heed SIGTERM, by name.
    pub stubborn: BTreeSet<String>,
    /// Operations in the order they came.
    pub log: Vec<String>,
    /// What exec answers, by the command's first word.
    pub exec_codes: BTreeMap<String, i32>,
    /// Time of the node (Unix milliseconds).
    pub now_ms: i64,
    next_address: u32,
    next_pid: u32,
}

impl FakeNode {
    /// An empty node at a round time.
    pub fn new() -> Self {
        let state = State {
            now_ms: 1_800_000_000_000,
            uplink: Some("up0".to_owned()),
            addresses: vec![Ipv4Addr::new(192, 0, 2, 1).into()],
            ..State::default()
        };
        #[expect(clippy::expect_used, reason = "memory has no errors")]
        let datapath = Arc::new(MemoryDataplane::new(FRONTENDS).expect("a datapath"));
        Self {
            datapath,
            state: Arc::new(Mutex::new(state)),
            events: broadcast::channel(1024).0,
            hanging: watch::Sender::new(false),
            changed: watch::Sender::new(()),
            network_changed: watch::Sender::new(()),
        }
    }

    /// Everything on it.
    pub fn state(&self) -> Held<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Held { state, changed: &self.changed, written: false }
    }

    /// Waits until this holds of it.
    pub async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !holds(&self.state()) {
                // The other end is this node's.
                let _ = changed.changed().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(3600), wait).await;
        assert!(waited.is_ok(), "never so: {what}; log {:#?}", self.state().log);
    }

    /// Where a TCP connection of a pod to this address and port may go: `None` when it is no service's.
    pub fn answers(&self, to: &str) -> Option<BTreeSet<String>> {
        #[expect(clippy::expect_used, reason = "a test that is written wrong should say so")]
        let to = to.parse().expect("an address and a port");
        let answers = self.datapath.answers(to, agent_ebpf_common::abi::TCP)?;
        Some(answers.iter().map(ToString::to_string).collect())
    }

    /// All ports of an agent that starts on this node: its datapath takes over what the kernel has.
    pub fn ports(&self) -> Ports {
        #[expect(clippy::expect_used, reason = "memory has no errors")]
        self.datapath.restart().expect("a datapath");
        let node = || Arc::new(self.clone());
        Ports {
            runtime: node(),
            images: node(),
            cgroups: node(),
            network: node(),
            dataplane: node(),
            volumes: node(),
        }
    }

    /// The next call of this operation fails with the text.
    pub fn fail(&self, operation: &'static str, text: &str) {
        self.state().failures.entry(operation).or_default().push_back(text.to_owned());
    }

    /// Somebody changes the node's network behind the agent's back, and the kernel tells.
    pub fn change_network(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.network_changed.send_replace(());
    }

    /// Names the boot.
    pub fn boot(&self) -> String {
        format!("boot-{}", self.state().boots)
    }

    /// The runtime takes calls and does not answer them, until told otherwise.
    pub fn hang(&self, hangs: bool) {
        self.hanging.send_replace(hangs);
    }

    async fn answer(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.hanging.subscribe().wait_for(|hangs| !hangs).await;
    }

    /// Lets time pass.
    pub fn advance(&self, ms: i64) {
        self.state().now_ms += ms;
    }

    /// A container's process ends by itself.
    pub fn exit(&self, id: &ContainerId, code: i32) {
        let ended = self.state().end(id, code);
        if ended {
            let _ = self.events.send(RuntimeEvent::Exited(id.clone()));
        }
    }

    /// The machine is switched off and on: processes, namespaces and cgroups are gone, files stay.
    pub fn reboot(&self) {
        use crate::model::ContainerState::{Lost, Running};
        let mut state = self.state();
        state.boots += 1;
        for (container, _) in state.containers.values_mut() {
            // What had ended is on record with its end; what ran has lost its task and nobody saw how.
            if matches!(container.state, Running { .. }) {
                container.state = Lost;
            }
            (container.earlier_boot, container.task) = (true, false);
        }
        state.networks.clear();
        state.attached.clear();
        state.cgroups.clear();
        #[expect(clippy::expect_used, reason = "memory has no errors")]
        self.datapath.reboot().expect("a datapath");
    }

    fn subscribe(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }
}

impl Default for FakeNode {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn scripted(&mut self, operation: &'static str) -> Option<String> {
        self.failures.get_mut(operation)?.pop_front()
    }

    fn end(&mut self, id: &ContainerId, code: i32) -> bool {
        use crate::model::ContainerState::{Exited, Running};
        let finished_ms = self.now_ms;
        let Some((container, _)) = self.containers.get_mut(id) else { return false };
        let Running { started_ms, .. } = container.state else { return false };
        container.state = Exited { code, started_ms, finished_ms, oom_killed: false };
        true
    }

    fn address(&mut self) -> Ipv4Addr {
        self.next_address += 1;
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 0)) + self.next_address)
    }
}

/// A pod from JSON; uid and names are filled in.
pub fn pod(uid: &str, spec: impl serde::Serialize) -> DesiredPod {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": uid, "namespace": "default", "uid": uid, "generation": 1}});
    #[expect(clippy::expect_used, reason = "a test that is written wrong should say so")]
    let pod = serde_json::from_value(object).expect("a pod");
    DesiredPod {
        uid: uid.into(),
        name: crate::model::PodName { namespace: "default".into(), name: uid.into() },
        generation: 1,
        pod,
    }
}

/// Desired state of these pods.
pub fn desired(pods: impl IntoIterator<Item = DesiredPod>) -> Desired {
    let pods = pods.into_iter().map(|pod| (pod.uid.clone(), Arc::new(pod))).collect();
    let table = Some(Arc::default());
    Desired { epoch: 1, generation: 1, pods, table, ..Desired::default() }
}

/// A node with everything known.
pub fn view(root: &std::path::Path) -> NodeView {
    #[expect(clippy::expect_used, reason = "constants")]
    let net = |text: &str| text.parse().expect("a network");
    NodeView {
        name: "node-1".into(),
        addresses: vec![Ipv4Addr::new(192, 0, 2, 1).into()],
        cluster: Some(crate::model::ClusterNetwork {
            domain: "cluster.local".into(),
            service_cidr: net("10.96.0.0/16"),
            pod_cidr: net("10.244.0.0/16"),
            node_pod_cidrs: vec![net("10.244.0.0/24")],
            dns_ip: Ipv4Addr::new(10, 96, 0, 10).into(),
            node_ports: (30000, 32767),
        }),
        layout: Layout {
            state_dir: root.join("state"),
            run_dir: root.join("run"),
            log_dir: root.join("log"),
        },
        resolver: Resolver {
            nameservers: vec!["192.0.2.53".into()],
            searches: vec!["example.org".into()],
            options: Vec::new(),
        },
        cpu_milli: 4000,
        memory_bytes: 8 << 30,
        memory_capacity: 8 << 30,
        ephemeral_bytes: 100 << 30,
        enforced: true,
        max_pods: 110,
        allowed_sysctls: Vec::new(),
        oom_floor: -1000,
        pids_max: None,
        apparmor: false,
        hosts: "127.0.0.1\tlocalhost\n".to_owned(),
    }
}
