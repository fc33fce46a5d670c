//! What others do to the host's network: the kernel tells it at once, and this rings. What the agent does itself and
//! what is of no concern does not ring; what was lost on the way does, because it may have been anything.

use std::time::Duration;

use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    route::{RouteHeader, RouteMessage},
};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    sys::SocketAddr,
};
use tokio::sync::watch;

use super::{
    NetError,
    netlink::{PROTOCOL, io_failed},
};

/// What is listened to.
const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
/// Before the socket is opened again that was closed.
const AGAIN: Duration = Duration::from_secs(1);

type Told = UnboundedReceiver<(NetlinkMessage<Message>, SocketAddr)>;

/// Listens in the calling thread's network namespace, on the current runtime, until nobody follows.
pub(super) fn follow() -> Result<watch::Receiver<()>, NetError> {
    let (bell, rings) = watch::channel(());
    let mut told = listen()?;
    tokio::spawn(async move {
        loop {
            // Cancel-safe: a stream keeps what was not taken.
            let message = tokio::select! {
                message = told.1.next() => message,
                () = bell.closed() => return,
            };
            if message.as_ref().is_none_or(|(message, _)| concerns(&message.payload)) {
                bell.send_replace(());
            }
            while message.is_none() {
                tokio::time::sleep(AGAIN).await;
                match listen() {
                    Ok(again) => told = again,
                    Err(error) => {
                        let error = crate::model::chain(&error);
                        tracing::warn!(error, "changes of the host's network are not heard");
                        continue;
                    }
                }
                // What happened meanwhile was not told.
                bell.send_replace(());
                break;
            }
        }
    });
    Ok(rings)
}

/// The handle keeps the socket open.
fn listen() -> Result<(Handle, Told), NetError> {
    let (connection, handle, told) =
        rtnetlink::new_multicast_connection(&GROUPS).map_err(io_failed("listen to", "changes"))?;
    tokio::spawn(connection);
    Ok((handle, told))
}

fn concerns(payload: &NetlinkPayload<Message>) -> bool {
    match payload {
        // Every address and every link: an uplink or a peer's network may come or go with it, a pod's route has gone
        // without a word when its wire was down.
        NetlinkPayload::InnerMessage(
            Message::NewLink(_) | Message::DelLink(_) | Message::NewAddress(_) | Message::DelAddress(_),
        ) => true,
        // One of ours that was added is what this agent wants; its end is news, whoever ended it.
        NetlinkPayload::InnerMessage(Message::NewRoute(route)) => in_main(route) && !is_ours(route),
        NetlinkPayload::InnerMessage(Message::DelRoute(route)) => in_main(route),
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

fn in_main(route: &RouteMessage) -> bool {
    route.header.address_family == AddressFamily::Inet && route.header.table == RouteHeader::RT_TABLE_MAIN
}

fn is_ours(route: &RouteMessage) -> bool {
    route.header.protocol == PROTOCOL
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{address::AddressMessage, link::LinkMessage, neighbour::NeighbourMessage};

    use super::*;

    fn route(table: u8, protocol: netlink_packet_route::route::RouteProtocol) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        (route.header.table, route.header.protocol) = (table, protocol);
        route
    }

    #[test]
    fn what_others_do_rings_and_what_we_add_does_not() {
        use netlink_packet_route::route::RouteProtocol::Static;
        let main = RouteHeader::RT_TABLE_MAIN;
        let rings = |message| concerns(&NetlinkPayload::InnerMessage(message));
        for message in [
            Message::NewLink(LinkMessage::default()),
            Message::DelLink(LinkMessage::default()),
            Message::NewAddress(AddressMessage::default()),
            Message::DelAddress(AddressMessage::default()),
            Message::NewRoute(route(main, Static)),
            Message::DelRoute(route(main, Static)),
            Message::DelRoute(route(main, PROTOCOL)),
        ] {
            assert!(rings(message.clone()), "{message:?}");
        }
        for message in [
            Message::NewRoute(route(main, PROTOCOL)),
            Message::NewRoute(route(255, Static)),
            Message::NewNeighbour(NeighbourMessage::default()),
        ] {
            assert!(!rings(message.clone()), "{message:?}");
        }
        assert!(concerns(&NetlinkPayload::Overrun(Vec::new())), "nobody knows what was lost");
    }
}
