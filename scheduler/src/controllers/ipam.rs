//! Pod ranges: every node gets one of its own, cut from the cluster's.

use std::{collections::HashSet, net::Ipv4Addr, sync::Arc};

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::runner::{Controller, Next, Queue, Runtime};
use crate::{
    cache::{Cache, Client, Id, MetaExt, WriteError},
    events::{Note, Recorder},
    objects::Objects,
};

const COMPONENT: &str = "cidr-allocator";

struct NodeRanges {
    cache: Cache,
    client: Client,
    recorder: Recorder,
    cluster: Ipv4Net,
    prefix: u8,
}

/// Starts the controller: ranges of `prefix` bits from `cluster`.
pub(super) fn start(
    objects: &Objects,
    cache: &Cache,
    recorder: &Recorder,
    runtime: &Runtime,
    cluster: Ipv4Net,
    prefix: u8,
) {
    let queue: Arc<Queue<Id>> = runtime.queue(NodeRanges::NAME);
    let of_nodes = queue.clone();
    cache.nodes.on_change(move |change| {
        if let Some(node) = change.new.filter(|n| range(n).is_none()) {
            of_nodes.add(Id::of(&node.metadata));
        }
    });
    let client = Client::new(objects, cache, COMPONENT);
    let ranges = NodeRanges { cache: cache.clone(), client, recorder: recorder.clone(), cluster, prefix };
    runtime.spawn(ranges, &queue);
}

fn range(node: &Node) -> Option<Ipv4Net> {
    node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok()
}

/// The first range of `prefix` bits in `cluster` that overlaps none of `used`.
fn first_free(cluster: Ipv4Net, prefix: u8, used: &[Ipv4Net]) -> Option<Ipv4Net> {
    let exact: HashSet<Ipv4Addr> =
        used.iter().filter(|n| n.prefix_len() == prefix).map(Ipv4Net::network).collect();
    let others: Vec<&Ipv4Net> = used.iter().filter(|n| n.prefix_len() != prefix).collect();
    let overlaps = |a: &Ipv4Net, b: &Ipv4Net| a.contains(&b.network()) || b.contains(&a.network());
    let mut subnets = cluster.subnets(prefix).ok()?;
    subnets.find(|net| !exact.contains(&net.network()) && !others.iter().any(|other| overlaps(other, net)))
}

impl Controller for NodeRanges {
    type Key = Id;
    const NAME: &'static str = "node_ipam";
    // One at a time: two nodes must not be given the same range.
    const WORKERS: usize = 1;

    async fn reconcile(&self, key: &Id) -> Result<Next, WriteError> {
        let Some(node) = self.cache.nodes.get(key) else { return Ok(Next::Done) };
        if range(&node).is_some() || node.metadata.deleting() {
            return Ok(Next::Done);
        }
        let used: Vec<Ipv4Net> = self.cache.nodes.all().iter().filter_map(|n| range(n)).collect();
        let Some(free) = first_free(self.cluster, self.prefix, &used) else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.note(&*node, COMPONENT, &Note::warning("CIDRNotAvailable", message));
            // A node that leaves frees its range.
            return Ok(Next::After(std::time::Duration::from_secs(30)));
        };
        let patch = json!({"spec": {"podCIDR": free, "podCIDRs": [free]}});
        match self.client.merge::<Node>(key, None, patch).await {
            Err(error) if error.is_not_found() => {}
            other => {
                other?;
            }
        }
        Ok(Next::Done)
    }

    fn all(&self) -> Vec<Id> {
        self.cache.nodes.all().iter().map(|n| Id::of(&n.metadata)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_cut_in_order_and_do_not_overlap() {
        let cluster = net("10.244.0.0/22");
        let mut used = Vec::new();
        for wanted in ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"] {
            let free = first_free(cluster, 24, &used).unwrap();
            assert_eq!(free, net(wanted));
            used.push(free);
        }
        assert_eq!(first_free(cluster, 24, &used), None);
        assert_eq!(first_free(cluster, 24, &used[1..]), Some(net("10.244.0.0/24")));
        // After a change of the prefix length, old ranges of another length still count.
        assert_eq!(first_free(cluster, 24, &[net("10.244.0.0/23")]), Some(net("10.244.2.0/24")));
        assert_eq!(first_free(cluster, 25, &used[..1]), Some(net("10.244.1.0/25")));
    }
}
