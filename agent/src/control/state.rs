//! The desired state as it comes in: updates into a working copy, into the ledger, and out to the reconcilers.
//!
//! Pods and what they refer to are durable before anyone sees them; the service table is shown at once and
//! written soon after. Until a snapshot is complete nothing of it is shown: half a snapshot would stop the pods
//! of the other half.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use gantry_proto::node::v1 as pb;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    convert::{self, ConvertError, Identity, Key},
    ledger::{Draft, Ledger, LedgerError, Section},
};
use crate::model::{Chain, ClusterNetwork, Desired, FailedObject};

/// What precedes a section's objects.
#[derive(Serialize, Deserialize)]
struct Header {
    epoch: u64,
    generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network: Option<ClusterNetwork>,
}

/// The desired state of one agent.
pub(super) struct State {
    ledger: Arc<Ledger>,
    current: Arc<Desired>,
    /// A snapshot that is coming in.
    staging: Option<Desired>,
    /// Objects whose last update was not understood: they are as they were before.
    failed: BTreeMap<Key, FailedObject>,
    network: Option<ClusterNetwork>,
    work_dirty: bool,
    table_dirty: bool,
    shown: bool,
    durable: u64,
    desired: watch::Sender<Arc<Desired>>,
    networks: watch::Sender<Option<ClusterNetwork>>,
}

impl State {
    /// What the ledger has.
    pub(super) fn load(ledger: Arc<Ledger>) -> Result<Self, LedgerError> {
        let mut desired = Desired::default();
        let work = section(&ledger, Section::Work, &mut desired)?;
        let table = section(&ledger, Section::Table, &mut desired)?;
        let network = work.as_ref().and_then(|w| w.network.clone());
        if let (Some(work), Some(table)) = (work, table)
            && work.epoch == table.epoch
        {
            desired.epoch = work.epoch;
            desired.generation = work.generation.min(table.generation);
        }
        let current = Arc::new(desired);
        Ok(Self {
            durable: current.generation,
            ledger,
            staging: None,
            failed: BTreeMap::new(),
            work_dirty: false,
            table_dirty: false,
            shown: true,
            desired: watch::Sender::new(current.clone()),
            networks: watch::Sender::new(network.clone()),
            network,
            current,
        })
    }

    pub(super) fn desired(&self) -> watch::Receiver<Arc<Desired>> {
        self.desired.subscribe()
    }

    pub(super) fn networks(&self) -> watch::Receiver<Option<ClusterNetwork>> {
        self.networks.subscribe()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.current.epoch
    }

    pub(super) fn generation(&self) -> u64 {
        self.current.generation
    }

    /// The generation that would survive a power cut.
    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    pub(super) fn table_dirty(&self) -> bool {
        self.table_dirty
    }

    /// A session begins: with a snapshot in `epoch`, or where the last one ended.
    pub(super) fn begin(&mut self, epoch: u64, snapshot: bool) {
        self.staging = snapshot.then(|| Desired { epoch, ..Desired::default() });
        if snapshot {
            self.failed.clear();
        }
    }

    /// Objects whose last update was not understood.
    pub(super) fn failed(&self) -> Vec<FailedObject> {
        self.failed.values().cloned().collect()
    }

    /// The cluster's ranges, from the hello.
    pub(super) fn set_network(&mut self, network: ClusterNetwork) {
        if self.network.as_ref() != Some(&network) {
            self.network = Some(network);
            self.work_dirty = true;
            self.shown = false;
        }
    }

