//! /etc/hosts, /etc/hostname and /etc/resolv.conf of a pod, in the form the kubelet writes them.

use std::fmt::Write;

use super::context::Context;
use crate::{
    model::{DesiredPod, ObservedPod, Resolver, spec as pod, spec::PodHost},
    volumes::PodFile,
};

/// glibc takes three name servers.
const MAX_NAMESERVERS: usize = 3;

/// The files of a pod whose network is there.
pub(super) fn pod_files(context: &Context<'_>, pod: &DesiredPod, seen: &ObservedPod) -> Vec<PodFile> {
    let host = pod::host(pod, context.domain());
    let kernel = match pod::host_network(&pod.pod) {
        true => context.node.name.to_string(),
        false => pod::name_of(pod, context.domain()),
    };
    vec![
        PodFile { name: "hosts", content: hosts(context, pod, seen, &host) },
        PodFile { name: "hostname", content: format!("{kernel}\n") },
        PodFile { name: "resolv.conf", content: rendered(&resolver(context, pod)) },
    ]
}

fn hosts(context: &Context<'_>, pod: &DesiredPod, seen: &ObservedPod, host: &PodHost) -> String {
    let mut text = if pod::host_network(&pod.pod) {
        // In the node's network the node's names are the right ones.
        format!("# Kubernetes-managed hosts file (host network).\n{}", context.node.hosts)
    } else {
        own_hosts(context, seen, host)
    };
    let spec = pod.pod.spec.as_ref();
    let aliases: Vec<_> = spec.into_iter().flat_map(|spec| spec.host_aliases.iter().flatten()).collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
    }
    text
}

fn own_hosts(context: &Context<'_>, seen: &ObservedPod, host: &PodHost) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let own = match seen.network.as_ref().and_then(|network| network.addresses.as_ref()) {
        Some(addresses) => Some(addresses.v4.to_string()),
        None => context.node.addresses.first().map(ToString::to_string),
    };
    if let Some(own) = own {
        let PodHost { name, domain } = host;
        let fqdn = domain.as_ref().map(|domain| format!("{name}.{domain}\t"));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{own}\t{}{name}", fqdn.unwrap_or_default());
    }
    text
}

fn resolver(context: &Context<'_>, pod: &DesiredPod) -> Resolver {
    let spec = pod.pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod::host_network(&pod.pod),
        _ => false,
    };
    let mut resolver = match (&context.node.cluster, policy) {
        (_, "None") => Resolver::default(),
        (Some(network), _) if cluster => {
            let domain = &network.domain;
            let own =
                [format!("{}.svc.{domain}", pod.name.namespace), format!("svc.{domain}"), domain.clone()];
            Resolver {
                nameservers: vec![network.dns_ip.to_string()],
                searches: own.into_iter().chain(context.node.resolver.searches.iter().cloned()).collect(),
                options: vec!["ndots:5".to_owned()],
            }
        }
        _ => context.node.resolver.clone(),
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        resolver.nameservers.extend(config.nameservers.iter().flatten().cloned());
        resolver.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let text = option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}"));
            // The pod's own value replaces the one that came with the policy.
            resolver.options.retain(|known| known.split(':').next() != Some(name));
            resolver.options.push(text);
        }
    }
    unique(&mut resolver.nameservers);
    unique(&mut resolver.searches);
    resolver.nameservers.truncate(MAX_NAMESERVERS);
    resolver
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|entry| seen.insert(entry.clone()));
}

fn rendered(resolver: &Resolver) -> String {
    let mut text = String::new();
    if !resolver.searches.is_empty() {
        let _ = writeln!(text, "search {}", resolver.searches.join(" "));
    }
    for server in &resolver.nameservers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !resolver.options.is_empty() {
        let _ = writeln!(text, "options {}", resolver.options.join(" "));
    }
    text
}
