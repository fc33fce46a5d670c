//! An agent whose node is made up: the real session code, a fake node behind it.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use gantry_agent::{
    control::{
        CaPin, Control, ControlConfig, ControlParts, JoinToken, NodeReporter, OpenStream, StreamHandler,
    },
    model::{
        ContainerUsage, Desired, DialTarget, NodeFacts, NodeUsage, PodUid, StreamEnd, StreamInput,
        StreamOutput, StreamRefusal, StreamRequest, Vitals,
    },
};
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Speaks for a node; serves streams by echoing.
pub(crate) struct Fake {
    cpu: Mutex<u64>,
    /// The node's address.
    pub(crate) address: watch::Sender<String>,
    /// Pods whose container `c` is measured.
    pub(crate) pods: Mutex<Vec<PodUid>>,
}

#[async_trait::async_trait]
impl NodeReporter for Fake {
    async fn facts(&self) -> NodeFacts {
        NodeFacts {
            capacity: [("cpu".to_owned(), "2".to_owned())].into(),
            allocatable: [("cpu".to_owned(), "2".to_owned())].into(),
            labels: [("kubernetes.io/os".to_owned(), "linux".to_owned())].into(),
            addresses: vec![("InternalIP".to_owned(), self.address.borrow().clone())],
            boot_id: "boot".to_owned(),
            ..NodeFacts::default()
        }
    }

    async fn readdressed(&self, told: &[(String, String)]) {
        let is_other = |now: &String| told.iter().all(|(_, known)| known != now);
        // Its other end is ours.
        let _ = self.address.subscribe().wait_for(is_other).await;
    }

    async fn vitals(&self) -> Vitals {
        let mut cpu = self.cpu.lock().unwrap();
        *cpu += 1;
        let time_ms = i64::try_from(*cpu * 1000).unwrap();
        let node =
            NodeUsage { cpu_nano_seconds: *cpu * 250_000_000, memory_working_set_bytes: 1 << 20, time_ms };
        let container = |pod: &PodUid| ContainerUsage {
            pod: pod.clone(),
            container: "c".into(),
            cpu_nano_seconds: *cpu * 100_000_000,
            memory_working_set_bytes: 5 << 20,
            time_ms,
        };
        let containers = self.pods.lock().unwrap().iter().map(container).collect();
        Vitals { node: Some(node), containers, ..Vitals::default() }
    }
}

#[async_trait::async_trait]
impl StreamHandler for Fake {
    async fn open(&self, request: StreamRequest) -> Result<OpenStream, StreamRefusal> {
        let exec = match request {
            StreamRequest::Exec(exec) => exec,
            StreamRequest::Logs(logs) if logs.container.as_str() == "c" => {
                return Ok(Box::new(move |channel| {
                    Box::pin(async move {
                        let lines = format!("one\ntail={:?} follow={}\n", logs.tail_lines, logs.follow);
                        let _ = channel.output.send(StreamOutput::Stdout(lines.into())).await;
                        StreamEnd::default()
                    })
                }));
            }
            StreamRequest::PortForward(forward) => return dial(forward.port).await,
            StreamRequest::Dial(DialTarget::Pod(to)) => return dial(to.port).await,
            StreamRequest::Dial(DialTarget::Node(port)) => return dial(port).await,
            StreamRequest::Dial(DialTarget::Agent) | StreamRequest::Logs(_) => {
                return Err(StreamRefusal { code: 404, message: "no such container".to_owned() });
            }
        };
        Ok(Box::new(move |mut channel| {
            Box::pin(async move {
                let greeting = exec.command.join(" ").into_bytes().into();
                let mut echo = Ok(channel.output.send(StreamOutput::Stderr(greeting)).await.is_ok());
                while let Some(input) = channel.input.recv().await {
                    match input {
                        StreamInput::Stdin(bytes) => {
                            echo = channel.output.send(StreamOutput::Stdout(bytes)).await.map(|()| true);
                        }
                        StreamInput::StdinClosed => break,
                        StreamInput::Resize { .. } => {}
                    }
                }
                StreamEnd { exit_code: Some(if echo.is_ok() { 7 } else { 1 }), error: None }
            })
        }))
    }
}

/// Every address of this node is the loopback one.
async fn dial(port: u16) -> Result<OpenStream, StreamRefusal> {
    let refused = |error| StreamRefusal { code: 503, message: format!("dial tcp 127.0.0.1:{port}: {error}") };
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(refused)?;
    Ok(Box::new(move |mut channel| {
        Box::pin(async move {
            let (mut from, mut to) = stream.into_split();
            let output = channel.output;
            let down = async {
                let mut buffer = vec![0; 4096];
                while let Ok(size @ 1..) = from.read(&mut buffer).await {
                    let bytes = buffer[..size].to_vec().into();
                    if output.send(StreamOutput::Stdout(bytes)).await.is_err() {
                        return;
                    }
                }
            };
            let up = async {
                while let Some(input) = channel.input.recv().await {
                    let done = match input {
                        StreamInput::Stdin(bytes) => to.write_all(&bytes).await,
                        StreamInput::StdinClosed => to.shutdown().await,
                        StreamInput::Resize { .. } => Ok(()),
                    };
                    done.unwrap();
                }
            };
            tokio::select! { () = down => {}, () = up => {} }
            StreamEnd::default()
        })
    }))
}

pub(crate) struct Agent {
    pub(crate) control: Control,
    pub(crate) node: Arc<Fake>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Agent {
    /// Starts an agent that joins with `token`, if it is not empty, and knows the scheduler by the hash of its CA.
    pub(crate) fn start(
        scheduler: SocketAddr,
        node: &str,
        dir: &Path,
        ca_hash: &str,
        token: &str,
    ) -> Result<Self> {
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let address = watch::Sender::new("192.0.2.1".to_owned());
        let fake = Arc::new(Fake { cpu: Mutex::default(), address, pods: Mutex::default() });
        let parts = ControlParts {
            config: ControlConfig {
                scheduler: scheduler.to_string(),
                node: node.into(),
                dir: dir.to_owned(),
                ca_file: None,
                ca_hash: Some(CaPin::parse(ca_hash)?),
                token: (!token.is_empty()).then(|| JoinToken::new(token)),
            },
            reporter: fake.clone(),
            streams: fake.clone(),
        };
        let control = Control::start(parts, &mut Registry::default(), &stop, &tracker)?;
        Ok(Self { control, node: fake, stop, tracker })
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.tracker.close();
        Ok(tokio::time::timeout(PATIENCE, self.tracker.wait()).await?)
    }

    pub(crate) async fn connected(&self) -> Result<()> {
        tokio::time::timeout(PATIENCE, self.control.connected.clone().wait_for(|c| *c)).await??;
        Ok(())
    }

    pub(crate) async fn sees(
        &self,
        what: &str,
        check: impl FnMut(&Arc<Desired>) -> bool,
    ) -> Result<Arc<Desired>> {
        let mut desired = self.control.desired.clone();
        let seen = tokio::time::timeout(PATIENCE, desired.wait_for(check)).await;
        Ok(seen
            .with_context(|| format!("never saw {what}; has {:?}", self.control.desired.borrow()))??
            .clone())
    }
}

/// Waits until a stored object is as wanted. Level-triggered; the objects have no notification to wait on here.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !check().await? {
        if tokio::time::Instant::now() >= deadline {
            bail!("never happened: {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
