//! Which pods have a network of their own, and under which address: written by whoever makes and removes networks,
//! followed by whoever programs ports of the node.

use std::{collections::BTreeMap, net::Ipv4Addr};

use tokio::sync::watch;

use crate::model::{NetworkStatus, PodUid};

type Addresses = BTreeMap<PodUid, Ipv4Addr>;

/// Addresses by pod. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Wires(watch::Sender<Addresses>);

impl Default for Wires {
    fn default() -> Self {
        Self(watch::Sender::new(Addresses::new()))
    }
}

impl Wires {
    /// What an earlier agent left; what this one has made since counts more.
    pub fn found(&self, networks: &BTreeMap<PodUid, NetworkStatus>) {
        for (pod, network) in networks {
            self.change(|known| {
                let new = network.addresses.as_ref().filter(|_| !known.contains_key(pod));
                new.is_some_and(|new| known.insert(pod.clone(), new.v4).is_none())
            });
        }
    }

    pub(super) fn made(&self, pod: &PodUid, network: &NetworkStatus) {
        if let Some(addresses) = &network.addresses {
            self.change(|known| known.insert(pod.clone(), addresses.v4) != Some(addresses.v4));
        }
    }

    pub(super) fn removed(&self, pod: &PodUid) {
        self.change(|known| known.remove(pod).is_some());
    }

    /// Follows it.
    pub fn follow(&self) -> watch::Receiver<Addresses> {
        self.0.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Addresses) -> bool) {
        self.0.send_if_modified(change);
    }
}
