//! What the programs should do with a packet, in the plainest words: a second opinion for the test of random packets.
//! Each service has one backend at most, so that there is nothing to choose.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use agent_ebpf_common::abi::{SNAT_PORTS, TCP, UDP};

use super::{
    HAIRPIN, NODE,
    frames::{ETHERNET, End, FRAGMENT_OFFSET, MORE_FRAGMENTS, address, checksum_at, l4_at},
};
use crate::{
    dataplane::endpoints::tests::{endpoint, port, spec},
    model::{Protocol, ServiceSpec},
};

pub(super) const PROGRAMS: [&str; 4] = ["from_pod", "to_pod", "uplink_in", "uplink_out"];

/// One port of one service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    name: &'static str,
    pub(super) proto: u8,
    pub(super) vip: End,
    pub(super) node_port: u16,
    pub(super) backend: Option<End>,
    /// Its backend is on this node.
    local: bool,
    /// From outside it takes clients to backends on this node only.
    external_local: bool,
}

const fn service(name: &'static str, proto: u8, number: u8, backend: Option<End>) -> Service {
    let port = if proto == TCP { 80 } else { 53 };
    let (vip, node_port) = (([10, 96, 1, number], port), 30_000 + number as u16);
    Service { name, proto, vip, node_port, backend, local: true, external_local: false }
}

pub(super) const SERVICES: [Service; 8] = [
    service("web", TCP, 1, Some(([10, 244, 0, 3], 8080))),
    service("dns", UDP, 2, Some(([10, 244, 0, 4], 5353))),
    service("no-web", TCP, 3, None),
    service("no-dns", UDP, 4, None),
    Service { local: false, ..service("far-web", TCP, 5, Some(([10, 245, 0, 1], 8080))) },
    Service { local: false, ..service("far-dns", UDP, 6, Some(([10, 245, 0, 2], 5353))) },
    Service {
        local: false,
        external_local: true,
        ..service("elsewhere", TCP, 7, Some(([10, 245, 0, 3], 80)))
    },
    Service { external_local: true, ..service("here", UDP, 8, Some(([10, 244, 0, 5], 53))) },
];

impl Service {
    /// For the agent.
    pub(super) fn spec(&self) -> (&'static str, ServiceSpec) {
        let node = if self.local { "here" } else { "there" };
        let backend = self.backend.map(|end| endpoint(&SocketAddr::from(end).to_string(), node));
        let mut port = port(backend.into_iter().collect());
        port.protocol = if self.proto == TCP { Protocol::Tcp } else { Protocol::Udp };
        port.port = self.vip.1;
        port.node_port = Some(self.node_port);
        let spec = ServiceSpec {
            cluster_ips: vec![IpAddr::from(self.vip.0)],
            external_local: self.external_local,
            ports: vec![port],
            ..spec()
        };
        (self.name, spec)
    }
}

/// What should become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// It goes on as it is.
    Untouched,
    /// It goes on with other ends.
    Rewritten((End, End)),
    /// It goes on in the node's name, by a port that the program chooses.
    Disguised,
    /// It goes back into its pod with other ends.
    Back((End, End)),
    /// Its sender is told that nobody is there.
    Refused,
    /// It is gone, counted under this reason.
    Dropped(&'static str),
}

impl Outcome {
    /// Its name, without what is different from packet to packet.
    pub(super) fn kind(&self) -> String {
        match self {
            Self::Dropped(reason) => (*reason).to_owned(),
            other => format!("{other:?}").split('(').next().unwrap().to_owned(),
        }
    }
}

/// A packet as a program should understand it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) proto: u8,
    pub(super) ends: (End, End),
    pub(super) headless: bool,
}

