//! Names by address: service addresses, and endpoints below their services.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::zone::host_label;
use crate::model::{ServiceId, ServiceTable};

/// An index of a whole table.
#[derive(Debug, Default)]
pub(super) struct Reverse {
    services: HashMap<IpAddr, ServiceId>,
    endpoints: HashMap<IpAddr, BTreeSet<(String, ServiceId)>>,
}

impl Reverse {
    pub(super) fn of(table: &ServiceTable) -> Self {
        let mut reverse = Self::default();
        for (id, spec) in table {
            for address in &spec.cluster_ips {
                reverse.services.insert(*address, id.clone());
            }
            for endpoint in spec.ports.iter().flat_map(|port| &port.endpoints) {
                let named = (host_label(endpoint), id.clone());
                reverse.endpoints.entry(endpoint.address.ip()).or_default().insert(named);
            }
        }
        reverse
    }

    /// Whether it is a service's own address.
    pub(super) fn is_service(&self, address: IpAddr) -> bool {
        self.services.contains_key(&address)
    }

    /// Labels below the cluster's domain of every name that the address has.
    pub(super) fn names(&self, address: IpAddr) -> Vec<Vec<Arc<str>>> {
        let below = |id: &ServiceId| [id.name.clone(), id.namespace.clone(), "svc".into()];
        if let Some(id) = self.services.get(&address) {
            return vec![below(id).to_vec()];
        }
        let endpoints = self.endpoints.get(&address).into_iter().flatten();
        endpoints
            .map(|(host, id)| [Arc::from(host.as_str())].into_iter().chain(below(id)).collect())
            .collect()
    }
}
