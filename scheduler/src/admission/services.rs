//! Services get a ClusterIP and node ports, and keep them through updates that do not name them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use async_trait::async_trait;
use ipnet::Ipv4Net;
use rand::Rng;
use serde_json::{Value, json};

use super::allocator::{Allocator, Claim};
use crate::{
    cache::{Cache, Id},
    kinds::service::{families, rules},
    model::{ApiError, Cause, Reason, Resource},
    objects::admission::{Admission, Operation, Request, Undo},
};

/// The ranges that services are given addresses and ports from.
#[derive(Clone, Debug)]
pub struct ServiceRanges {
    /// ClusterIPs.
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
        Self { ranges, allocator, cache: cache.clone() }
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
            allocator: &self.allocator,
            id: Id::new(request.namespace.unwrap_or(""), request.name),
            dry_run: request.dry_run,
            given: HashSet::new(),
            undo: &mut *request.undo,
        };
        let Some(spec) = request.object.get_mut("spec").filter(|spec| spec.is_object()) else {
            return Ok(());
        };
        write.allocate(spec, request.old.map(|old| &old["spec"]))
    }
}

struct Write<'a> {
    ranges: &'a ServiceRanges,
    allocator: &'a Arc<Allocator>,
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
    fn allocate(&mut self, spec: &mut Value, before: Option<&Value>) -> Result<(), ApiError> {
        families::fill(spec, before).map_err(|causes| self.refusal(causes))?;
        if families::needs_address(spec, before) {
            self.address(spec)?;
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

    fn address(&mut self, spec: &mut Value) -> Result<(), ApiError> {
        let given = spec["clusterIPs"][0].as_str().unwrap_or_default().to_owned();
        let address = match families::parse(&given) {
            Some(IpAddr::V4(address)) => {
                self.this_address(address, spec)?;
                given
            }
            _ => self.any_address()?.to_string(),
        };
        spec["clusterIP"] = address.clone().into();
        spec["clusterIPs"] = json!([address]);
        Ok(())
    }

    fn this_address(&mut self, address: Ipv4Addr, spec: &Value) -> Result<(), ApiError> {
        let range = self.ranges.addresses;
        let inside = range.contains(&address) && address != range.network() && address != range.broadcast();
        let why = if !inside {
            let valid = format!("The range of valid IPs is {range}");
            format!("the provided IP ({address}) is not in the valid range. {valid}")
        } else if self.ranges.reserves(address, &self.id) || !self.take(Claim::Address(address)) {
            "provided IP is already allocated".to_owned()
        } else {
            return Ok(());
        };
        let message =
            format!("Invalid value: {}: failed to allocate IP {address}: {why}", spec["clusterIPs"]);
        Err(self.invalid("spec.clusterIPs".to_owned(), message))
    }

    /// Upper part of the range first, from a random place: the lower part is for those who choose, and an
    /// address that was just given up is not the next one given out.
    fn any_address(&mut self) -> Result<Ipv4Addr, ApiError> {
        let range = self.ranges.addresses;
        let size = 1_u32.checked_shl(32 - u32::from(range.prefix_len())).unwrap_or(u32::MAX);
        let usable = size.saturating_sub(2);
        let low = (usable / 16).clamp(16.min(usable), 256.min(usable));
        let first = u32::from(range.network()) + 1;
        let address = |offset: u32| Ipv4Addr::from(first + offset);
        let (ranges, id) = (self.ranges, self.id.clone());
        let candidates = order(low, usable).map(address).filter(|a| !ranges.reserves(*a, &id));
        let candidates = candidates.map(Claim::Address);
        match self.take_first(candidates) {
            Some(Claim::Address(address)) => Ok(address),
            _ => Err(ApiError::new(
                Reason::InternalError,
                format!("failed to allocate a serviceIP: range is full ({range})"),
            )),
        }
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
            self.given.insert(claim.clone());
        }
        if taken && !self.dry_run {
            let (allocator, id) = (self.allocator.clone(), self.id.clone());
            self.undo.push(move || allocator.give_back(&claim, &id));
        }
        taken
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
mod tests;