    /// Takes one update. Those of a generation that is there already are left out.
    ///
    /// One that is not understood is no wish to be rid of its object: what was accepted of it before stays, in a
    /// snapshot as well.
    pub(super) fn apply(&mut self, update: pb::Update) -> Result<(), ConvertError> {
        let (identity, generation) = (Identity::of(&update), update.generation);
        let change = match convert::change(update) {
            Ok(change) => change,
            Err(error) => {
                if let Some(identity) = identity {
                    self.not_understood(&identity, generation, &error);
                }
                return Err(error);
            }
        };
        if let Some(identity) = identity {
            self.failed.remove(&identity.key());
        }
        if let Some(staging) = &mut self.staging {
            change.apply(staging);
            return Ok(());
        }
        if change.generation <= self.current.generation {
            tracing::warn!(
                generation = change.generation,
                have = self.current.generation,
                "stale update ignored"
            );
            return Ok(());
        }
        match change.section {
            Section::Work => self.work_dirty = true,
            Section::Table => self.table_dirty = true,
        }
        self.shown = false;
        let generation = change.generation;
        let current = Arc::make_mut(&mut self.current);
        change.apply(current);
        current.generation = generation;
        Ok(())
    }

    fn not_understood(&mut self, identity: &Identity, generation: u64, error: &ConvertError) {
        if let Some(staging) = &mut self.staging {
            identity.keep(&self.current, staging);
        }
        let failed = FailedObject {
            kind: identity.kind,
            namespace: identity.namespace.to_string(),
            name: identity.name.to_string(),
            generation,
            message: Chain(error).to_string(),
        };
        self.failed.insert(identity.key(), failed);
    }

    /// The snapshot is complete: it replaces everything.
    pub(super) fn end_snapshot(&mut self, generation: u64) {
        if let Some(mut complete) = self.staging.take() {
            complete.generation = generation;
            self.current = Arc::new(complete);
            (self.work_dirty, self.table_dirty, self.shown) = (true, true, false);
        }
    }

    /// Makes what came in durable and shows it.
    pub(super) async fn commit(&mut self) {
        if self.staging.is_some() || self.shown {
            return;
        }
        if self.work_dirty {
            self.work_dirty = !self.store(Section::Work).await;
        }
        self.note_durable();
        self.shown = true;
        self.networks.send_if_modified(|shown| {
            let changed = *shown != self.network;
            shown.clone_from(&self.network);
            changed
        });
        self.desired.send_replace(self.current.clone());
    }

    /// Writes the service table, if it changed.
    pub(super) async fn flush_table(&mut self) {
        if self.table_dirty {
            self.table_dirty = !self.store(Section::Table).await;
            self.note_durable();
        }
    }

    fn note_durable(&mut self) {
        if !self.work_dirty && !self.table_dirty {
            self.durable = self.current.generation;
        }
    }

    /// Whether the section is durable now. A disk that refuses must not keep pods from starting: it is said
    /// loudly, and tried again with the next change.
    async fn store(&self, section: Section) -> bool {
        let (ledger, desired, network) = (self.ledger.clone(), self.current.clone(), self.network.clone());
        let written = tokio::task::spawn_blocking(move || {
            let network = network.filter(|_| section == Section::Work);
            let header = Header { epoch: desired.epoch, generation: desired.generation, network };
            let mut draft = Draft::new();
            frame(&header, draft.content());
            convert::encode(&desired, section, draft.content());
            ledger.store(section, draft)
        });
        match written.await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(error = %Chain(&error), "ledger not written");
                false
            }
            Err(_) => false,
        }
    }
}

fn frame(header: &Header, out: &mut Vec<u8>) {
    // Plain numbers and addresses: always serialise.
    let header = serde_json::to_vec(header).unwrap_or_default();
    let length = u32::try_from(header.len()).unwrap_or(0);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&header);
}

/// Reads a section into `desired`, all of it or nothing: half of the pods would look like a wish to be rid of the
/// others. The scheduler sends a snapshot then.
fn section(ledger: &Ledger, section: Section, desired: &mut Desired) -> Result<Option<Header>, LedgerError> {
    let Some(content) = ledger.load(section)? else { return Ok(None) };
    let mut scratch = desired.clone();
    match parse(content.into(), &mut scratch) {
        Ok(header) => {
            *desired = scratch;
            Ok(Some(header))
        }
        Err(error) => {
            tracing::error!(?section, error = %Chain(&error), "ledger not understood");
            Ok(None)
        }
    }
}

