//! Services get a ClusterIP and node ports, and keep them through updates that do not name them.

use std::{net::Ipv4Addr, ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use ipnet::Ipv4Net;
use rand::Rng;
use serde_json::{Value, json};

use super::allocator::{Allocator, Claim};
use crate::{
    cache::{Cache, Id},
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
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
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
            undo: &mut *request.undo,
        };
        let object = &mut *request.object;
        if let Some(old) = request.old {
            carry_over(object, old);
        }
        write.address(object)?;
        write.ports(object)
    }
}

struct Write<'a> {
    ranges: &'a ServiceRanges,
    allocator: &'a Arc<Allocator>,
    id: Id,
    dry_run: bool,
    undo: &'a mut Undo,
}

fn text<'v>(spec: &'v Value, field: &str) -> &'v str {
    spec.get(field).and_then(Value::as_str).unwrap_or("")
}

fn type_of(spec: &Value) -> &str {
    match text(spec, "type") {
        "" => "ClusterIP",
        given => given,
    }
}

fn wants_node_ports(spec: &Value) -> bool {
    match type_of(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

fn node_port(port: &Value) -> i64 {
    port.get("nodePort").and_then(Value::as_i64).unwrap_or(0)
}

fn protocol(port: &Value) -> &str {
    match text(port, "protocol") {
        "" => "TCP",
        given => given,
    }
}

/// An update that does not name an address or a port keeps the one it had; one that has no more use for it and
/// did not change it lets it go.
fn carry_over(object: &mut Value, old: &Value) {
    let (Some(spec), Some(before)) = (object.get_mut("spec"), old.get("spec")) else { return };
    let had_address = type_of(before) != "ExternalName";
    let wants_address = type_of(spec) != "ExternalName";
    if had_address && wants_address && text(spec, "clusterIP").is_empty() {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = before.get(field) {
                spec[field] = value.clone();
            }
        }
    } else if had_address && !wants_address && spec.get("clusterIP") == before.get("clusterIP") {
        remove(spec, &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    let keeps = wants_node_ports(spec);
    let had = wants_node_ports(before);
    let old_ports = before.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |p: &&Value| p.get("port") == port.get("port") && protocol(p) == protocol(port);
        let known = old_ports.iter().find(same).map_or(0, node_port);
        if keeps && had && node_port(port) == 0 && known != 0 {
            port["nodePort"] = known.into();
        } else if !keeps && had && node_port(port) == known {
            remove(port, &["nodePort"]);
        }
    }
}

fn remove(value: &mut Value, fields: &[&str]) {
    if let Some(map) = value.as_object_mut() {
        for field in fields {
            map.remove(*field);
        }
    }
}

impl Write<'_> {
    fn address(&mut self, object: &mut Value) -> Result<(), ApiError> {
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return Ok(()) };
        if type_of(spec) == "ExternalName" {
            return Ok(());
        }
        let mut given = text(spec, "clusterIP").to_owned();
        if given.is_empty() {
            // A client may name the address in the list alone.
            given = spec.pointer("/clusterIPs/0").and_then(Value::as_str).unwrap_or("").to_owned();
        }
        let address = match given.as_str() {
            "None" => given,
            "" => self.any_address()?.to_string(),
            _ => self.this_address(&given)?,
        };
        spec["clusterIP"] = address.clone().into();
        if spec.get("clusterIPs").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec["clusterIPs"] = json!([address]);
        }
        if spec.get("ipFamilies").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec["ipFamilies"] = json!(["IPv4"]);
        }
        if text(spec, "ipFamilyPolicy").is_empty() {
            spec["ipFamilyPolicy"] = "SingleStack".into();
        }
        Ok(())
    }

    fn this_address(&mut self, given: &str) -> Result<String, ApiError> {
        // What is no address at all is refused by validation, which names the field better.
        let Ok(address) = given.parse::<Ipv4Addr>() else { return Ok(given.to_owned()) };
        let range = self.ranges.addresses;
        let inside = range.contains(&address) && address != range.network() && address != range.broadcast();
        let why = if !inside {
            format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
            )
        } else if self.ranges.reserves(address, &self.id) || !self.take(Claim::Address(address)) {
            "provided IP is already allocated".to_owned()
        } else {
            return Ok(given.to_owned());
        };
        let message = format!("Invalid value: [{given:?}]: failed to allocate IP {address}: {why}");
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

    fn ports(&mut self, object: &mut Value) -> Result<(), ApiError> {
        let Some(spec) = object.get_mut("spec") else { return Ok(()) };
        let allocate = wants_node_ports(spec);
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        // Those that are named come first: a random one must not take their place.
        let Some(ports) = ports else { return Ok(()) };
        for (index, port) in ports.iter().enumerate() {
            if node_port(port) != 0 {
                self.this_port(index, port)?;
            }
        }
        for port in ports.iter_mut().filter(|p| allocate && node_port(p) == 0) {
            port["nodePort"] = self.any_port(protocol(port))?.into();
        }
        Ok(())
    }

    fn this_port(&mut self, index: usize, port: &Value) -> Result<(), ApiError> {
        let given = node_port(port);
        let range = &self.ranges.ports;
        let number = u16::try_from(given).ok().filter(|n| range.contains(n));
        let why = match number {
            None => format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            ),
            Some(number) if self.take(Claim::Port(number, protocol(port).to_owned())) => return Ok(()),
            Some(_) => "provided port is already allocated".to_owned(),
        };
        Err(self.invalid(format!("spec.ports[{index}].nodePort"), format!("Invalid value: {given}: {why}")))
    }

    fn any_port(&mut self, protocol: &str) -> Result<u16, ApiError> {
        let (first, last) = (*self.ranges.ports.start(), *self.ranges.ports.end());
        let count = u32::from(last - first) + 1;
        let low = (count / 32).clamp(16.min(count), 128.min(count));
        let candidates = order(low, count)
            .filter_map(|offset| u16::try_from(u32::from(first) + offset).ok())
            .map(|number| Claim::Port(number, protocol.to_owned()));
        match self.take_first(candidates) {
            Some(Claim::Port(number, _)) => Ok(number),
            _ => Err(ApiError::new(
                Reason::InternalError,
                "failed to allocate a nodePort: range is full".to_owned(),
            )),
        }
    }

    /// Takes a claim for this write, until it fails.
    fn take(&mut self, claim: Claim) -> bool {
        let taken = self.allocator.take(claim.clone(), &self.id, self.dry_run);
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
        let cause = Cause { reason: "FieldValueInvalid", field, message };
        ApiError::invalid("", "Service", &self.id.name, vec![cause])
    }
}

/// All of `0..count`: first `low..count` from a random place on, then `0..low`.
fn order(low: u32, count: u32) -> impl Iterator<Item = u32> {
    let start = if low < count { rand::rng().random_range(low..count) } else { low };
    (start..count).chain(low..start).chain(0..low)
}

#[cfg(test)]
mod tests;
