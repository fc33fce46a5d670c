//! The name server at the cluster DNS address: served where the ranges in force have it, and served anew when they have
//! it elsewhere. What it answers is [`dns`](crate::dns)'s.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    dns::{self, DnsSettings, Server, SharedNames},
    lifecycle::{Drain, Gate},
    model::{NodeView, chain},
};

/// After a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Port of DNS.
const DNS_PORT: u16 = 53;

/// What it takes to serve.
pub struct NameServer {
    /// The node: its view has the ranges in force.
    pub view: watch::Receiver<Arc<NodeView>>,
    /// Whom to ask for other names.
    pub settings: DnsSettings,
    /// What is answered.
    pub names: SharedNames,
    /// Counts.
    pub metrics: dns::Metrics,
    /// Open while names are answered.
    pub served: Gate,
    /// The server is a task of the agent's.
    pub drain: Drain,
}

impl NameServer {
    /// Serves until the agent stops.
    pub async fn run(mut self) {
        let mut serving: Option<(IpAddr, CancellationToken)> = None;
        loop {
            let wanted = self.view.borrow_and_update().cluster.as_ref().map(|cluster| cluster.dns_ip);
            let done = match wanted {
                Some(address) => self.serve(address, &mut serving).await,
                None => true,
            };
            let retry =
                async { if done { std::future::pending().await } else { tokio::time::sleep(RETRY).await } };
            let stop = self.drain.stop.clone();
            // All cancel-safe: a watch, a timer, a flag.
            tokio::select! {
                changed = self.view.changed() => if changed.is_err() { return },
                () = retry => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Answers at this address; at another one no more.
    async fn serve(&self, address: IpAddr, serving: &mut Option<(IpAddr, CancellationToken)>) -> bool {
        if serving.as_ref().is_some_and(|(known, _)| *known == address) {
            return true;
        }
        if let Some((_, stop)) = serving.take() {
            stop.cancel();
            self.served.close();
        }
        let at = SocketAddr::new(address, DNS_PORT);
        match Server::bind(at, self.settings.clone(), self.names.clone(), self.metrics.clone()).await {
            Ok(server) => {
                let stop = self.drain.stop.child_token();
                *serving = Some((address, stop.clone()));
                self.drain.spawn(server.serve(stop));
                self.served.open();
                true
            }
            Err(error) => {
                warn!(error = %chain(&error), "cluster names are not answered on this node");
                false
            }
        }
    }
}
