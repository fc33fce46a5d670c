//! Addresses for services of type LoadBalancer, from the configured pool. Which node answers for an address is
//! decided where the nodes' view of services is made, and follows the nodes' health there.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc, time::Duration};

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service};

use super::runner::{Controller, Next, Queue, Runtime};
use crate::{
    cache::{Cache, Client, Id, MetaExt, WriteError},
    events::{Note, Recorder},
    objects::Objects,
};

const COMPONENT: &str = "service-controller";
/// How often a service without an address asks again: another one may have given its address up.
const AGAIN: Duration = Duration::from_secs(10);

struct Balancers {
    cache: Cache,
    client: Client,
    recorder: Recorder,
    pool: Vec<Ipv4Net>,
}

/// Starts the controller.
pub(super) fn start(
    objects: &Objects,
    cache: &Cache,
    recorder: &Recorder,
    runtime: &Runtime,
    pool: Vec<Ipv4Net>,
) {
    let queue: Arc<Queue<Id>> = runtime.queue(Balancers::NAME);
    let (of_services, ranges) = (queue.clone(), pool.clone());
    cache.services.on_change(move |change| {
        let due = |s: &Service| (wants(s) && !has_any(s)) || kept_ours(s, &ranges);
        if let Some(service) = change.new.filter(|s| due(s)) {
            of_services.add(Id::of(&service.metadata));
        }
    });
    let client = Client::new(objects, cache, COMPONENT);
    runtime.spawn(Balancers { cache: cache.clone(), client, recorder: recorder.clone(), pool }, &queue);
}

/// Whether the service has our address and no right to it any more. What others have put into its status is theirs.
fn kept_ours(service: &Service, pool: &[Ipv4Net]) -> bool {
    let ours = |address: &Ipv4Addr| pool.iter().any(|net| net.contains(address));
    !wants(service) && addresses(service).is_some_and(|all| all.iter().any(ours))
}

/// Whether the service is to be given an address by us.
fn wants(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer") && s.load_balancer_class.is_none())
        && !service.metadata.deleting()
}

/// Whether somebody has given it an address or a name.
fn has_any(service: &Service) -> bool {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_ref()).is_some_and(|ingress| !ingress.is_empty())
}

fn addresses(service: &Service) -> Option<Vec<Ipv4Addr>> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_deref()?;
    let all: Vec<_> = ingress.iter().filter_map(|i| i.ip.as_deref()?.parse().ok()).collect();
    (!all.is_empty()).then_some(all)
}

/// Why a service gets no address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum NoAddress {
    #[error("no load balancer pool is configured (cluster.load_balancer_pool of the scheduler)")]
    NoPool,
    #[error("every address of the load balancer pool is taken")]
    Exhausted,
    #[error(
        "address {0} is not in the load balancer pool ({1}, cluster.load_balancer_pool of the scheduler)"
    )]
    NotInPool(Ipv4Addr, String),
    #[error("address {0} is taken by another service")]
    Taken(Ipv4Addr),
    #[error("spec.loadBalancerIP {0:?} is not an IPv4 address")]
    NotAnAddress(String),
}

fn choose(pool: &[Ipv4Net], asked: Option<&str>, used: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, NoAddress> {
    if pool.is_empty() {
        return Err(NoAddress::NoPool);
    }
    if let Some(asked) = asked.filter(|a| !a.is_empty()) {
        let address = asked.parse().map_err(|_| NoAddress::NotAnAddress(asked.to_owned()))?;
        if !pool.iter().any(|net| net.contains(&address)) {
            let ranges: Vec<String> = pool.iter().map(ToString::to_string).collect();
            return Err(NoAddress::NotInPool(address, ranges.join(", ")));
        }
        return if used.contains(&address) { Err(NoAddress::Taken(address)) } else { Ok(address) };
    }
    let mut all = pool.iter().flat_map(Ipv4Net::hosts);
    all.find(|a| !used.contains(a)).ok_or(NoAddress::Exhausted)
}

impl Controller for Balancers {
    type Key = Id;
    const NAME: &'static str = "service_load_balancer";
    // One at a time: two services must not be given the same address.
    const WORKERS: usize = 1;

    async fn reconcile(&self, key: &Id) -> Result<Next, WriteError> {
        let Some(service) = self.cache.services.get(key) else { return Ok(Next::Done) };
        if service.metadata.deleting() {
            return Ok(Next::Done);
        }
        if kept_ours(&service, &self.pool) {
            self.set(&service, None).await?;
            return Ok(Next::Done);
        }
        if !wants(&service) || has_any(&service) {
            return Ok(Next::Done);
        }
        let used = self.cache.services.all().iter().filter_map(|s| addresses(s)).flatten().collect();
        let asked = service.spec.as_ref().and_then(|s| s.load_balancer_ip.as_deref());
        match choose(&self.pool, asked, &used) {
            Ok(address) => {
                self.set(&service, Some(address)).await?;
                let note = Note::normal("EnsuredLoadBalancer", "Ensured load balancer");
                self.recorder.note(&*service, COMPONENT, &note);
                Ok(Next::Done)
            }
            Err(why) => {
                let message = format!("Error syncing load balancer: {why}");
                let note = Note::warning("SyncLoadBalancerFailed", message);
                self.recorder.note(&*service, COMPONENT, &note);
                Ok(Next::After(AGAIN))
            }
        }
    }

    fn all(&self) -> Vec<Id> {
        self.cache.services.all().iter().map(|s| Id::of(&s.metadata)).collect()
    }
}

impl Balancers {
    async fn set(&self, service: &Service, address: Option<Ipv4Addr>) -> Result<(), WriteError> {
        let mut changed = service.clone();
        let ingress = address.map(|ip| {
            vec![LoadBalancerIngress {
                ip: Some(ip.to_string()),
                ip_mode: Some("VIP".to_owned()),
                ..LoadBalancerIngress::default()
            }]
        });
        changed.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus { ingress });
        match self.client.update_status(&changed).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_pool_once() {
        let pool = vec!["192.0.2.8/30".parse().unwrap()];
        let mut used = BTreeSet::new();
        let (a, b): (Ipv4Addr, Ipv4Addr) = ("192.0.2.9".parse().unwrap(), "192.0.2.10".parse().unwrap());
        assert_eq!(choose(&pool, Some("192.0.2.10"), &used), Ok(b));
        used.insert(b);
        assert_eq!(choose(&pool, None, &used), Ok(a));
        assert_eq!(choose(&pool, Some("192.0.2.10"), &used), Err(NoAddress::Taken(b)));
        used.insert(a);
        assert_eq!(choose(&pool, None, &used), Err(NoAddress::Exhausted));
        assert_eq!(choose(&[], None, &used), Err(NoAddress::NoPool));
        assert!(matches!(choose(&pool, Some("10.0.0.1"), &used), Err(NoAddress::NotInPool(..))));
    }
}
