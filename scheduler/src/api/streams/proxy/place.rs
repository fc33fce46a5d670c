//! Which pod, endpoint or node a proxied request is for, and by which node it is reached. Only addresses of pods and
//! nodes that the cluster knows can be reached; in upstream's words.

use std::net::IpAddr;

use gantry_proto::node::v1 as pb;
use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, Service},
        discovery::v1::{Endpoint, EndpointSlice},
    },
    serde::de::DeserializeOwned,
};
use rand::seq::SliceRandom as _;

use super::super::{node_of, uid_of};
use crate::{
    model::{ApiError, Chain, Object, Reason, Resource},
    objects::{Objects, Page, Selection},
};

/// Labels an EndpointSlice with its service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Where kubelets listen. Ours listens nowhere: who asks for this port means the agent.
const KUBELET_PORT: &str = "10250";

/// Of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Whose agent makes the connection.
    pub(super) node: String,
    pub(super) scheme: Scheme,
    pub(super) ip: IpAddr,
    /// As it was asked for or found: a number, mostly.
    port: String,
    /// Empty: the node.
    pod_uid: String,
    /// The agent itself.
    agent: bool,
}

impl Place {
    /// `10.0.0.1:80`, as links of the backend name it.
    pub(super) fn host(&self) -> String {
        match (self.ip, self.port.as_str()) {
            (IpAddr::V4(ip), "") => ip.to_string(),
            (IpAddr::V6(ip), "") => format!("[{ip}]"),
            (IpAddr::V4(ip), port) => format!("{ip}:{port}"),
            (IpAddr::V6(ip), port) => format!("[{ip}]:{port}"),
        }
    }

    /// What the agent is asked for, or why the port is none, in the words of Go's dialler.
    pub(super) fn dial(&self) -> Result<pb::Dial, String> {
        if self.agent {
            return Ok(pb::Dial::default());
        }
        let port = match (self.port.as_str(), self.scheme) {
            ("", Scheme::Http) => 80,
            ("", Scheme::Https) => 443,
            (text, _) => {
                let number: i64 =
                    text.parse().map_err(|_| format!("dial tcp: lookup tcp/{text}: unknown port"))?;
                let port = u16::try_from(number).ok().filter(|port| *port > 0 || !self.pod_uid.is_empty());
                port.ok_or_else(|| format!("dial tcp: address {number}: invalid port"))?
            }
        };
        Ok(pb::Dial { pod_uid: self.pod_uid.clone(), port: port.into() })
    }
}

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    scheme: Scheme,
    name: &'a str,
    port: &'a str,
}

impl<'a> Asked<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match *parts.as_slice() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { scheme, name, port })
    }
}

/// Looks up what `name` means; `resource` is pods, services or nodes.
pub(super) async fn find(
    objects: &Objects,
    resource: Resource,
    namespace: Option<&str>,
    name: &str,
) -> Result<Place, ApiError> {
    let what = match resource {
        Resource::PODS => "pod",
        Resource::SERVICES => "service",
        _ => "node",
    };
    let invalid = || ApiError::new(Reason::BadRequest, format!("invalid {what} request {name:?}"));
    let asked = Asked::of(name).ok_or_else(invalid)?;
    match resource {
        Resource::PODS => pod(objects, namespace, &asked).await,
        Resource::SERVICES => service(objects, namespace, &asked).await,
        _ => node(objects, &asked).await,
    }
}

async fn read<T: DeserializeOwned>(
    objects: &Objects,
    resource: Resource,
    namespace: Option<&str>,
    name: &str,
) -> Result<T, ApiError> {
    decode(&*objects.get(resource, namespace, name).await?)
}

fn decode<T: DeserializeOwned>(object: &Object) -> Result<T, ApiError> {
    object.decode().map_err(|e| ApiError::new(Reason::InternalError, Chain(&e).to_string()))
}

async fn pod(objects: &Objects, namespace: Option<&str>, asked: &Asked<'_>) -> Result<Place, ApiError> {
    let pod: Pod = read(objects, Resource::PODS, namespace, asked.name).await?;
    let first = || {
        let ports = pod.spec.as_ref()?.containers.iter().find_map(|c| c.ports.as_ref()?.first())?;
        Some(ports.container_port.to_string())
    };
    let port = if asked.port.is_empty() { first().unwrap_or_default() } else { asked.port.to_owned() };
    let ip = addresses(&pod).next().filter(allowed);
    match (ip, node_of(&pod)) {
        (Some(ip), Some(node)) => Ok(Place {
            node: node.to_owned(),
            scheme: asked.scheme,
            ip,
            port,
            pod_uid: uid_of(&pod),
            agent: false,
        }),
        _ => Err(ApiError::new(Reason::BadRequest, "address not allowed")),
    }
}

fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let all = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
    all.into_iter().flatten().filter_map(|ip| ip.ip.parse().ok())
}

