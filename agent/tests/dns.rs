//! Cluster DNS as a pod sees it: the C library's resolver in the pod's namespace, against the address that `net`
//! puts on the node.

#![expect(clippy::unwrap_used, reason = "a failure here is the test's failure")]

#[expect(dead_code, reason = "shared by several suites, each of which uses a part")]
mod support;

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use gantry_agent::{
    dns::{DnsError, DnsSettings, Metrics, Names, Server, SharedNames, Upstreams},
    lifecycle::{Drain, Gates},
    model::{ClusterNetwork, ServiceId, ServiceSpec, ServiceTable, ServiceType},
    net::Network,
    reconcile::NameServer,
};
use nix::mount::{MsFlags, mount};
use prometheus_client::registry::Registry;
use support::{cluster, configure, network, on_own_host, pod, view};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn table(address: &str) -> Arc<ServiceTable> {
    let spec = ServiceSpec {
        generation: 1,
        kind: ServiceType::ClusterIp,
        cluster_ips: vec![address.parse().unwrap()],
        headless: false,
        external_name: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        affinity: None,
        internal_local: false,
        external_local: false,
        publish_not_ready: false,
        health_port: None,
        source_ranges: Vec::new(),
        ports: Vec::new(),
    };
    let id = ServiceId { namespace: "default".into(), name: "web".into() };
    Arc::new(ServiceTable::from([(id, Arc::new(spec))]))
}

fn settings() -> DnsSettings {
    DnsSettings {
        upstreams: Upstreams::ResolvConf(PathBuf::from("/etc/resolv.conf")),
        timeout: Duration::from_millis(200),
        cache_entries: 16,
    }
}

async fn serve(
    names: SharedNames,
    stop: &CancellationToken,
) -> Result<tokio::task::JoinHandle<()>, DnsError> {
    let address = SocketAddr::new(cluster().dns_ip, 53);
    let server = Server::bind(address, settings(), names, Metrics::new(&mut Registry::default())).await?;
    Ok(tokio::spawn(server.serve(stop.clone())))
}

/// What `getent` says, run beside the server; empty when the name is not found.
async fn lookup(netns: PathBuf, name: &'static str) -> String {
    let enter = format!("--net={}", netns.display());
    let mut command = tokio::process::Command::from(Command::new("nsenter"));
    let output = command.args([&enter, "getent", "ahosts", name]).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pods_resolver_follows_the_service_table() {
    on_own_host(|| async {
        let root = tempfile::tempdir().unwrap();
        let resolv_conf = root.path().join("resolv.conf");
        // What a pod has; the server reads it too, as a host that points at us would have it: our own address
        // must be passed over, not asked.
        let text = "nameserver 10.96.0.10\nsearch default.svc.cluster.local svc.cluster.local cluster.local\n\
                    options ndots:5 timeout:2 attempts:1\n";
        fs::write(&resolv_conf, text).unwrap();
        mount(Some(&resolv_conf), "/etc/resolv.conf", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();

        let network = network(root.path());
        configure(&network, cluster()).await;
        let netns = network.ensure_pod(&pod(1)).await.unwrap().netns;
        let names: SharedNames = Arc::new(ArcSwapOption::empty());
        let stop = CancellationToken::new();
        let running = serve(names.clone(), &stop).await.unwrap();

        assert_eq!(lookup(netns.clone(), "web").await, "", "before the cluster is known");
        names.store(Some(Arc::new(Names::new(cluster(), table("10.96.0.20")).unwrap())));
        for name in ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local"] {
            assert!(lookup(netns.clone(), name).await.contains("10.96.0.20"), "{name}");
        }
        assert_eq!(lookup(netns.clone(), "nosuch").await, "");
        assert_eq!(lookup(netns.clone(), "www.example.org").await, "", "nobody to forward to");

        names.store(Some(Arc::new(Names::new(cluster(), table("10.96.0.21")).unwrap())));
        assert!(lookup(netns.clone(), "web").await.contains("10.96.0.21"));

        stop.cancel();
        running.await.unwrap();
        let again = CancellationToken::new();
        serve(names, &again).await.unwrap();
        assert!(lookup(netns, "web").await.contains("10.96.0.21"), "the address outlives the server");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_address_in_use_is_told() {
    on_own_host(|| async {
        let root = tempfile::tempdir().unwrap();
        configure(&network(root.path()), cluster()).await;
        let stop = CancellationToken::new();
        let names: SharedNames = Arc::new(ArcSwapOption::empty());
        serve(names.clone(), &stop).await.unwrap();
        let refused = serve(names, &stop).await.unwrap_err();
        assert!(refused.to_string().starts_with("cannot listen for DNS on 10.96.0.10:53"), "{refused}");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn names_are_answered_where_the_ranges_in_force_say() {
    on_own_host(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        let (view, seen) = watch::channel(Arc::new(view(root.path())));
        let (gates, drain) = (Gates::default(), Drain::default());
        let server = NameServer {
            view: seen,
            settings: settings(),
            names: Arc::new(ArcSwapOption::empty()),
            metrics: Metrics::new(&mut Registry::default()),
            served: gates.register("dns"),
            drain: drain.clone(),
        };
        drain.spawn(server.run());
        let put = |cluster: &ClusterNetwork| {
            view.send_modify(|view| Arc::make_mut(view).cluster = Some(cluster.clone()));
        };
        let bind = |at: &ClusterNetwork| std::net::UdpSocket::bind((at.dns_ip, 53));
        let is_served =
            |at: &ClusterNetwork| bind(at).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse);
        // Somebody else has the port at the first try.
        configure(&network, cluster()).await;
        let other = bind(&cluster()).unwrap();
        put(&cluster());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(gates.closed(), ["dns"]);
        drop(other);
        tokio::time::timeout(Duration::from_secs(10), gates.all_open()).await.unwrap();
        assert!(is_served(&cluster()));
        let moved = ClusterNetwork { dns_ip: "10.96.0.11".parse().unwrap(), ..cluster() };
        configure(&network, moved.clone()).await;
        put(&moved);
        tokio::time::timeout(Duration::from_secs(10), async {
            while !is_served(&moved) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
        assert!(!is_served(&cluster()), "one server, where the cluster's names are now");
        assert!(drain.finish(Duration::from_secs(10)).await);
    });
}
