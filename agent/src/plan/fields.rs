//! `fieldRef` and `resourceFieldRef`: the downward API, for environment variables and volumes.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{
    context::Context,
    quantity::{milli, value},
    resources::{Amounts, container_amounts},
};
use crate::model::{DesiredPod, ObservedPod, spec as pod};

/// The value of a pod field. `Err` holds upstream's text for a path that names nothing.
pub(super) fn field(
    context: &Context<'_>,
    pod: &DesiredPod,
    seen: &ObservedPod,
    path: &str,
) -> Result<String, String> {
    if let Some((map, key)) = subscript(path) {
        let meta = &pod.pod.metadata;
        let source = match map {
            "metadata.annotations" => meta.annotations.as_ref(),
            "metadata.labels" => meta.labels.as_ref(),
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(source.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let meta = &pod.pod.metadata;
    let spec = pod.pod.spec.as_ref();
    let node_addresses = || context.node.addresses.iter().map(ToString::to_string);
    let pod_address = || {
        if pod::host_network(&pod.pod) {
            return node_addresses().next();
        }
        let network = seen.network.as_ref()?;
        network.addresses.as_ref().map(|addresses| addresses.v4.to_string())
    };
    Ok(match path {
        "metadata.name" => pod.name.name.to_string(),
        "metadata.namespace" => pod.name.namespace.to_string(),
        "metadata.uid" => pod.uid.to_string(),
        "metadata.labels" => formatted(meta.labels.as_ref()),
        "metadata.annotations" => formatted(meta.annotations.as_ref()),
        "spec.nodeName" => context.node.name.to_string(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => node_addresses().next().unwrap_or_default(),
        "status.hostIPs" => node_addresses().collect::<Vec<_>>().join(","),
        "status.podIP" | "status.podIPs" => pod_address().unwrap_or_default(),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// Maps as upstream writes them into files: sorted, one `key="value"` a line.
fn formatted(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The value of a container's resource; a limit that is not set is that of the pod as a whole, else the node's
/// allocatable.
pub(super) fn resource(
    context: &Context<'_>,
    pod: &DesiredPod,
    container: &Container,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let amounts = Amounts::of(container.resources.as_ref());
    let limited = container_amounts(pod.pod.spec.as_ref(), container);
    let listed = |name: &str| {
        let resources = container.resources.as_ref()?;
        let (list, name) = match name.split_once('.')? {
            ("limits", name) => (resources.limits.as_ref(), name),
            ("requests", name) => (resources.requests.as_ref(), name),
            _ => return None,
        };
        list?.get(name).and_then(value)
    };
    let divisor = selector.divisor.clone().filter(|d| value(d) != Some(0)).unwrap_or(Quantity("1".into()));
    let (amount, unit) = match selector.resource.as_str() {
        "limits.cpu" => (limited.cpu_limit.unwrap_or(context.node.cpu_milli), milli(&divisor)),
        "requests.cpu" => (amounts.cpu_request, milli(&divisor)),
        "limits.memory" => (limited.memory_limit.unwrap_or(context.node.memory_bytes), value(&divisor)),
        "requests.memory" => (amounts.memory_request, value(&divisor)),
        name @ "limits.ephemeral-storage" => {
            (listed(name).unwrap_or(context.node.ephemeral_bytes), value(&divisor))
        }
        name @ "requests.ephemeral-storage" => (listed(name).unwrap_or(0), value(&divisor)),
        name if name.contains(".hugepages-") => (listed(name).unwrap_or(0), value(&divisor)),
        name => return Err(format!("unsupported container resource : {name}")),
    };
    let unit = unit.filter(|unit| *unit > 0).unwrap_or(1);
    Ok((amount / unit + i64::from(amount % unit != 0)).to_string())
}
