//! Network namespaces beside the node's: pods behind veth pairs, and the world behind the uplink.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
};

use gantry_agent::{
    dataplane::{Dataplane as _, EbpfDataplane},
    model::{PodAddresses, PodUid},
};
use nix::sched::{CloneFlags, setns};

use crate::support::{NODE_ADDRESS, PATIENCE, Server, chain, run};

static COUNTER: AtomicU32 = AtomicU32::new(0);
const HOST_MAC: &str = "02:00:00:00:00:01";

/// A network namespace with a name, removed with this value.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("gt-{}-{number}", std::process::id());
        run(&format!("ip netns add {name}"));
        run(&format!("ip -n {name} link set lo up"));
        Self { name }
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `work` in a thread that is in this namespace; so are the threads it starts.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&format!("ip netns del {}", self.name));
    }
}

/// Lets the node's namespace route between pods and the world.
pub(crate) fn make_router() {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    run(&format!("ip addr replace {NODE_ADDRESS}/32 dev lo"));
}

/// A pod: one address, everything by way of the node.
pub(crate) struct Pod {
    pub(crate) namespace: Namespace,
    pub(crate) uid: PodUid,
    pub(crate) addresses: PodAddresses,
}

impl Pod {
    /// Makes a pod of the node whose namespace the calling thread is in.
    pub(crate) fn new(address: &str) -> Self {
        let namespace = Namespace::new();
        let inside = &namespace.name;
        let outside = format!("v{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip link add {outside} address {HOST_MAC} type veth peer name eth0 netns {inside}"));
        run(&format!("ip link set {outside} up"));
        run(&format!("ip -n {inside} link set eth0 up"));
        run(&format!("ip -n {inside} addr add {address}/32 dev eth0"));
        run(&format!("ip -n {inside} route add 169.254.1.1 dev eth0"));
        run(&format!("ip -n {inside} route add default via 169.254.1.1"));
        run(&format!("ip -n {inside} neigh replace 169.254.1.1 lladdr {HOST_MAC} dev eth0"));
        // The wire of an ended pod, and its route, may outlive the namespace for a moment.
        run(&format!("ip route replace {address}/32 dev {outside}"));
        let host_ifindex = nix::net::if_::if_nametoindex(outside.as_str()).unwrap();
        let uid = PodUid::from(inside.as_str());
        Self { namespace, uid, addresses: PodAddresses { v4: address.parse().unwrap(), host_ifindex } }
    }

    /// The host's end of its wire.
    pub(crate) fn interface(&self) -> String {
        let name = nix::net::if_::if_indextoname(self.addresses.host_ifindex).unwrap();
        name.into_string().unwrap()
    }

    /// Takes another address for itself, to which the node has a route as to its own.
    pub(crate) fn claim(&self, address: &str) {
        run(&format!("ip -n {} addr add {address}/32 dev eth0", self.namespace.name));
        run(&format!("ip route replace {address}/32 dev {}", self.interface()));
    }

    pub(crate) fn attach(&self, dataplane: &EbpfDataplane) {
        dataplane
            .attach_pod(&self.uid, &self.namespace.path(), &self.addresses)
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
    }

    pub(crate) fn endpoint(&self, port: u16) -> String {
        format!("{}:{port}", self.addresses.v4)
    }

    /// A TCP server in the pod.
    pub(crate) fn serve(&self, port: u16) -> Server {
        let address = SocketAddr::from((self.addresses.v4, port));
        self.namespace.within(move || Server::listen(address))
    }

    /// A UDP server in the pod.
    pub(crate) fn echo(&self, port: u16) -> Echo {
        let address = SocketAddr::from((self.addresses.v4, port));
        self.namespace.within(move || Echo::bind(address))
    }

    /// Runs `work` in the pod.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.within(work)
    }
}

/// The world: a namespace at the other end of the node's uplink `up0`.
pub(crate) struct World(pub(crate) Namespace);

impl World {
    /// The world's own address.
    pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    pub(crate) fn new() -> Self {
        let namespace = Namespace::new();
        let inside = &namespace.name;
        run(&format!("ip link add up0 type veth peer name eth0 netns {inside}"));
        run("ip link set up0 up");
        run(&format!("ip addr add {NODE_ADDRESS}/24 dev up0"));
        run(&format!("ip -n {inside} link set eth0 up"));
        run(&format!("ip -n {inside} addr add {}/24 dev eth0", Self::ADDRESS));
        run(&format!("ip -n {inside} route add default via {NODE_ADDRESS}"));
        Self(namespace)
    }

    /// Gives the world an address that the node reaches by way of it.
    pub(crate) fn add(&self, address: &str) {
        run(&format!("ip -n {} addr add {address}/32 dev lo", self.0.name));
        run(&format!("ip route add {address}/32 via {}", Self::ADDRESS));
    }
}

/// A UDP server that answers with its own address, the sender's address and what it got.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// In the calling thread's namespace.
    pub(crate) fn bind(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        // How often a server looks whether it should end.
        socket.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Acquire) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                let mut answer = format!("{address} {peer} ").into_bytes();
                answer.extend_from_slice(&buffer[..length]);
                let _ = socket.send_to(&answer, peer);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket that gives up after a while.
pub(crate) fn datagram_socket() -> UdpSocket {
    datagram_socket_at(0)
}

/// At a port; 0 is any.
pub(crate) fn datagram_socket_at(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends over a connected socket and returns the answer.
pub(crate) fn exchange(socket: &UdpSocket, data: &str) -> io::Result<String> {
    socket.send(data.as_bytes())?;
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
