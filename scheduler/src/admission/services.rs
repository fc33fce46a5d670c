//! Services get a ClusterIP and node ports, and keep them through updates that do not name them. With the address comes
//! the IPAddress that says whose it is, and with the service it goes, in the same commit.

mod beside;
mod ranges;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::Ipv4Addr,
    ops::RangeInclusive,
    sync::Arc,
};

use async_trait::async_trait;
use ipnet::Ipv4Net;
use rand::Rng;
use serde_json::Value;

use self::ranges::Ranges;
use super::allocator::{Allocator, Claim, Promises};
use crate::{
    cache::{Cache, Id},
    kinds::service::{families, rules},
    model::{ApiError, Cause, Reason, Resource},
    objects::{
        Objects,
        admission::{Admission, Batch, Checked, Operation, Request, Undo},
    },
};

/// What is configured of the addresses and ports of services.
#[derive(Clone, Debug)]
pub struct ServiceRanges {
    /// The first range of ClusterIPs. Which there are, the ServiceCIDRs say.
    pub addresses: Ipv4Net,
    /// Node ports.
    pub ports: RangeInclusive<u16>,
    /// The address that pods ask for names: only the service `kube-system/kube-dns` may have it.
    pub dns: Ipv4Addr,
}

impl ServiceRanges {
    /// The address of the service `default/kubernetes`: the first of the range.
    pub fn api(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.addresses.network()).saturating_add(1))
    }

    /// Whether `address` is another service's than `id` by decree.
    fn reserves(&self, address: Ipv4Addr, id: &Id) -> bool {
        let (namespace, name) = (&*id.namespace, &*id.name);
        (address == self.dns && (namespace, name) != ("kube-system", "kube-dns"))
            || (address == self.api() && (namespace, name) != ("default", "kubernetes"))
    }
}

/// The plugin.
pub struct ServiceAddresses {
    ranges: ServiceRanges,
    allocator: Arc<Allocator>,
    given: Ranges,
    cache: Cache,
}

impl ServiceAddresses {
    /// Follows the services of `cache`, which must not be started before this.
    pub fn new(ranges: ServiceRanges, cache: &Cache) -> Self {
        let allocator = Arc::new(Allocator::default());
        let follower = allocator.clone();
        cache.services.on_change(move |change| {
            follower.changed(change.old.map(|s| &**s), change.new.map(|s| &**s));
        });
        Self { ranges, allocator, given: Ranges::default(), cache: cache.clone() }
    }

    /// What writes were given that are not stored yet.
    pub fn promises(&self) -> Promises {
        Promises::of(self.allocator.clone())
    }
}

#[async_trait]
impl Admission for ServiceAddresses {
    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let touches = request.kind.resource == Resource::SERVICES
            && request.subresource.is_none()
            && request.operation != Operation::Delete;
        if !touches {
            return Ok(());
        }
        self.cache.services.synced().await;
        let mut write = Write {
            ranges: &self.ranges,
            from: &self.given,
            allocator: &self.allocator,
            objects: request.objects,
            id: Id::new(request.namespace.unwrap_or(""), request.name),
            dry_run: request.dry_run,
            given: HashSet::new(),
            undo: &mut *request.undo,
        };
        let Some(spec) = request.object.get_mut("spec").filter(|spec| spec.is_object()) else {
            return Ok(());
        };
        write.allocate(spec, request.old.map(|old| &old["spec"])).await
    }

    async fn validate(&self, write: Checked<'_>, batch: &mut Batch) -> Result<(), ApiError> {
        let touches = write.kind.resource == Resource::SERVICES && write.subresource.is_none();
        if touches && !write.dry_run { beside::follow(write, batch) } else { Ok(()) }
    }
}

struct Write<'a> {
    ranges: &'a ServiceRanges,
    from: &'a Ranges,
    allocator: &'a Arc<Allocator>,
    objects: &'a Objects,
    id: Id,
    dry_run: bool,
    /// What this write has got: a dry run gets the same again from the allocator.
    given: HashSet<Claim>,
    undo: &'a mut Undo,
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

fn node_ports(spec: &Value) -> Vec<i64> {
    let ports = spec["ports"].as_array().into_iter().flatten();
    ports.map(|port| number(&port["nodePort"])).filter(|port| *port != 0).collect()
}

