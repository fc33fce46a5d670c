//! Route netlink in the words of this module: every call names what it does, dumps come back as small plain
//! records, and "already there" or "already gone" are answers, not failures.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use rtnetlink::{Error, Handle, LinkUnspec, RouteMessageBuilder};
use tokio::sync::Mutex;

use super::NetError;

/// `rtm_protocol` of every route that the agent makes, so that it never takes another daemon's for its own.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(71);

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Clone)]
pub(super) struct Netlink {
    handle: Handle,
    /// Held during a dump: the kernel answers a second one on the same socket with EBUSY.
    dump: Arc<Mutex<()>>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) loopback: bool,
    pub(super) mac: Option<[u8; 6]>,
}

/// An IPv4 address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) index: u32,
    pub(super) address: Ipv4Addr,
    pub(super) prefix_len: u8,
    pub(super) global: bool,
    pub(super) label: Option<String>,
}

/// An IPv4 route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: Ipv4Net,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) link: Option<u32>,
    pub(super) ours: bool,
    pub(super) metric: u32,
    /// Leads nowhere, and says so.
    pub(super) unreachable: bool,
}

/// How the kernel would send to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It is one of this host's own.
    Local,
    /// Directly on this interface.
    OnLink(u32),
    /// Through a router.
    Via(Ipv4Addr),
}

pub(super) fn failed<S: Into<String>>(operation: &'static str, subject: S) -> impl FnOnce(Error) -> NetError {
    let subject = subject.into();
    move |source| NetError::Netlink { operation, subject, source: Box::new(source) }
}

pub(super) fn io_failed(operation: &'static str, subject: &str) -> impl FnOnce(std::io::Error) -> NetError {
    let subject = subject.to_owned();
    move |source| NetError::Netlink { operation, subject, source: Box::new(source) }
}

fn errno(error: &Error) -> Option<i32> {
    match error {
        Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

fn absent_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if matches!(errno(&error), Some(libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL)) => {
            Ok(())
        }
        other => other,
    }
}

