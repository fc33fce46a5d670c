//! Two API servers alone, side by side on loopback: upstream's with its etcd, and ours. No node, no controller of
//! upstream's: what they answer is compared, and how quickly. Both start with nothing and end with their guards.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Upstream;
use crate::{
    layout::Build,
    packages,
    sh::{Sh, sh},
};

/// Loopback ports that clusters do not take.
const THEIR_PORT: u16 = 16443;
const ETCD_PORT: u16 = 12379;
const OUR_PORT: u16 = 15443;
/// Both, so that allocated addresses compare.
const SERVICE_CIDR: &str = "10.128.0.0/16";
/// Room for thousands of nodes.
const POD_CIDR: &str = "10.0.0.0/10";
const START_TIME: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a server may take to end before it is killed.
const STOP_TIME: Duration = Duration::from_secs(10);
/// How long a node may be silent, as everywhere.
pub(crate) const LEASE: &str = "40s";
/// The same where nodes are objects alone: upstream has no controller beside it that would miss them.
pub(crate) const LONG_LEASE: &str = "24h";
/// Requests a second that upstream's scheduler may make: more than it can.
const SCHEDULER_RATE: u32 = 100_000;
const CERTIFICATE_DAYS: &str = "30";

/// A running API server.
pub(crate) struct Server {
    /// kubeconfig of its administrator.
    pub(crate) kubeconfig: PathBuf,
    /// Its processes: what it costs is their sum.
    pub(crate) pids: Vec<u32>,
    // Ended in this order: the API server before its store.
    processes: Vec<Running>,
}

struct Running(Child);

impl Running {
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child =
            command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self(child))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            // Already ended: nothing is left to do.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let end = Instant::now() + STOP_TIME;
        while Instant::now() < end {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Upstream {
    /// Upstream's kube-apiserver on an etcd of its own, with upstream's default admission: no controller makes
    /// the service account of a namespace, whoever writes pods does.
    pub(crate) fn start(&self, kubectl: &Path) -> Result<Server> {
        packages::ensure(&[("openssl", "openssl")])?;
        let dir = fresh(&self.dir.join("peer"))?;
        make_certificates(&dir)?;
        let client = format!("http://127.0.0.1:{ETCD_PORT}");
        let peer = format!("http://127.0.0.1:{}", ETCD_PORT + 1);
        let mut etcd = Command::new(self.program("etcd"));
        etcd.arg("--data-dir").arg(dir.join("etcd")).args([
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ]);
        let etcd = Running::start(etcd, &dir.join("etcd.log"))?;
        let log = dir.join("kube-apiserver.log");
        let api = Running::start(self.api_server(&dir, &client), &log)?;
        let kubeconfig = dir.join("kubeconfig");
        fs::write(&kubeconfig, their_kubeconfig(&dir))?;
        wait_ready(kubectl, &kubeconfig, &log)?;
        let pids = vec![api.0.id(), etcd.0.id()];
        Ok(Server { kubeconfig, pids, processes: vec![api, etcd] })
    }

    /// The same with upstream's kube-scheduler, whose requests nobody holds back: its own default of 50 a second would.
    /// What it costs is told with the API server's; the store's is not.
    pub(crate) fn start_with_scheduler(&self, kubectl: &Path) -> Result<Server> {
        let mut server = self.start(kubectl)?;
        let dir = self.dir.join("peer");
        let config = dir.join("scheduler.json");
        let text = serde_json::json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": false},
            "clientConnection": {"kubeconfig": server.kubeconfig, "qps": SCHEDULER_RATE, "burst": SCHEDULER_RATE},
        });
        fs::write(&config, text.to_string())?;
        let mut scheduler = Command::new(self.program("kube-scheduler"));
        scheduler.arg("--config").arg(&config).arg("--secure-port=0");
        let scheduler = Running::start(scheduler, &dir.join("kube-scheduler.log"))?;
        server.pids = vec![server.pids[0], scheduler.0.id()];
        // Before the API server, which it would only miss.
        server.processes.insert(0, scheduler);
        Ok(server)
    }

    fn api_server(&self, dir: &Path, etcd: &str) -> Command {
        let file = |name: &str| dir.join(name).display().to_string();
        let mut api = Command::new(self.program("kube-apiserver"));
        api.args([
            format!("--etcd-servers={etcd}"),
            format!("--secure-port={THEIR_PORT}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("accounts.key")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            format!("--service-cluster-ip-range={SERVICE_CIDR}"),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
        ]);
        api
    }
}

