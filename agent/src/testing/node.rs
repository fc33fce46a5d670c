//! Network, datapath, cgroups and volumes of the fake node.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::FakeNode;
use crate::{
    cgroup::{CgroupError, Cgroups, Enforcement, Qos, Usage},
    dataplane::{Dataplane, DataplaneError, Programmed},
    model::{ContainerName, Limits, NetworkStatus, NodeName, PodAddresses, PodUid, ServiceTable},
    net::{NetError, Network, NodeNetwork, NodeWants, Part, PodNetwork},
    volumes::{PodFile, PodFiles, SubPath, VolumeError, VolumeSpec, Volumes},
};

fn network_failure(text: String) -> NetError {
    NetError::Namespace { operation: "create", path: "/fake".into(), source: broken(text) }
}

fn broken(text: String) -> io::Error {
    io::Error::other(text)
}

#[async_trait]
impl Network for FakeNode {
    async fn settle(&self, wants: &NodeWants, thorough: bool) -> Result<NodeNetwork, NetError> {
        let mut state = self.state();
        if thorough {
            state.log.push("thorough".to_owned());
        }
        if let Some(text) = state.scripted("settle") {
            return Err(network_failure(text));
        }
        let has = state.node_network.clone();
        let mut found = NodeNetwork {
            uplink: state.uplink.clone(),
            addresses: state.addresses.clone(),
            ..NodeNetwork::default()
        };
        let mut part = |part, operation: &'static str, news: bool, line: String| {
            if let Some(text) = state.scripted(operation) {
                state.log.push(format!("{operation} failed"));
                found.failures.push((part, network_failure(text)));
                return false;
            }
            if news {
                state.log.push(line);
                found.changed += 1;
            }
            news
        };
        let mut now = has.clone();
        if let Some(cluster) = &wants.cluster
            && part(
                Part::Ranges,
                "ranges",
                has.cluster != wants.cluster,
                format!("ranges {}", cluster.pod_cidr),
            )
        {
            now.cluster.clone_from(&wants.cluster);
        }
        if let Some(peers) = &wants.peers
            && part(Part::Peers, "peers", has.peers != wants.peers, format!("peers {}", peers.len()))
        {
            now.peers.clone_from(&wants.peers);
        }
        if let Some(announced) = &wants.announced
            && part(
                Part::Announced,
                "announce",
                has.announced != wants.announced,
                format!("announce {announced:?}"),
            )
        {
            now.announced.clone_from(&wants.announced);
        }
        state.node_network = now;
        Ok(found)
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.network_changed.subscribe()
    }

    async fn list(&self) -> Result<BTreeMap<PodUid, NetworkStatus>, NetError> {
        Ok(self.state().networks.clone())
    }

    async fn ensure_pod(&self, pod: &PodNetwork) -> Result<NetworkStatus, NetError> {
        let mut state = self.state();
        state.log.push(format!("network {}", pod.uid));
        let path = |kind: &str| PathBuf::from(format!("/fake/{}/{kind}", pod.uid));
        if let Some(text) = state.scripted("network") {
            return Err(NetError::Namespace { operation: "create", path: path("net"), source: broken(text) });
        }
        if let Some(known) = state.networks.get(&pod.uid) {
            return Ok(known.clone());
        }
        let addresses =
            if pod.host_network { None } else { Some(PodAddresses { v4: state.address(), host_ifindex: 1 }) };
        let (netns, ipcns, utsns) = (path("net"), path("ipc"), path("uts"));
        let status = NetworkStatus { netns, ipcns, utsns, addresses };
        state.networks.insert(pod.uid.clone(), status.clone());
        Ok(status)
    }

    async fn remove_pod(&self, pod: &PodUid) -> Result<(), NetError> {
        let mut state = self.state();
        state.log.push(format!("remove network {pod}"));
        if let Some(text) = state.scripted("remove network") {
            return Err(NetError::Namespace {
                operation: "remove",
                path: "/fake".into(),
                source: broken(text),
            });
        }
        state.networks.remove(pod);
        Ok(())
    }
}

impl Dataplane for FakeNode {
    fn publish(
        &self,
        services: &ServiceTable,
        node: &NodeName,
        node_addresses: &[IpAddr],
    ) -> Result<Programmed, DataplaneError> {
        let mut state = self.state();
        state.log.push(format!("publish {}", services.len()));
        state.published_at = node_addresses.to_vec();
        let failed: Vec<_> =
            services.keys().filter(|id| state.unprogrammable.contains(id)).cloned().collect();
        if !failed.is_empty() {
            let others = services.iter().filter(|(id, _)| !failed.contains(id));
            let others = others.map(|(id, service)| (id.clone(), service.clone())).collect();
            self.datapath.publish(&others, node, node_addresses)?;
            let full = DataplaneError::Full { map: "FRONTENDS", capacity: 1, option: "frontends" };
            let failed = failed.into_iter().map(|id| (id, full.to_string())).collect();
            return Err(DataplaneError::Services { failed, first: Box::new(full) });
        }
        match state.scripted("publish") {
            Some(text) => Err(DataplaneError::Kernel {
                operation: "update",
                subject: "services".into(),
                source: text.into(),
            }),
            None => self.datapath.publish(services, node, node_addresses),
        }
    }

