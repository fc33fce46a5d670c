//! The maps in memory, as strict as the kernel's: what is inserted was not there, what is deleted was.

use std::{collections::BTreeMap, net::IpAddr};

use agent_ebpf_common::{
    family::{V4, V6},
    policy::{PeerKey, Policies, PolicyWord, RangeKey, RuleKey, SetHead, Target, Verdict, verdict},
    tag::Tagged,
};
use gantry_agent::policy::{Name, Standing, Step};
use ipnet::IpNet;

#[derive(Default)]
pub(crate) struct Maps {
    peers: BTreeMap<IpAddr, u32>,
    words: BTreeMap<u32, (Tagged, u32)>,
    world: BTreeMap<IpNet, u32>,
    rules: BTreeMap<RuleKey, u32>,
    ranges: BTreeMap<(RangeKey, u8), u32>,
    heads: BTreeMap<u32, SetHead>,
    classes: BTreeMap<u32, u64>,
    pub(crate) pods: BTreeMap<Name, PolicyWord>,
}

trait Address: Copy {
    fn ip(self) -> IpAddr;
}

impl Address for V4 {
    fn ip(self) -> IpAddr {
        IpAddr::from(self.to_ne_bytes())
    }
}

impl Address for V6 {
    fn ip(self) -> IpAddr {
        let mut bytes = [0; 16];
        for (word, four) in self.iter().zip(bytes.chunks_mut(4)) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::from(bytes)
    }
}

fn v6(address: std::net::Ipv6Addr) -> V6 {
    let bytes = address.octets();
    std::array::from_fn(|word| u32::from_ne_bytes(std::array::from_fn(|byte| bytes[word * 4 + byte])))
}

fn tagged(address: IpAddr, value: u32) -> Tagged {
    match address {
        IpAddr::V4(v4) => Tagged::new(&PeerKey::<V4> { addr_be: V4::from_ne_bytes(v4.octets()) }, value),
        IpAddr::V6(address) => Tagged::new(&PeerKey::<V6> { addr_be: v6(address) }, value),
    }
}

impl<A: Address> Policies<A> for Maps {
    fn peer(&self, key: &PeerKey<A>) -> Option<u32> {
        self.peers.get(&key.addr_be.ip()).copied()
    }
    fn peer_word(&self, index: u32) -> Option<Tagged> {
        self.words.get(&index).map(|word| word.0)
    }
    fn world(&self, addr_be: A) -> Option<u32> {
        let address = addr_be.ip();
        let within = self.world.iter().filter(|(net, _)| net.contains(&address));
        within.max_by_key(|(net, _)| net.prefix_len()).map(|(_, class)| *class)
    }
    fn set(&self, set: u32) -> Option<SetHead> {
        Some(self.heads.get(&set).copied().unwrap_or_default())
    }
    fn rule(&self, key: &RuleKey) -> Option<u32> {
        self.rules.get(key).copied()
    }
    fn range(&self, key: &RangeKey) -> Option<u32> {
        let port = u16::from_be(key.port_be);
        (0..=16_u8).rev().find_map(|bits| {
            let masked = (u32::from(port) & !(0xffff_u32 >> bits)) as u16;
            self.ranges.get(&(RangeKey { port_be: masked.to_be(), ..*key }, bits)).copied()
        })
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => assert!(map.insert(key, value).is_none(), "values of hash maps are never replaced"),
        None => assert!(map.remove(&key).is_some(), "what is deleted was there"),
    }
}

impl Maps {
    pub(crate) fn verdict(&self, set: u32, peer: IpAddr, proto: u8, port: u16) -> Verdict {
        let target = Target { proto, port_be: port.to_be() };
        match peer {
            IpAddr::V4(v4) => verdict::<V4, _>(self, set, V4::from_ne_bytes(v4.octets()), target),
            IpAddr::V6(address) => verdict::<V6, _>(self, set, v6(address), target),
        }
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Rule(key, rule) => put(&mut self.rules, *key, *rule),
            Step::Range(key, bits, rule) => put(&mut self.ranges, (*key, *bits), *rule),
            Step::Head(set, head) => drop(self.heads.insert(*set, *head)),
            Step::Class(class, digest) => drop(self.classes.insert(*class, *digest)),
            Step::PeerWord { index, address, class } => {
                self.words.insert(*index, (tagged(*address, *class), *class));
            }
            Step::Peer(address, index) => put(&mut self.peers, *address, *index),
            Step::World(net, Some(class)) => drop(self.world.insert(*net, *class)),
            Step::World(net, None) => put(&mut self.world, *net, None),
            Step::Pod(name, word) => drop(self.pods.insert(name.clone(), *word)),
            Step::Grace => {}
        }
    }

    /// What an agent finds that was just started.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            heads: self.heads.clone(),
            rules: self.rules.iter().map(|(key, rule)| (*key, *rule)).collect(),
            ranges: self.ranges.iter().map(|((key, bits), rule)| (*key, *bits, *rule)).collect(),
            classes: self.classes.iter().filter(|(_, digest)| **digest != 0).map(|(c, d)| (*c, *d)).collect(),
            peers: self
                .peers
                .iter()
                .map(|(address, index)| (*address, (*index, self.words[index].1)))
                .collect(),
            prefixes: self.world.clone(),
            pods: self.pods.clone(),
        }
    }
}