/// Our scheduler without agents; `lease` is how long a node may be silent.
pub(crate) fn start_ours(root: &Path, kubectl: &Path, build: Build, lease: &str) -> Result<Server> {
    let dir = fresh(&root.join("target/conformance/ours"))?;
    let config = dir.join("scheduler.toml");
    let text = format!(
        "data_dir = {data:?}\n[api]\nlisten = \"127.0.0.1:{OUR_PORT}\"\n[nodes]\nlisten = \"127.0.0.1:{nodes}\"\n\
         [metrics]\nlisten = \"\"\n[cluster]\nservice_cidr = {SERVICE_CIDR:?}\n\
         pod_cidr = {POD_CIDR:?}\n[timing]\nlease = {lease:?}\n",
        data = dir.join("data"),
        nodes = OUR_PORT + 1,
    );
    fs::write(&config, text)?;
    let binary = root.join("target").join(build.directory()).join("gantry-scheduler");
    let kubeconfig = dir.join("kubeconfig");
    let server = format!("https://127.0.0.1:{OUR_PORT}");
    let made = sh(&binary).arg("--config").arg(&config).args(["kubeconfig", "--server", &server]).text()?;
    fs::write(&kubeconfig, made)?;
    let mut command = Command::new(&binary);
    command.arg("--config").arg(&config);
    let log = dir.join("scheduler.log");
    let running = Running::start(command, &log)?;
    wait_ready(kubectl, &kubeconfig, &log)?;
    Ok(Server { kubeconfig, pids: vec![running.0.id()], processes: vec![running] })
}

fn fresh(dir: &Path) -> Result<PathBuf> {
    sh("rm").arg("-rf").arg(dir).run()?;
    fs::create_dir_all(dir)?;
    Ok(dir.to_owned())
}

fn wait_ready(kubectl: &Path, kubeconfig: &Path, log: &Path) -> Result<()> {
    let end = Instant::now() + START_TIME;
    while !sh(kubectl).arg("--kubeconfig").arg(kubeconfig).args(["get", "--raw", "/readyz"]).succeeds() {
        if Instant::now() > end {
            bail!("the API server was not ready after {} s: {}", START_TIME.as_secs(), log.display());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn make_certificates(dir: &Path) -> Result<()> {
    let openssl = || sh("openssl").dir(dir);
    openssl().args(["genrsa", "-out", "accounts.key", "2048"]).run()?;
    let authority = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl().args(authority).args(["-days", CERTIFICATE_DAYS, "-subj", "/CN=peer"]).run()?;
    for (name, subject, extension) in [
        ("server", "/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1"),
        ("admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth"),
    ] {
        certificate(&openssl, dir, name, subject, extension)?;
    }
    Ok(())
}

fn certificate(
    openssl: &impl Fn() -> Sh,
    dir: &Path,
    name: &str,
    subject: &str,
    extension: &str,
) -> Result<()> {
    let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
    let extensions = format!("{name}.ext");
    fs::write(dir.join(&extensions), extension)?;
    openssl()
        .args(["req", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &request, "-subj", subject])
        .run()?;
    openssl()
        .args(["x509", "-req", "-in", &request, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"])
        .args(["-out", &certificate, "-days", CERTIFICATE_DAYS, "-extfile", &extensions])
        .run()
}

fn their_kubeconfig(dir: &Path) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "peer", "cluster": {
            "server": format!("https://127.0.0.1:{THEIR_PORT}"),
            "certificate-authority": file("ca.crt"),
        }}],
        "users": [{"name": "admin", "user": {
            "client-certificate": file("admin.crt"),
            "client-key": file("admin.key"),
        }}],
        "contexts": [{"name": "peer", "context": {"cluster": "peer", "user": "admin"}}],
        "current-context": "peer",
    })
    .to_string()
}