    fn set_uplink(&self, interface: Option<&str>) -> Result<(), DataplaneError> {
        let mut state = self.state();
        state.log.push(format!("uplink {interface:?}"));
        match state.scripted("uplink") {
            Some(text) => Err(DataplaneError::Kernel {
                operation: "attach",
                subject: "uplink".into(),
                source: text.into(),
            }),
            None => Ok(()),
        }
    }

    fn attach_pod(
        &self,
        uid: &PodUid,
        _netns: &Path,
        _addresses: &PodAddresses,
    ) -> Result<(), DataplaneError> {
        let mut state = self.state();
        if let Some(text) = state.scripted("attach") {
            return Err(DataplaneError::Kernel {
                operation: "attach",
                subject: uid.to_string(),
                source: text.into(),
            });
        }
        state.attached.insert(uid.clone());
        Ok(())
    }

    fn detach_pod(&self, uid: &PodUid) -> Result<(), DataplaneError> {
        self.state().attached.remove(uid);
        Ok(())
    }
}

impl Cgroups for FakeNode {
    fn enforcement(&self) -> Enforcement {
        Enforcement::Enforced
    }

    fn ensure_pod(&self, pod: &PodUid, _qos: Qos, _limits: &Limits) -> Result<(), CgroupError> {
        let mut state = self.state();
        state.log.push(format!("cgroup {pod}"));
        match state.scripted("cgroup") {
            Some(text) => {
                Err(CgroupError::Path { operation: "create", path: "/fake".into(), source: broken(text) })
            }
            None => {
                state.cgroups.insert(pod.clone());
                Ok(())
            }
        }
    }

    fn container_path(&self, pod: &PodUid, _qos: Qos, container: &str) -> String {
        format!("/fake/{pod}/{container}")
    }

    fn remove_pod(&self, pod: &PodUid) -> Result<(), CgroupError> {
        let mut state = self.state();
        state.cgroups.remove(pod);
        state.cgroup_removed_by = Some(std::thread::current().id());
        Ok(())
    }

    fn list_pods(&self) -> Result<Vec<PodUid>, CgroupError> {
        Ok(self.state().cgroups.iter().cloned().collect())
    }

    fn container_usage(&self, _pod: &PodUid, _container: &str) -> Result<Option<Usage>, CgroupError> {
        Ok(None)
    }

    fn node_usage(&self) -> Result<Usage, CgroupError> {
        Ok(Usage::default())
    }
}

#[async_trait]
impl Volumes for FakeNode {
    async fn ensure(&self, pod: &PodUid, volume: &VolumeSpec) -> Result<(), VolumeError> {
        let mut state = self.state();
        state.log.push(format!("volume {pod} {}", volume.name));
        if let Some(text) = state.scripted("volume") {
            return Err(VolumeError::Io { operation: "create", path: "/fake".into(), source: broken(text) });
        }
        state.volumes.entry(pod.clone()).or_default().insert(volume.name.clone(), volume.digest);
        Ok(())
    }

    async fn ensure_sub_path(&self, _pod: &PodUid, _sub_path: &SubPath) -> Result<(), VolumeError> {
        Ok(())
    }

    async fn write_files(&self, pod: &PodUid, _files: &[PodFile]) -> Result<(), VolumeError> {
        self.state().volumes.entry(pod.clone()).or_default();
        Ok(())
    }

    async fn termination_log(
        &self,
        _pod: &PodUid,
        _container: &ContainerName,
        _attempt: u32,
    ) -> Result<(), VolumeError> {
        Ok(())
    }

    async fn termination_message(
        &self,
        _pod: &PodUid,
        _container: &ContainerName,
        _attempt: u32,
    ) -> Option<String> {
        None
    }

    async fn forget_termination_log(&self, _pod: &PodUid, _container: &ContainerName, _attempt: u32) {}

    async fn ensure_shared_memory(&self, pod: &PodUid) -> Result<(), VolumeError> {
        self.state().volumes.entry(pod.clone()).or_default();
        Ok(())
    }

    async fn release(&self, pod: &PodUid) -> Result<(), VolumeError> {
        let mut state = self.state();
        state.log.push(format!("release volumes {pod}"));
        state.released.insert(pod.clone());
        Ok(())
    }

    async fn remove(&self, pod: &PodUid) -> Result<(), VolumeError> {
        let mut state = self.state();
        state.released.remove(pod);
        state.volumes.remove(pod);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<PodFiles>, VolumeError> {
        let state = self.state();
        let files = |pod: &PodUid| PodFiles { pod: pod.clone(), volumes: !state.released.contains(pod) };
        Ok(state.volumes.keys().map(files).collect())
    }
}