/// A way through one program.
pub(super) type Key = (&'static str, u8, (End, End));

/// What the programs remember.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Whose packets leave by the interface that the test runs are at.
    pub(super) pod: [u8; 4],
    pub(super) flows: HashMap<Key, Outcome>,
    fragments: HashMap<(&'static str, [u8; 10], u8), (u16, u16)>,
}

impl Model {
    /// Reads the headers as far as they are there; `None`: not for a service.
    pub(super) fn view(&mut self, program: &'static str, frame: &[u8]) -> Option<View> {
        let proto = frame[23];
        if frame[12..14] != [8, 0] || ![TCP, UDP].contains(&proto) {
            return None;
        }
        // Less than a whole header by its own word.
        if frame[ETHERNET] & 0x0f < 5 {
            return None;
        }
        let (l4, fragment) = (l4_at(frame), u16::from_be_bytes([frame[20], frame[21]]));
        let mut datagram = [0; 10];
        datagram[..2].copy_from_slice(&frame[18..20]);
        datagram[2..].copy_from_slice(&frame[26..34]);
        let datagram = (program, datagram, proto);
        let headless = fragment & FRAGMENT_OFFSET != 0;
        let (from, to) = if headless {
            *self.fragments.get(&datagram)?
        } else {
            let ports = frame.get(l4..l4 + 4)?;
            (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]))
        };
        // A segment's first fragment is one only with its flags.
        if proto == TCP && !headless {
            frame.get(l4 + 13)?;
        }
        if fragment & MORE_FRAGMENTS != 0 && !headless {
            self.fragments.insert(datagram, (from, to));
        }
        Some(View { proto, ends: ((address(frame, 26), from), (address(frame, 30), to)), headless })
    }

    /// What `program` should make of the packet.
    pub(super) fn expect(&mut self, program: &'static str, frame: &[u8]) -> Outcome {
        if program == "from_pod" && !self.is_its_own(frame) {
            return Outcome::Dropped("spoofed");
        }
        let Some(view) = self.view(program, frame) else { return Outcome::Untouched };
        let known = self.flows.get(&(program, view.proto, view.ends)).copied();
        let outcome = known.unwrap_or_else(|| self.begin(program, frame, &view));
        let checksum = l4_at(frame) + checksum_at(view.proto);
        match outcome {
            Outcome::Rewritten(_) | Outcome::Disguised | Outcome::Back(_)
                if !view.headless && frame.len() < checksum + 2 =>
            {
                Outcome::Dropped("rewrite_failed")
            }
            outcome => outcome,
        }
    }

    /// Of IPv4, and from the pod.
    fn is_its_own(&self, frame: &[u8]) -> bool {
        let is_headed = frame[12..14] == [8, 0] && frame[ETHERNET] & 0x0f >= 5;
        is_headed && address(frame, 26) == self.pod
    }

    /// Of a packet that belongs to no flow yet.
    fn begin(&mut self, program: &'static str, frame: &[u8], view: &View) -> Outcome {
        let (client, dst) = view.ends;
        let inside = program == "from_pod";
        let is_asked = |service: &&Service| {
            let by_node = dst == (NODE, service.node_port);
            service.proto == view.proto && (by_node || inside && dst == service.vip)
        };
        let service = SERVICES.iter().find(is_asked).filter(|_| inside || program == "uplink_in");
        let Some(service) = service else { return Outcome::Untouched };
        let Some(backend) = service.backend else { return refusal(frame, view) };
        if !inside && service.external_local && !service.local {
            return Outcome::Dropped("no_local_endpoint");
        }
        let hairpin = inside && backend.0 == client.0;
        let there = if hairpin { ((HAIRPIN, client.1), backend) } else { (client, backend) };
        let (back, outcome, answer) = match (inside, hairpin) {
            (true, true) => ("from_pod", Outcome::Back(there), Outcome::Back((dst, client))),
            (true, false) => ("to_pod", Outcome::Rewritten(there), Outcome::Rewritten((dst, client))),
            (false, _) => ("uplink_out", Outcome::Rewritten(there), Outcome::Rewritten((dst, client))),
        };
        let back = (back, view.proto, (there.1, there.0));
        if self.flows.get(&back).is_some_and(|taken| *taken != answer) {
            return Outcome::Dropped("flow_collision");
        }
        self.flows.insert(back, answer);
        if !inside && !service.local && !service.external_local {
            self.flows.insert(("uplink_out", view.proto, there), Outcome::Disguised);
        }
        self.flows.insert((program, view.proto, view.ends), outcome);
        outcome
    }

    /// The port that was chosen for a disguise, which answers come to from now on.
    pub(super) fn learn(&mut self, view: &View, seen: (End, End)) {
        let ((node, port), backend) = seen;
        assert_eq!((node, backend), (NODE, view.ends.1));
        assert!((SNAT_PORTS.0..=SNAT_PORTS.1).contains(&port), "{port}");
        self.flows.insert(("uplink_out", view.proto, view.ends), Outcome::Rewritten(seen));
        let answer = Outcome::Rewritten((backend, view.ends.0));
        let taken = self.flows.insert(("uplink_in", view.proto, (backend, (node, port))), answer);
        assert_eq!(taken, None, "the port of two clients");
    }
}

/// No answer to a reset, to what has no header of its own, and to a datagram that an answer could not quote.
fn refusal(frame: &[u8], view: &View) -> Outcome {
    const RESET: u8 = 4;
    let l4 = l4_at(frame);
    let answered = match view.proto {
        _ if view.headless => false,
        TCP => frame.len() >= l4 + 20 && frame[l4 + 13] & RESET == 0,
        _ => frame.len() >= l4 + 8 && l4 == 34,
    };
    if answered { Outcome::Refused } else { Outcome::Dropped("no_endpoint") }
}
