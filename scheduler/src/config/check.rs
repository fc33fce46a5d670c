//! From what is written to what can be: every value parsed and compared with the others.

use std::{fmt, net::Ipv4Addr, ops::RangeInclusive, str::FromStr, time::Duration};

use ipnet::Ipv4Net;
use jiff::SignedDuration;

use super::{
    ApiConfig, ClusterConfig, Config, ConnectionLimits, LogFormat, Problems, Timing, advertised, raw,
};

/// The tenth address of the service range, as kubeadm has it.
const DNS_OFFSET: u32 = 10;

pub(super) fn check(raw: raw::Config) -> Result<Config, Problems> {
    let mut problems = Problems::default();
    let p = &mut problems;
    let raw::Config { data_dir, api, nodes, metrics, cluster, timing, log } = raw;
    if !data_dir.is_absolute() {
        p.add("data_dir", data_dir.display(), "must be an absolute path");
    }
    let api = check_api(p, api);
    let nodes_listen = parsed(p, "nodes.listen", &nodes.listen);
    let nodes_connections = connections(
        p,
        "nodes.connections",
        nodes.connections,
        "nodes.connections_per_node",
        nodes.connections_per_node,
    );
    let metrics_listen = if metrics.listen.is_empty() {
        Some(None)
    } else {
        parsed(p, "metrics.listen", &metrics.listen).map(Some)
    };
    let cluster = check_cluster(p, &cluster);
    let timing = check_timing(p, &timing);
    let log_format = match log.format.as_str() {
        "human" => LogFormat::Human,
        "json" => LogFormat::Json,
        other => {
            p.add("log.format", quoted(other), "must be \"human\" or \"json\"");
            LogFormat::Human
        }
    };
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&log.filter) {
        p.add("log.filter", quoted(&log.filter), error);
    }
    match (api, nodes_listen, metrics_listen, cluster, timing) {
        (Some(api), Some(nodes_listen), Some(metrics_listen), Some(cluster), Some(timing))
            if problems == Problems::default() =>
        {
            let log_filter = log.filter;
            Ok(Config {
                data_dir,
                api,
                nodes_listen,
                nodes_connections,
                metrics_listen,
                cluster,
                timing,
                log_format,
                log_filter,
            })
        }
        _ => Err(problems),
    }
}

fn check_api(p: &mut Problems, api: raw::Api) -> Option<ApiConfig> {
    for name in &api.names {
        let legal = |c: char| c.is_ascii_alphanumeric() || "-.:*".contains(c);
        if name.is_empty() || !name.chars().all(legal) {
            p.add("api.names", quoted(name), "must be a DNS name or an IP address");
        }
    }
    let listen = parsed(p, "api.listen", &api.listen)?;
    let advertise = match &api.advertise {
        Some(text) => parsed(p, "api.advertise", text)?,
        None => advertised(listen),
    };
    let connections = connections(
        p,
        "api.connections",
        api.connections,
        "api.connections_per_user",
        api.connections_per_user,
    );
    let raw::Api { reads_in_flight, writes_in_flight, names, .. } = api;
    Some(ApiConfig { listen, advertise, names, connections, reads_in_flight, writes_in_flight })
}

/// Limits of connections, which must let somebody in.
fn connections(
    p: &mut Problems,
    of_total: &str,
    total: usize,
    of_each: &str,
    each: usize,
) -> ConnectionLimits {
    if total == 0 {
        p.add(of_total, total, "must not be zero");
    }
    if each == 0 || each > total {
        p.add(of_each, each, format!("must not be zero, nor above {of_total} {total}"));
    }
    ConnectionLimits { total, each }
}