/// Unicast, and of more than the machine or its link.
fn allowed(ip: &IpAddr) -> bool {
    let narrow = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(narrow || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
}

async fn service(objects: &Objects, namespace: Option<&str>, asked: &Asked<'_>) -> Result<Place, ApiError> {
    let unavailable = |message: String| ApiError::new(Reason::ServiceUnavailable, message);
    let mut port = asked.port.to_owned();
    if let Ok(number) = port.parse::<i64>() {
        let service: Service = read(objects, Resource::SERVICES, namespace, asked.name).await?;
        let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let found = ports.into_iter().find(|port| i64::from(port.port) == number);
        let none = || format!("no service port {number} found for service {:?}", asked.name);
        port = found.ok_or_else(|| unavailable(none()))?.name.unwrap_or_default();
    }
    let selection = Selection { namespace: namespace.map(Into::into), ..Selection::default() };
    let all = objects.page(Resource::ENDPOINT_SLICES, &selection, &Page::default())?.items;
    let ours = all.iter().filter(|s| s.labels.get(SERVICE_LABEL).is_some_and(|of| of == asked.name));
    let slices = ours.map(|slice| decode::<EndpointSlice>(slice)).collect::<Result<Vec<_>, _>>()?;
    for (endpoint, number) in candidates(slices, &port) {
        let target = endpoint.target_ref.unwrap_or_default();
        let address = endpoint.addresses.first().and_then(|address| address.parse().ok());
        let (Some(name), Some(ip)) = (target.name, address) else { continue };
        if target.namespace.as_deref() != namespace {
            continue;
        }
        // Only to addresses that are really a pod's: everybody may write slices.
        let Ok(pod) = read::<Pod>(objects, Resource::PODS, namespace, &name).await else { continue };
        let Some(node) = node_of(&pod).filter(|_| addresses(&pod).any(|own| own == ip)) else { continue };
        return Ok(Place {
            node: node.to_owned(),
            scheme: asked.scheme,
            ip,
            port: number.to_string(),
            pod_uid: uid_of(&pod),
            agent: false,
        });
    }
    Err(unavailable(format!("no endpoints available for service {:?}", asked.name)))
}

/// The ready endpoints that serve a port, in random order, with the number of the port.
fn candidates(slices: Vec<EndpointSlice>, port: &str) -> Vec<(Endpoint, i32)> {
    let mut out = Vec::new();
    for slice in slices {
        let named = |p: &k8s_openapi::api::discovery::v1::EndpointPort| {
            p.port.filter(|_| p.name.as_deref().unwrap_or_default() == port)
        };
        let Some(number) = slice.ports.iter().flatten().find_map(named) else { continue };
        let ready = |e: &Endpoint| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false));
        out.extend(slice.endpoints.into_iter().flatten().filter(ready).map(|endpoint| (endpoint, number)));
    }
    out.shuffle(&mut rand::rng());
    out
}

async fn node(objects: &Objects, asked: &Asked<'_>) -> Result<Place, ApiError> {
    let node: Node = read(objects, Resource::NODES, None, asked.name).await?;
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let internal = addresses.iter().filter(|a| a.type_ == "InternalIP").find_map(|a| a.address.parse().ok());
    let none = || {
        let message = format!("no preferred addresses found; known addresses: {:?}", addresses.len());
        ApiError::new(Reason::InternalError, message)
    };
    let ip = internal.ok_or_else(none)?;
    let agent = matches!(asked.port, "" | KUBELET_PORT);
    Ok(Place {
        node: asked.name.to_owned(),
        // As the way to the agent is encrypted by the session, nothing more is needed inside.
        scheme: if agent { Scheme::Http } else { asked.scheme },
        ip,
        port: asked.port.to_owned(),
        pod_uid: String::new(),
        agent,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_come_with_scheme_and_port() {
        let of = |text| Asked::of(text).map(|a| (a.scheme, a.name, a.port));
        assert_eq!(of("web"), Some((Scheme::Http, "web", "")));
        assert_eq!(of("web:80"), Some((Scheme::Http, "web", "80")));
        assert_eq!(of("web:http"), Some((Scheme::Http, "web", "http")));
        assert_eq!(of("https:web:443"), Some((Scheme::Https, "web", "443")));
        assert_eq!(of("https:web:"), Some((Scheme::Https, "web", "")));
        assert_eq!(of(":web:1"), Some((Scheme::Http, "web", "1")));
        for wrong in ["", ":80", "ftp:web:21", "a:b:c:d", "https::443"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ports_are_numbers_or_the_schemes_own() {
        let dial = |scheme, port: &str| {
            let ip = "10.0.0.1".parse().unwrap();
            let (node, port, pod_uid) = ("n".to_owned(), port.to_owned(), "u".to_owned());
            Place { node, scheme, ip, port, pod_uid, agent: false }.dial().map(|dial| dial.port)
        };
        assert_eq!(dial(Scheme::Http, ""), Ok(80));
        assert_eq!(dial(Scheme::Https, ""), Ok(443));
        assert_eq!(dial(Scheme::Http, "8080"), Ok(8080));
        assert_eq!(dial(Scheme::Http, "70000").unwrap_err(), "dial tcp: address 70000: invalid port");
        assert_eq!(dial(Scheme::Http, "web").unwrap_err(), "dial tcp: lookup tcp/web: unknown port");
    }

    #[test]
    fn only_ready_endpoints_of_the_port_are_candidates() {
        let slice: EndpointSlice = serde_json::from_value(json!({
        "addressType": "IPv4", "metadata": {}, "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}],
        "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.3"]},
        ]}))
        .unwrap();
        let found = |port: &str| {
            let mut all: Vec<_> = candidates(vec![slice.clone()], port)
                .into_iter()
                .map(|(endpoint, number)| (endpoint.addresses[0].clone(), number))
                .collect();
            all.sort();
            all
        };
        assert_eq!(found("b"), [("10.0.0.2".to_owned(), 2), ("10.0.0.3".to_owned(), 2)]);
        assert!(found("").is_empty() && found("c").is_empty());
    }

    #[test]
    fn what_is_of_the_machine_alone_is_not_allowed() {
        for ip in ["127.0.0.1", "169.254.1.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "::1", "fe80::1"] {
            assert!(!allowed(&ip.parse().unwrap()), "{ip}");
        }
        assert!(allowed(&"10.0.0.1".parse().unwrap()) && allowed(&"fd00::1".parse().unwrap()));
    }
}