impl Write<'_> {
    /// Gives out what the service is to have and has not yet; `before` on update.
    async fn allocate(&mut self, spec: &mut Value, before: Option<&Value>) -> Result<(), ApiError> {
        families::fill(spec, before).map_err(|causes| self.refusal(causes))?;
        if families::needs_address(spec, before) {
            self.address(spec).await?;
        }
        if rules::has_node_ports(spec) {
            match before {
                None => self.new_ports(spec)?,
                Some(before) => self.changed_ports(spec, before)?,
            }
        }
        if rules::health_checked(spec) && !before.is_some_and(rules::health_checked) {
            self.health_check_port(spec)?;
        }
        Ok(())
    }

    /// Ports of a new service. Ports of one number share a node port: a name server's for TCP and UDP.
    fn new_ports(&mut self, spec: &mut Value) -> Result<(), ApiError> {
        let allocate = rules::wants_node_ports(spec);
        let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return Ok(()) };
        let named: Vec<(i64, i64)> =
            ports.iter().map(|p| (number(&p["port"]), number(&p["nodePort"]))).filter(|p| p.1 != 0).collect();
        let mut given: BTreeMap<i64, i64> = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for (index, port) in ports.iter_mut().enumerate() {
            let (own, wanted) = (number(&port["port"]), number(&port["nodePort"]));
            if wanted == 0 && !allocate {
                continue;
            }
            let node = match given.get(&own) {
                Some(known) if wanted == 0 || wanted == *known => *known,
                Some(_) => self.this_port(index, wanted, &mut taken)?,
                None => match named.iter().find(|(port, _)| *port == own) {
                    Some((_, named)) => self.this_port(index, *named, &mut taken)?,
                    None => self.any_port()?.into(),
                },
            };
            given.entry(own).or_insert(node);
            port["nodePort"] = node.into();
        }
        Ok(())
    }

    /// Ports of a service that was there before. Those that it had stay with it.
    fn changed_ports(&mut self, spec: &mut Value, before: &Value) -> Result<(), ApiError> {
        let allocate = rules::wants_node_ports(spec);
        let (had, mut taken) = (node_ports(before), BTreeSet::new());
        let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return Ok(()) };
        let mut seen = BTreeSet::new();
        for (index, port) in ports.iter_mut().enumerate() {
            let wanted = number(&port["nodePort"]);
            if wanted == 0 && !allocate {
                continue;
            }
            if wanted == 0 {
                port["nodePort"] = self.any_port()?.into();
            } else if !had.contains(&wanted) && !taken.contains(&wanted) {
                self.this_port(index, wanted, &mut taken)?;
            }
            let protocol = port["protocol"].as_str().unwrap_or_default().to_owned();
            if !seen.insert((protocol.clone(), number(&port["nodePort"]))) {
                let message = format!("duplicate nodePort: {{{protocol} {wanted}}}");
                return Err(ApiError::new(Reason::InternalError, message));
            }
        }
        Ok(())
    }

    /// Takes the node port that a client named; `taken` are those that this write has taken already.
    fn this_port(&mut self, index: usize, wanted: i64, taken: &mut BTreeSet<i64>) -> Result<i64, ApiError> {
        match self.port_taken(wanted, taken) {
            Ok(()) => Ok(wanted),
            Err(why) => Err(self
                .invalid(format!("spec.ports[{index}].nodePort"), format!("Invalid value: {wanted}: {why}"))),
        }
    }

    fn port_taken(&mut self, wanted: i64, taken: &mut BTreeSet<i64>) -> Result<(), String> {
        let range = &self.ranges.ports;
        let Some(number) = u16::try_from(wanted).ok().filter(|n| range.contains(n)) else {
            let (first, last) = (range.start(), range.end());
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            ));
        };
        if taken.insert(wanted) && self.take(Claim::Port(number)) {
            return Ok(());
        }
        Err("provided port is already allocated".to_owned())
    }

    /// The port at which load balancers ask a node whether it has endpoints of the service.
    fn health_check_port(&mut self, spec: &mut Value) -> Result<(), ApiError> {
        let wanted = number(&spec["healthCheckNodePort"]);
        if wanted == 0 {
            spec["healthCheckNodePort"] = self.any_port()?.into();
            return Ok(());
        }
        let mut taken: BTreeSet<i64> = node_ports(spec).into_iter().collect();
        self.port_taken(wanted, &mut taken).map_err(|why| {
            let what = "failed to allocate requested HealthCheck NodePort";
            ApiError::new(Reason::InternalError, format!("Internal error occurred: {what} {wanted}: {why}"))
        })
    }

    fn any_port(&mut self) -> Result<u16, ApiError> {
        let (first, last) = (*self.ranges.ports.start(), *self.ranges.ports.end());
        let count = u32::from(last - first) + 1;
        let low = (count / 32).clamp(16.min(count), 128.min(count));
        let candidates = order(low, count)
            .filter_map(|offset| u16::try_from(u32::from(first) + offset).ok())
            .map(Claim::Port)
            .filter(|claim| !self.given.contains(claim))
            .collect::<Vec<_>>();
        match self.take_first(candidates.into_iter()) {
            Some(Claim::Port(number)) => Ok(number),
            _ => Err(ApiError::new(
                Reason::InternalError,
                "failed to allocate a nodePort: range is full".to_owned(),
            )),
        }
    }

    /// Takes a claim for this write, until it fails.
    fn take(&mut self, claim: Claim) -> bool {
        let taken = self.allocator.take(claim.clone(), &self.id, self.dry_run);
        if taken {
            self.keep(claim);
        }
        taken
    }

    /// What was taken stays with this write until it fails.
    fn keep(&mut self, claim: Claim) {
        self.given.insert(claim.clone());
        if !self.dry_run {
            let (allocator, id) = (self.allocator.clone(), self.id.clone());
            self.undo.push(move || allocator.give_back(&claim, &id));
        }
    }

    /// Takes the first free one of `candidates`.
    fn take_first(&mut self, mut candidates: impl Iterator<Item = Claim>) -> Option<Claim> {
        candidates.find(|claim| self.take(claim.clone()))
    }

    fn invalid(&self, field: String, message: String) -> ApiError {
        self.refusal(vec![Cause { reason: "FieldValueInvalid", field, message }])
    }

    fn refusal(&self, causes: Vec<Cause>) -> ApiError {
        ApiError::invalid("", "Service", &self.id.name, causes)
    }
}

/// All of `0..count`: first `low..count` from a random place on, then `0..low`.
fn order(low: u32, count: u32) -> impl Iterator<Item = u32> {
    let start = if low < count { rand::rng().random_range(low..count) } else { low };
    (start..count).chain(low..start).chain(0..low)
}

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod range_tests;
#[cfg(test)]
mod tests;