fn check_cluster(p: &mut Problems, raw: &raw::Cluster) -> Option<ClusterConfig> {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if !raw.domain.split('.').all(label) {
        p.add("cluster.domain", quoted(&raw.domain), "must be a DNS domain in lower case");
    }
    let service_cidr: Option<Ipv4Net> = network(p, "cluster.service_cidr", &raw.service_cidr);
    let pod_cidr: Option<Ipv4Net> = network(p, "cluster.pod_cidr", &raw.pod_cidr);
    let node_ports = ports(p, &raw.node_ports);
    let pool: Vec<_> =
        raw.load_balancer_pool.iter().map(|t| network(p, "cluster.load_balancer_pool", t)).collect();
    let dns_ip = match &raw.dns_ip {
        Some(text) => parsed::<Ipv4Addr>(p, "cluster.dns_ip", text),
        None => service_cidr.map(|s| Ipv4Addr::from(u32::from(s.network()).saturating_add(DNS_OFFSET))),
    };
    let (service_cidr, pod_cidr, dns_ip) = (service_cidr?, pod_cidr?, dns_ip?);
    let load_balancer_pool = pool.into_iter().collect::<Option<Vec<_>>>()?;
    if service_cidr.prefix_len() > 28 {
        p.add("cluster.service_cidr", service_cidr, "must have at least 16 addresses");
    }
    if !service_cidr.contains(&dns_ip) {
        p.add("cluster.dns_ip", dns_ip, format!("must be inside cluster.service_cidr {service_cidr}"));
    }
    if !(pod_cidr.prefix_len()..=30).contains(&raw.node_mask) {
        let why = format!("must be between the prefix of cluster.pod_cidr {pod_cidr} and 30");
        p.add("cluster.node_mask", raw.node_mask, why);
    }
    let mut ranges = vec![("cluster.service_cidr", service_cidr), ("cluster.pod_cidr", pod_cidr)];
    ranges.extend(load_balancer_pool.iter().map(|n| ("cluster.load_balancer_pool", *n)));
    for (i, (path, range)) in ranges.iter().enumerate() {
        for (other_path, other) in &ranges[..i] {
            if range.contains(other) || other.contains(range) {
                p.add(path, range, format!("overlaps {other_path} {other}"));
            }
        }
    }
    Some(ClusterConfig {
        domain: raw.domain.clone(),
        service_cidr,
        dns_ip,
        pod_cidr,
        node_mask: raw.node_mask,
        node_ports: node_ports?,
        load_balancer_pool,
    })
}

fn check_timing(p: &mut Problems, raw: &raw::Timing) -> Option<Timing> {
    let heartbeat = duration(p, "timing.heartbeat", &raw.heartbeat);
    let lease = duration(p, "timing.lease", &raw.lease);
    let eviction = duration(p, "timing.eviction", &raw.eviction);
    let (heartbeat, lease, eviction) = (heartbeat?, lease?, eviction?);
    if heartbeat.is_zero() {
        p.add("timing.heartbeat", quoted(&raw.heartbeat), "must not be zero");
    }
    if lease < heartbeat * 2 {
        let why = format!("must be at least twice timing.heartbeat {:?}", raw.heartbeat);
        p.add("timing.lease", quoted(&raw.lease), why);
    }
    Some(Timing { heartbeat, lease, eviction })
}

fn parsed<T: FromStr<Err: fmt::Display>>(p: &mut Problems, path: &str, text: &str) -> Option<T> {
    text.parse().map_err(|error| p.add(path, quoted(text), error)).ok()
}

/// A network, given by its first address.
fn network(p: &mut Problems, path: &str, text: &str) -> Option<Ipv4Net> {
    let network: Ipv4Net = parsed(p, path, text)?;
    if network.addr() != network.network() {
        p.add(path, quoted(text), format!("has host bits; the network is {}", network.trunc()));
        return None;
    }
    Some(network)
}

fn ports(p: &mut Problems, text: &str) -> Option<RangeInclusive<u16>> {
    let range = text.split_once('-').and_then(|(first, last)| {
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first > 0 && first <= last).then_some(first..=last)
    });
    if range.is_none() {
        p.add("cluster.node_ports", quoted(text), "must be two ports, `30000-32767`");
    }
    range
}

fn duration(p: &mut Problems, path: &str, text: &str) -> Option<Duration> {
    let parsed = text.parse::<SignedDuration>().map_err(|e| e.to_string());
    parsed
        .and_then(|d| Duration::try_from(d).map_err(|_| "must not be negative".to_owned()))
        .map_err(|error| p.add(path, quoted(text), error))
        .ok()
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}
