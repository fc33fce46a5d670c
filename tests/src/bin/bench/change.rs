//! One endpoint change, end to end: from just before the API call that writes it until a connect on the node has another
//! outcome. A child on the node connects to the service's address all the time and says when the answer changes; both
//! processes read the same monotonic clock. The other services are there so that a change is one among many.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};

use crate::report::Row;

const NAMESPACE: &str = "bench-change";
/// Service writes at a time while the table is filled.
const PARALLEL: usize = 16;
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// Between two changes, so that each finds a quiet system.
const PAUSE: Duration = Duration::from_millis(30);
/// Between two connects: the resolution of the measurement.
const ASK_EVERY: Duration = Duration::from_micros(200);

/// What and how much.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many changes.
    #[arg(long, default_value_t = 500)]
    count: u32,
    /// Other services with four endpoints each.
    #[arg(long, default_value_t = 1000)]
    services: u32,
    /// An address of the node at which the child may listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Words before the child's own: how to enter the node (`sh -c ...`).
    #[arg(last = true)]
    enter: Vec<String>,
}

/// The child.
#[derive(clap::Args)]
pub(crate) struct Ask {
    /// Listens here: the endpoint.
    #[arg(long)]
    listen: SocketAddr,
    /// Connects to this: the service.
    service: SocketAddr,
}

/// Runs it.
pub(crate) async fn run(options: &Options) -> Result<Vec<Row>> {
    let client = Client::try_default().await.context("no client from KUBECONFIG")?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let measured = measure(options, &client).await;
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
    let what = format!("endpoint change: API write to connect, {} other services", options.services);
    Ok(vec![Row::times(&what, &measured?, "p99 under 20 ms")])
}

async fn measure(options: &Options, client: &Client) -> Result<Histogram<u64>> {
    stream::iter(0..options.services)
        .map(|i| async move {
            let addresses: Vec<String> = (1..=4).map(|n| format!("198.18.{}.{n}", i % 256)).collect();
            create(client, &format!("other-{i}"), 8080, &addresses).await.map(drop)
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    let service = create(client, "changed", options.listen.port(), &[]).await?;
    let mut answers = start_child(options, service)?;
    ensure!(next(&mut answers).await?.1 == "refused", "the service answered before it had an endpoint");
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let mut times = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|e| anyhow!("histogram: {e}"))?;
    for i in 0..options.count {
        tokio::time::sleep(PAUSE).await;
        let there = i % 2 == 0;
        let endpoints = if there { endpoints(&[options.listen.ip().to_string()]) } else { json!([]) };
        let since = now()?;
        let patch = json!({ "endpoints": endpoints });
        slices.patch("changed", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        let (at, answer) = next(&mut answers).await?;
        let expected = if there { "connected" } else { "refused" };
        ensure!(answer == expected, "change {i} led to {answer}");
        times.record(u64::try_from(at.saturating_sub(since).as_micros())?.max(1))?;
    }
    Ok(times)
}

/// A service without selector and its slice; the service's address.
async fn create(client: &Client, name: &str, port: u16, addresses: &[String]) -> Result<SocketAddr> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": port}]}});
    let made = services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let slice = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"port": port}],
        "endpoints": endpoints(addresses),
    });
    slices.create(&PostParams::default(), &serde_json::from_value(slice)?).await?;
    let address = made.spec.and_then(|spec| spec.cluster_ip).context("the service has no address")?;
    Ok(SocketAddr::new(address.parse()?, port))
}

fn endpoints(addresses: &[String]) -> Value {
    addresses.iter().map(|a| json!({"addresses": [a], "conditions": {"ready": true}})).collect()
}

type Answers = (tokio::process::Child, Lines<BufReader<tokio::process::ChildStdout>>);

fn start_child(options: &Options, service: SocketAddr) -> Result<Answers> {
    let own = std::env::current_exe()?.display().to_string();
    let mut words = options.enter.clone();
    words.extend([
        own,
        "ask".to_owned(),
        "--listen".to_owned(),
        options.listen.to_string(),
        service.to_string(),
    ]);
    let mut child = tokio::process::Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the child on the node")?;
    let output = child.stdout.take().context("the child has no output")?;
    Ok((child, BufReader::new(output).lines()))
}

/// The next change that the child saw: when, and what.
async fn next(answers: &mut Answers) -> Result<(Duration, String)> {
    let line = tokio::time::timeout(SEEN_WITHIN, answers.1.next_line()).await;
    let line = line.context("the node saw no change")??.context("the child on the node ended")?;
    let (nanos, answer) = line.split_once(' ').with_context(|| format!("the child said {line:?}"))?;
    Ok((Duration::from_nanos(nanos.parse()?), answer.to_owned()))
}

/// The child's loop. It ends with its output.
pub(crate) fn ask(ask: &Ask) -> Result<()> {
    // Connections wait in the backlog or are dropped there: a connect needs nobody who accepts, but a full backlog
    // would make it wait.
    let listener = TcpListener::bind(ask.listen)?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let mut last = "";
    loop {
        let answer = match TcpStream::connect(ask.service) {
            Ok(_) => "connected",
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => "refused",
            Err(error) => return Err(error).context("neither connected nor refused"),
        };
        if answer != last {
            last = answer;
            let mut output = io::stdout().lock();
            if writeln!(output, "{} {answer}", now()?.as_nanos()).and_then(|()| output.flush()).is_err() {
                return Ok(());
            }
        }
        std::thread::sleep(ASK_EVERY);
    }
}

fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}
