//! Traffic of pods to the world outside the cluster leaves with the node's address: one nftables table of our
//! own, replaced as a whole in one transaction. Nothing is done to packets between pods, to services, or of
//! other hosts; no other table is read or written.

use std::{io, process::Stdio};

use ipnet::{IpNet, Ipv4Net};
use tokio::{io::AsyncWriteExt, process::Command};

use super::{NetError, v4};
use crate::model::ClusterNetwork;

/// Installs the table for this node's pods; safe to repeat.
pub(super) async fn install(cluster: &ClusterNetwork) -> Result<(), NetError> {
    run(&rules(cluster)).await.map_err(NetError::Masquerade)
}

fn rules(cluster: &ClusterNetwork) -> String {
    let own = set(&cluster.node_pod_cidrs);
    let inside = set(&[cluster.pod_cidr, cluster.service_cidr]);
    // Adding first makes the deletion succeed on the first run too.
    let mut text = String::from("add table ip gantry\ndelete table ip gantry\n");
    if !own.is_empty() {
        text.push_str(&format!(
            "table ip gantry {{\n\
             \tchain postrouting {{\n\
             \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
             \t\tip saddr {{ {own} }} ip daddr != {{ {inside} }} counter masquerade\n\
             \t}}\n\
             }}\n"
        ));
    }
    text
}

/// The IPv4 ranges without overlaps, which a set constant may not have.
fn set(ranges: &[IpNet]) -> String {
    Ipv4Net::aggregate(&v4(ranges)).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

async fn run(rules: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(pod_cidr: &str, own: &[&str]) -> ClusterNetwork {
        ClusterNetwork {
            domain: "cluster.local".into(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            pod_cidr: pod_cidr.parse().unwrap(),
            node_pod_cidrs: own.iter().map(|range| range.parse().unwrap()).collect(),
            dns_ip: "10.96.0.10".parse().unwrap(),
            node_ports: (30000, 32767),
        }
    }

    #[test]
    fn only_own_pods_to_the_outside_are_rewritten() {
        let text = rules(&cluster("10.244.0.0/16", &["10.244.3.0/24"]));
        assert!(
            text.contains("ip saddr { 10.244.3.0/24 } ip daddr != { 10.96.0.0/16, 10.244.0.0/16 }"),
            "{text}"
        );
    }

    #[test]
    fn ranges_within_each_other_become_one() {
        let text = rules(&cluster("10.0.0.0/8", &["10.244.3.0/24"]));
        assert!(text.contains("ip daddr != { 10.0.0.0/8 }"), "{text}");
    }

    #[test]
    fn a_node_without_a_range_has_no_table() {
        assert_eq!(rules(&cluster("10.244.0.0/16", &[])), "add table ip gantry\ndelete table ip gantry\n");
    }
}
