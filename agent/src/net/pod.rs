//! The wire of one pod: a veth pair, the pod's /32 on its end, a default route through an address that exists
//! only as a neighbour entry, and the host's route back. Every name and hardware address follows from the pod's
//! uid, so whatever a killed agent left is recognised and replaced. That the host's side is up says that all before it
//! was done: what may be missing then is the host's way to it, which is put back without touching the pair.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use ipnet::Ipv4Net;
use netlink_packet_route::{
    address::AddressScope,
    link::{InfoData, InfoKind, InfoVeth, LinkMessage},
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use sha2::{Digest, Sha256};

use super::{
    NetError,
    namespaces::write_file,
    netlink::{Netlink, PROTOCOL, Route},
};
use crate::model::PodUid;

/// Begin of the host side's name; ten hexadecimal digits follow. 13 of the 15 characters a name may have.
const PREFIX: &str = "gnt";

/// What pods have as their router. Link-local, never on any interface: the static neighbour entry in the pod
/// answers for it, so no ARP is needed and no host address is spent.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Interface name within the pod.
const INSIDE: &str = "eth0";

/// Names of a pod's pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) host_name: String,
    host_mac: [u8; 6],
    pub(super) pod_mac: [u8; 6],
}

/// Whether an interface is the host side of some pod's pair.
pub(super) fn is_host_side(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|rest| rest.len() == 10 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl Pair {
    pub(super) fn of(pod: &PodUid) -> Self {
        let hash = Sha256::digest(pod.as_str().as_bytes());
        // Locally administered, unicast. Set explicitly: else udev's MACAddressPolicy may change it later,
        // and with it the truth of the pod's neighbour entry.
        let mac = |first: u8| [first, hash[0], hash[1], hash[2], hash[3], hash[4]];
        let digits: String = hash[..5].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { host_name: format!("{PREFIX}{digits}"), host_mac: mac(0x02), pod_mac: mac(0x06) }
    }

    fn message(&self, namespace: &OwnedFd, mtu: u32) -> LinkMessage {
        let inside = LinkMessageBuilder::<LinkUnspec>::new()
            .name(INSIDE)
            .address(self.pod_mac.to_vec())
            .mtu(mtu)
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(self.host_name.clone())
            .address(self.host_mac.to_vec())
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
            .build()
    }

    /// Connects the namespace to the host; returns the index of the host side.
    ///
    /// The host side comes up last, after its settings: no packet passes under the host's defaults.
    pub(super) async fn connect(
        &self,
        host: &Netlink,
        pod: &Netlink,
        namespace: &OwnedFd,
        address: Ipv4Addr,
        mtu: u32,
    ) -> Result<u32, NetError> {
        if !host.add_link(&self.host_name, self.message(namespace, mtu)).await? {
            host.delete_link(&self.host_name).await?;
            if !host.add_link(&self.host_name, self.message(namespace, mtu)).await? {
                return Err(self.vanished("add link"));
            }
        }
        let outside = host.link(&self.host_name).await?.ok_or_else(|| self.vanished("get link"))?.index;
        self.set_host_side()?;
        self.set_pod_side(pod, address).await?;
        host.set_up(outside).await?;
        self.lead(host, outside, address).await?;
        Ok(outside)
    }

    /// The host's way to a pod whose host side is up.
    pub(super) async fn lead(&self, host: &Netlink, outside: u32, address: Ipv4Addr) -> Result<(), NetError> {
        let there = host.set_neighbour(outside, address, self.pod_mac).await?
            && host.put_route(&route_to_pod(outside, address)).await?;
        if there { Ok(()) } else { Err(self.vanished("add route")) }
    }

    async fn set_pod_side(&self, pod: &Netlink, address: Ipv4Addr) -> Result<(), NetError> {
        let loopback = pod.link("lo").await?.ok_or_else(|| self.vanished("get link"))?.index;
        pod.set_up(loopback).await?;
        let inside = pod.link(INSIDE).await?.ok_or_else(|| self.vanished("get link"))?.index;
        pod.add_address(inside, address, AddressScope::Universe, None).await?;
        pod.set_up(inside).await?;
        if !pod.set_neighbour(inside, GATEWAY, self.host_mac).await? {
            return Err(self.vanished("add neighbour"));
        }
        let default = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(GATEWAY)
            .output_interface(inside)
            .onlink()
            .protocol(PROTOCOL)
            .build();
        pod.set_route(default, "default").await
    }

    fn set_host_side(&self) -> Result<(), NetError> {
        let settings = [
            // A pod speaks for itself: a packet whose source is not routed to this wire is dropped. What is
            // translated here keeps the pod's own address as its source.
            ("ipv4/conf", "rp_filter", "1"),
            ("ipv4/conf", "forwarding", "1"),
            // Pods have static neighbour entries: nothing must be answered for others.
            ("ipv4/conf", "proxy_arp", "0"),
            ("ipv4/conf", "accept_redirects", "0"),
            ("ipv4/conf", "send_redirects", "0"),
            // No link-local address, no router solicitations: pods have IPv4 only.
            ("ipv6/conf", "disable_ipv6", "1"),
        ];
        for (family, key, value) in settings {
            let path = format!("/proc/sys/net/{family}/{}/{key}", self.host_name);
            let path = Path::new(&path);
            // A kernel without IPv6 has no such file.
            if family.starts_with("ipv6") && !path.exists() {
                continue;
            }
            write_file(path, value).map_err(|source| NetError::State {
                operation: "write",
                path: path.to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    fn vanished(&self, operation: &'static str) -> NetError {
        NetError::Netlink {
            operation,
            subject: self.host_name.clone(),
            source: "it came or went while it was worked on".into(),
        }
    }
}

/// The route to a pod at the host's side of its pair.
pub(super) fn route_to_pod(link: u32, address: Ipv4Addr) -> Route {
    Route {
        to: Ipv4Net::from(address),
        gateway: None,
        link: Some(link),
        ours: true,
        metric: 0,
        unreachable: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_follow_from_the_uid() {
        let one = Pair::of(&"0b5c9d0e-4d2c-4c0b-9d5f-000000000001".into());
        assert_eq!(one, Pair::of(&"0b5c9d0e-4d2c-4c0b-9d5f-000000000001".into()));
        let two = Pair::of(&"0b5c9d0e-4d2c-4c0b-9d5f-000000000002".into());
        assert_ne!(one.host_name, two.host_name);
        assert!(is_host_side(&one.host_name) && one.host_name.len() <= 15);
        assert!(!is_host_side("gntbr0") && !is_host_side("gnt0123456789x"));
        assert_ne!(one.host_mac, one.pod_mac);
        assert_eq!(one.host_mac[0] & 0b11, 0b10, "locally administered and unicast");
    }
}