/// Whether the interface was there, and up, when something was put on it.
fn present(result: Result<(), Error>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if matches!(errno(&error), Some(libc::ENODEV | libc::ENETDOWN)) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace and drives it on the current runtime.
    pub(super) fn open() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(io_failed("open", "socket"))?;
        tokio::spawn(connection);
        Ok(Self { handle, dump: Arc::default() })
    }

    pub(super) async fn links(&self) -> Result<Vec<Link>, NetError> {
        let _alone = self.dump.lock().await;
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed("list", "links"))?;
        Ok(links.iter().map(Link::read).collect())
    }

    pub(super) async fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        let mut found = Box::pin(self.handle.link().get().match_name(name.to_owned()).execute());
        match found.try_next().await {
            Ok(link) => Ok(link.as_ref().map(Link::read)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(failed("get link", name)(error)),
        }
    }

    /// Creates a link; `false` when the name is taken.
    pub(super) async fn add_link(&self, name: &str, message: LinkMessage) -> Result<bool, NetError> {
        match self.handle.link().add(message).execute().await {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(failed("add link", name)(error)),
        }
    }

    pub(super) async fn delete_link(&self, name: &str) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_name(name).build();
        let mut request = self.handle.link().del(0);
        *request.message_mut() = message;
        absent_is_fine(request.execute().await).map_err(failed("remove link", name))
    }

    pub(super) async fn set_up(&self, index: u32) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(failed("set up link", index.to_string()))
    }

    pub(super) async fn addresses(&self) -> Result<Vec<Address>, NetError> {
        let _alone = self.dump.lock().await;
        let all: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(failed("list", "addresses"))?;
        Ok(all.iter().filter_map(Address::read).collect())
    }

    /// Puts a /32 on an interface. With a `label` it can be told from addresses of other owners.
    pub(super) async fn add_address(
        &self,
        index: u32,
        address: Ipv4Addr,
        scope: AddressScope,
        label: Option<&str>,
    ) -> Result<(), NetError> {
        let mut request = self.handle.address().add(index, IpAddr::V4(address), 32).replace();
        let message = request.message_mut();
        message.header.scope = scope;
        message.attributes.extend(label.map(|label| AddressAttribute::Label(label.to_owned())));
        request.execute().await.map_err(failed("add address", address.to_string()))
    }

    /// Removes an address that has this label on this interface, and no other.
    pub(super) async fn delete_address(&self, address: &Address) -> Result<(), NetError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = address.prefix_len;
        message.header.index = address.index;
        message.attributes.push(AddressAttribute::Local(IpAddr::V4(address.address)));
        message.attributes.extend(address.label.clone().map(AddressAttribute::Label));
        absent_is_fine(self.handle.address().del(message).execute().await)
            .map_err(failed("remove address", address.address.to_string()))
    }

    pub(super) async fn routes(&self) -> Result<Vec<Route>, NetError> {
        let _alone = self.dump.lock().await;
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<RouteMessage> = self
            .handle
            .route()
            .get(request)
            .execute()
            .try_collect()
            .await
            .map_err(failed("list", "routes"))?;
        Ok(routes.iter().filter_map(Route::read).collect())
    }

    /// Adds or replaces one of our routes.
    pub(super) async fn set_route(&self, message: RouteMessage, subject: &str) -> Result<(), NetError> {
        self.handle.route().add(message).replace().execute().await.map_err(failed("add route", subject))
    }

    /// Adds one of our routes, or replaces ours to the same place; `false` when its interface has gone.
    pub(super) async fn put_route(&self, route: &Route) -> Result<bool, NetError> {
        let set = self.handle.route().add(route.message()).replace().execute().await;
        present(set).map_err(failed("add route", route.to.to_string()))
    }

    pub(super) async fn delete_route(&self, route: &Route) -> Result<(), NetError> {
        let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(route.to.addr(), route.to.prefix_len())
            .protocol(PROTOCOL);
        if let Some(link) = route.link {
            builder = builder.output_interface(link);
        }
        if let Some(gateway) = route.gateway {
            builder = builder.gateway(gateway);
        }
        let mut message = builder.build();
        // The kernel compares the type unless there is none.
        message.header.kind = RouteType::Unspec;
        // And the scope unless it is the widest: "nowhere" matches any.
        message.header.scope = RouteScope::NoWhere;
        absent_is_fine(self.handle.route().del(message).execute().await)
            .map_err(failed("remove route", route.to.to_string()))
    }

    /// Asks the kernel how it would send to `address`; `None` when it would not.
    pub(super) async fn reach(&self, address: Ipv4Addr) -> Result<Option<Reach>, NetError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build();
        let mut request = self.handle.route().get(request);
        // A query is for a destination, not for a route of some protocol, table or type.
        request.message_mut().header = RouteHeader {
            address_family: AddressFamily::Inet,
            destination_prefix_length: 32,
            ..RouteHeader::default()
        };
        let mut answer = Box::pin(request.execute());
        let message = match answer.try_next().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(error) if matches!(errno(&error), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
                return Ok(None);
            }
            Err(error) => return Err(failed("look up route to", address.to_string())(error)),
        };
        if message.header.kind == RouteType::Local {
            return Ok(Some(Reach::Local));
        }
        let (gateway, link) = next_hop(&message);
        Ok(match (gateway, link) {
            (Some(gateway), _) => Some(Reach::Via(gateway)),
            (None, Some(link)) => Some(Reach::OnLink(link)),
            (None, None) => None,
        })
    }

    /// A permanent entry; `false` when its interface has gone.
    pub(super) async fn set_neighbour(
        &self,
        index: u32,
        address: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<bool, NetError> {
        let add = self.handle.neighbours().add(index, IpAddr::V4(address)).link_layer_address(&mac).replace();
        present(add.execute().await).map_err(failed("add neighbour", address.to_string()))
    }
}

impl Link {
    fn read(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            mac: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                _ => {}
            }
        }
        link
    }
}

impl Address {
    fn read(message: &AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut label = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => local = Some(*address),
                AddressAttribute::Label(text) => label = Some(text.clone()),
                _ => {}
            }
        }
        Some(Self {
            index: message.header.index,
            address: local?,
            prefix_len: message.header.prefix_len,
            global: message.header.scope == AddressScope::Universe,
            label,
        })
    }
}

impl Route {
    fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.address_family != AddressFamily::Inet || header.table != RouteHeader::RT_TABLE_MAIN {
            return None;
        }
        let mut to = Ipv4Addr::UNSPECIFIED;
        let mut metric = 0;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
                RouteAttribute::Priority(value) => metric = *value,
                _ => {}
            }
        }
        let (gateway, link) = next_hop(message);
        Some(Self {
            to: Ipv4Net::new(to, header.destination_prefix_length).ok()?,
            gateway,
            link,
            ours: header.protocol == PROTOCOL,
            metric,
            unreachable: header.kind == RouteType::Unreachable,
        })
    }

    /// The request that makes it.
    fn message(&self) -> RouteMessage {
        let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(self.to.addr(), self.to.prefix_len())
            .protocol(PROTOCOL);
        if let Some(link) = self.link {
            builder = builder.output_interface(link);
        }
        match self.gateway {
            Some(gateway) => builder = builder.gateway(gateway).onlink(),
            None if self.unreachable => builder = builder.kind(RouteType::Unreachable),
            None => builder = builder.scope(RouteScope::Link),
        }
        builder.build()
    }
}

fn next_hop(message: &RouteMessage) -> (Option<Ipv4Addr>, Option<u32>) {
    let mut gateway = None;
    let mut link = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    (gateway, link)
}
