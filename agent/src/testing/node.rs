//! Network, datapath, cgroups and volumes of the fake node.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use async_trait::async_trait;

use super::FakeNode;
use crate::{
    cgroup::{CgroupError, Cgroups, Enforcement, Qos, Usage},
    dataplane::{Dataplane, DataplaneError, Programmed},
    model::{
        ClusterNetwork, ContainerName, Limits, NetworkStatus, NodeName, PeerNode, PodAddresses, PodUid,
        ServiceTable,
    },
    net::{NetError, Network, PodNetwork},
    volumes::{PodFile, PodFiles, SubPath, VolumeError, VolumeSpec, Volumes},
};

fn broken(text: String) -> io::Error {
    io::Error::other(text)
}

#[async_trait]
impl Network for FakeNode {
    async fn configure(&self, _cluster: &ClusterNetwork) -> Result<(), NetError> {
        Ok(())
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

    async fn set_peers(&self, peers: &BTreeMap<NodeName, PeerNode>) -> Result<(), NetError> {
        let mut state = self.state();
        state.log.push(format!("peers {}", peers.len()));
        match state.scripted("peers") {
            Some(text) => {
                Err(NetError::Namespace { operation: "create", path: "/fake".into(), source: broken(text) })
            }
            None => Ok(()),
        }
    }

    async fn set_announced(&self, addresses: &[IpAddr]) -> Result<(), NetError> {
        self.state().log.push(format!("announce {addresses:?}"));
        Ok(())
    }

    async fn uplink_interface(&self) -> Result<Option<String>, NetError> {
        Ok(Some("up0".to_owned()))
    }

    async fn node_addresses(&self) -> Result<Vec<IpAddr>, NetError> {
        Ok(vec![Ipv4Addr::new(192, 0, 2, 1).into()])
    }
}

impl Dataplane for FakeNode {
    fn publish(
        &self,
        services: &ServiceTable,
        _node: &NodeName,
        _node_addresses: &[IpAddr],
    ) -> Result<Programmed, DataplaneError> {
        let mut state = self.state();
        state.log.push(format!("publish {}", services.len()));
        let failed: Vec<_> =
            services.keys().filter(|id| state.unprogrammable.contains(id)).cloned().collect();
        if !failed.is_empty() {
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
            None => Ok(Programmed { changed: services.len(), removed: 0, kept: 0 }),
        }
    }

    fn set_uplink(&self, interface: Option<&str>) -> Result<(), DataplaneError> {
        self.state().log.push(format!("uplink {interface:?}"));
        Ok(())
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
        self.state().cgroups.remove(pod);
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