fn parse(mut content: Bytes, desired: &mut Desired) -> Result<Header, ConvertError> {
    let length = content.split_off_checked(4).ok_or(ConvertError::Ledger)?;
    let mut rest = length;
    let size: [u8; 4] = content.as_ref().try_into().map_err(|_| ConvertError::Ledger)?;
    let size = usize::try_from(u32::from_le_bytes(size)).map_err(|_| ConvertError::Ledger)?;
    let objects = rest.split_off_checked(size).ok_or(ConvertError::Ledger)?;
    let header = serde_json::from_slice(&rest).map_err(|_| ConvertError::Ledger)?;
    convert::decode(objects, desired)?;
    Ok(header)
}

/// `Bytes::split_off` without its panic.
trait SplitChecked: Sized {
    fn split_off_checked(&mut self, at: usize) -> Option<Self>;
}

impl SplitChecked for Bytes {
    fn split_off_checked(&mut self, at: usize) -> Option<Self> {
        (at <= self.len()).then(|| self.split_off(at))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(generation: u64, name: &str) -> pb::Update {
        let json = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"containers": []}});
        pb::Update {
            generation,
            kind: pb::ObjectKind::Pod.into(),
            namespace: "d".into(),
            name: name.into(),
            uid: format!("uid-{name}"),
            body: Some(pb::update::Body::Json(json.to_string().into())),
            ..pb::Update::default()
        }
    }

    fn service(generation: u64, name: &str) -> pb::Update {
        let port = pb::ServicePort {
            port: 80,
            protocol: pb::Protocol::Udp.into(),
            endpoints: vec![pb::Endpoint {
                address: "10.1.0.2".into(),
                port: 8080,
                ready: true,
                node: "n".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let body = pb::Service {
            r#type: "LoadBalancer".into(),
            cluster_ips: vec!["10.0.0.1".into()],
            load_balancer_ips: vec!["192.0.2.1".into(), "192.0.2.2".into()],
            announcers: vec![String::new(), "n".into()],
            affinity_seconds: 9,
            source_ranges: vec!["10.0.0.0/8".into()],
            health_check_node_port: 30_100,
            ports: vec![port],
            ..Default::default()
        };
        pb::Update {
            generation,
            kind: pb::ObjectKind::Service.into(),
            namespace: "d".into(),
            name: name.into(),
            body: Some(pb::update::Body::Service(body)),
            ..pb::Update::default()
        }
    }

    fn network() -> ClusterNetwork {
        ClusterNetwork {
            domain: "cluster.local".into(),
            service_cidr: "10.0.0.0/16".parse().unwrap(),
            pod_cidr: "10.1.0.0/16".parse().unwrap(),
            node_pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
            dns_ip: "10.0.0.10".parse().unwrap(),
            node_ports: (30000, 32767),
        }
    }

    fn load(dir: &std::path::Path) -> State {
        State::load(Arc::new(Ledger::open(dir).unwrap())).unwrap()
    }

    #[tokio::test]
    async fn a_restart_finds_what_was_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = load(dir.path());
        let desired = state.desired();
        state.begin(7, true);
        state.set_network(network());
        state.apply(pod(3, "a")).unwrap();
        state.apply(service(5, "s")).unwrap();
        state.commit().await;
        assert!(desired.borrow().pods.is_empty(), "half a snapshot is not shown");
        state.end_snapshot(9);
        state.commit().await;
        assert_eq!((desired.borrow().generation, state.durable()), (9, 0));
        state.flush_table().await;
        assert_eq!(state.durable(), 9);

        state.apply(pod(12, "b")).unwrap();
        state.commit().await;
        let before = desired.borrow().clone();
        let again = load(dir.path());
        // The table was last written at 9: the session goes on from there.
        assert_eq!((again.epoch(), again.generation()), (7, 9));
        assert_eq!(*again.networks().borrow(), Some(network()));
        let after = again.desired().borrow().clone();
        assert_eq!(before.pods.keys().collect::<Vec<_>>(), after.pods.keys().collect::<Vec<_>>());
        assert_eq!(before.services, after.services);
        let spec = after.services.values().next().unwrap();
        assert_eq!(spec.load_balancer_ips[1].1, Some("n".into()));
        assert_eq!(spec.ports[0].endpoints[0].address, "10.1.0.2:8080".parse().unwrap());
    }

    #[tokio::test]
    async fn stale_updates_are_left_out_and_a_new_snapshot_replaces_all() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = load(dir.path());
        state.begin(1, true);
        state.apply(pod(3, "a")).unwrap();
        state.end_snapshot(5);
        state.apply(pod(5, "late")).unwrap();
        state.commit().await;
        assert_eq!(state.desired().borrow().pods.len(), 1);
        state.apply(pb::Update { removed: true, body: None, ..pod(6, "a") }).unwrap();
        state.commit().await;
        assert!(state.desired().borrow().pods.is_empty());
        state.begin(2, true);
        state.apply(pod(1, "c")).unwrap();
        state.end_snapshot(1);
        state.commit().await;
        let desired = state.desired().borrow().clone();
        assert_eq!((desired.epoch, desired.generation), (2, 1));
        assert_eq!(desired.pods.keys().map(crate::model::PodUid::as_str).collect::<Vec<_>>(), ["uid-c"]);
    }

    fn broken(update: pb::Update) -> pb::Update {
        let body = Some(pb::update::Body::Json(json!({"spec": {"containers": "none"}}).to_string().into()));
        pb::Update { body, ..update }
    }

    #[tokio::test]
    async fn what_is_not_understood_is_not_unwanted() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = load(dir.path());
        state.begin(1, true);
        state.apply(pod(1, "a")).unwrap();
        state.apply(pod(2, "b")).unwrap();
        state.end_snapshot(2);
        state.commit().await;
        // In an update, by uid; in a snapshot, where the uid may be missing.
        state.apply(broken(pod(3, "a"))).unwrap_err();
        state.commit().await;
        assert_eq!((state.generation(), state.failed().len()), (2, 1));
        state.begin(2, true);
        state.apply(broken(pod(1, "a"))).unwrap_err();
        state.apply(broken(pb::Update { uid: String::new(), ..pod(2, "b") })).unwrap_err();
        state.apply(broken(pod(3, "new"))).unwrap_err();
        state.end_snapshot(3);
        state.commit().await;
        let names = |state: &State| {
            let desired = state.desired().borrow().clone();
            desired.pods.keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(&state), ["uid-a", "uid-b"]);
        let failed = state.failed();
        let told: Vec<_> = failed.iter().map(|f| (f.name.as_str(), f.generation)).collect();
        assert_eq!(told, [("a", 1), ("b", 2), ("new", 3)]);
        assert!(failed[0].message.starts_with("Pod d/a does not decode: "), "{}", failed[0].message);
        // Understood again, it is as any other.
        state.apply(pb::Update { removed: true, body: None, ..pod(4, "a") }).unwrap();
        state.commit().await;
        assert_eq!((names(&state), state.failed().len()), (vec!["uid-b".to_owned()], 2));
    }

    #[tokio::test]
    async fn a_ledger_that_is_not_understood_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let mut draft = Draft::new();
        frame(&Header { epoch: 3, generation: 9, network: None }, draft.content());
        for update in [pod(1, "a"), broken(pod(2, "b"))] {
            prost::Message::encode_length_delimited(&update, draft.content()).unwrap();
        }
        ledger.store(Section::Work, draft).unwrap();
        let state = load(dir.path());
        assert_eq!((state.epoch(), state.generation()), (0, 0));
        assert!(state.desired().borrow().pods.is_empty(), "half of the pods would be taken for all of them");
    }

    #[test]
    fn a_secret_that_does_not_decode_is_not_quoted() {
        let update = pb::Update {
            kind: pb::ObjectKind::Secret.into(),
            generation: 1,
            body: Some(pb::update::Body::Json(json!({"data": "hunter2"}).to_string().into())),
            ..Default::default()
        };
        let error = convert::change(update).err().unwrap();
        assert!(!Chain(&error).to_string().contains("hunter2"));
    }
}
