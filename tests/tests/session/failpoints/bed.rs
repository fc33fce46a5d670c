//! A node of the test's own: network and mount namespaces, cgroup, containerd, and the real agent, as a debug build, which
//! can be killed at a named point. The scheduler is beside it, in the same namespaces. Everything ends with the value.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use gantry_tests::get;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::image::Image;
use crate::PATIENCE;

pub(super) const IMAGE: &str = "docker.io/library/test:latest";
const NODE: &str = "192.0.2.1";
const METRICS: &str = "192.0.2.1:10250";

/// Runs `test` in namespaces of its own, on a runtime of its own: everything it starts inherits them.
pub(super) fn on_own_host<F: Future<Output = Result<()>>>(
    test: impl FnOnce() -> F + Send + 'static,
) -> Result<()> {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("root is needed")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
        mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), none)?;
        for line in [
            "link set lo up",
            "link add up0 type veth peer name wire",
            "addr add 192.0.2.1/24 dev up0",
            "link set up0 up",
            "link set wire up",
        ] {
            run(Command::new("ip").args(line.split(' ')))?;
        }
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(test())
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The standard output of a command that must succeed.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

pub(super) struct Bed {
    scratch: tempfile::TempDir,
    containerd: Child,
    agent: Option<Child>,
    /// How long the log was when the agent was started.
    told_before: usize,
}

impl Bed {
    /// A containerd that answers and has the image; no agent yet.
    pub(super) async fn start(scheduler: &str, ca_hash: &str, token: &str) -> Result<Self> {
        let scratch = tempfile::Builder::new().prefix("gantry-failpoint-").tempdir_in("/var/tmp")?;
        let dir = scratch.path();
        for name in ["bpf", "logs"] {
            fs::create_dir(dir.join(name))?;
        }
        mount(Some("bpf"), &dir.join("bpf"), Some("bpf"), MsFlags::empty(), None::<&str>)?;
        fs::write(dir.join("containerd.toml"), containerd_config(dir))?;
        fs::write(dir.join("token"), token)?;
        let name = dir.file_name().context("a name")?.to_string_lossy().into_owned();
        fs::create_dir(Path::new("/sys/fs/cgroup").join(&name))?;
        fs::write(dir.join("agent.toml"), agent_config(dir, &name, scheduler, ca_hash)?)?;
        let containerd = spawn(
            Command::new("containerd").arg("-c").arg(dir.join("containerd.toml")),
            &dir.join("containerd.log"),
        )?;
        let bed = Self { scratch, containerd, agent: None, told_before: 0 };
        bed.until("containerd answers", || Ok(bed.ctr(&["version"]).is_ok())).await?;
        let image = Image::make(bed.dir(), IMAGE)?;
        bed.ctr(&["images", "import", &image.archive.to_string_lossy()])?;
        Ok(bed)
    }

    pub(super) fn dir(&self) -> &Path {
        self.scratch.path()
    }

    fn name(&self) -> String {
        self.dir().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn cgroup(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(self.name())
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new("ctr")
            .arg("--address")
            .arg(self.dir().join("containerd.sock"))
            .args(["--namespace", &self.name()])
            .args(arguments))
    }

    /// Starts the agent, to be killed at `point` of the pod with this uid or the image with this name.
    pub(super) fn start_agent(&mut self, killed_at: Option<(&str, &str)>) -> Result<()> {
        ensure!(self.agent.is_none(), "one agent at a time");
        self.told_before = self.told().len();
        let mut command = Command::new(program("gantry-agent")?);
        command.arg("--config").arg(self.dir().join("agent.toml"));
        if let Some((point, pod)) = killed_at {
            // The ledger is of the whole node.
            let pod = if point.starts_with("ledger") { "" } else { pod };
            command.env("GANTRY_FAILPOINT", format!("{point}@{pod}"));
        }
        self.agent = Some(spawn(&mut command, &self.dir().join("agent.log"))?);
        Ok(())
    }

    /// Waits until the agent has been killed at its point.
    pub(super) async fn killed(&mut self, point: &str) -> Result<()> {
        let mut agent = self.agent.take().context("no agent")?;
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = agent.try_wait()? {
                // By its own hand: others kill too.
                let told = self.told();
                let new = told.get(self.told_before..).unwrap_or_default();
                let reached = new.contains(&format!("killed at {point} of "));
                ensure!(
                    status.signal() == Some(9) && reached,
                    "{point}: the agent ended by {status}: {}",
                    self.log()
                );
                return Ok(());
            }
            if Instant::now() > end {
                agent.kill()?;
                agent.wait()?;
                bail!("{point} was never reached: {}", self.log());
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL, at no point in particular.
    pub(super) fn kill_agent(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.kill()?;
            agent.wait()?;
        }
        Ok(())
    }

    /// All that the agents have said.
    fn told(&self) -> String {
        fs::read_to_string(self.dir().join("agent.log")).unwrap_or_default()
    }

    /// The end of it.
    pub(super) fn log(&self) -> String {
        let text = self.told();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub(super) async fn until(&self, what: &str, mut check: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !check()? {
            ensure!(Instant::now() < end, "never: {what}; {}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The first process of each container of the pod, with the time it started: what must not change.
    pub(super) fn processes(&self, pod: &str) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for directory in below(&self.cgroup())? {
            if !directory.to_string_lossy().contains(pod) {
                continue;
            }
            for pid in fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default().lines() {
                let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
                let (_, fields) = stat.rsplit_once(')').context("stat")?;
                let fields: Vec<&str> = fields.split_whitespace().collect();
                // The first of its namespace: what it runs comes and goes.
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let inside = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
                if inside.and_then(|pids| pids.split_whitespace().last()) != Some("1") {
                    continue;
                }
                found.insert(format!("{pid} since {}", fields[19]));
            }
        }
        Ok(found)
    }

    /// Everything that a pod may leave on a node, in words.
    pub(super) fn traces(&self) -> Result<BTreeSet<String>> {
        let mut traces = BTreeSet::new();
        let mut add = |kind: &str, text: &str| {
            traces.extend(
                text.lines().filter(|l| !l.trim().is_empty()).map(|line| format!("{kind} {}", line.trim())),
            );
        };
        for (kind, arguments) in [
            ("container", &["containers", "list", "--quiet"][..]),
            ("task", &["tasks", "list", "--quiet"]),
            ("lease", &["leases", "list", "--quiet"]),
            ("image", &["images", "list", "--quiet"]),
            ("content", &["content", "list", "--quiet"]),
            ("snapshot", &["snapshots", "list"]),
        ] {
            add(kind, &self.ctr(arguments)?);
        }
        // The first line is a heading, and ages change.
        for line in self.ctr(&["content", "active"])?.lines().skip(1) {
            add("download", line.split_whitespace().next().unwrap_or_default());
        }
        for directory in below(&self.cgroup())? {
            add("cgroup", &directory.to_string_lossy());
        }
        let dir = self.dir().to_string_lossy().into_owned();
        for line in
            fs::read_to_string("/proc/thread-self/mountinfo")?.lines().filter(|line| line.contains(&dir))
        {
            add("mount", line.split(' ').nth(4).unwrap_or_default());
        }
        for line in run(Command::new("ip").args(["-o", "link"]))?.lines() {
            // Without the index of the interface.
            add("link", line.split(' ').nth(1).unwrap_or_default());
        }
        add("route", &run(Command::new("ip").args(["route"]))?);
        add("neighbour", &run(Command::new("ip").args(["neigh", "show", "nud", "permanent"]))?);
        for part in ["state", "run", "pods", "bpf/links"] {
            let paths = below(&self.dir().join(part))?.into_iter().chain(files(&self.dir().join(part))?);
            // Which version of its files a living pod has is its own affair.
            for path in paths.filter(|path| !path.to_string_lossy().contains("/..")) {
                add("file", &path.to_string_lossy());
            }
        }
        let book: serde_json::Value =
            serde_json::from_slice(&fs::read(self.dir().join("state/addresses.json"))?)?;
        add("address", &serde_json::to_string_pretty(&book["allocated"])?);
        for line in self.metrics()?.lines().filter(|l| l.starts_with("gantry_agent_dataplane_map_entries")) {
            add("map", line);
        }
        let ours = |pid: &fs::DirEntry| {
            let command = fs::read(pid.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            (command.contains(&dir) || command.contains(&self.name())).then_some(command)
        };
        for command in fs::read_dir("/proc")?.flatten().filter_map(|entry| ours(&entry)) {
            add("process", &command);
        }
        Ok(traces)
    }

    /// Waits until the agent has everything on disk that it has of the scheduler.
    pub(super) async fn settled(&self) -> Result<()> {
        let ledger = self.dir().join("state/session/table.ledger");
        self.until("the table in the ledger", || Ok(ledger.exists())).await
    }

    fn metrics(&self) -> Result<String> {
        let answer = get(METRICS.parse()?, "/metrics", PATIENCE)?;
        ensure!(answer.status == 200, "/metrics says {}", answer.status);
        Ok(answer.body)
    }

    /// Makes containerd forget an image, and takes away what nothing else keeps.
    pub(super) fn remove_image(&self, name: &str) -> Result<()> {
        self.ctr(&["images", "remove", "--sync", name]).map(drop)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.kill_agent();
        let group = self.cgroup();
        let _ = fs::write(group.join("cgroup.kill"), "1");
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        // Shims and loggers, by the directory that they name.
        let dir = self.dir().to_string_lossy().into_owned();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&dir) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        for runtime in ["/run/containerd/runc", "/run/crun"] {
            let _ = fs::remove_dir_all(Path::new(runtime).join(self.name()));
        }
        for directory in below(&group).unwrap_or_default().iter().rev() {
            let end = Instant::now() + std::time::Duration::from_secs(5);
            while fs::remove_dir(directory).is_err_and(|e| e.kind() == std::io::ErrorKind::ResourceBusy)
                && Instant::now() < end
            {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        for point in
            mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)).filter(|p| p.contains(&dir))
        {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// The directory itself, then what is below it.
fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = if directory.is_dir() { vec![directory.to_owned()] } else { Vec::new() };
    let mut next = 0;
    while next < found.len() {
        // What goes meanwhile is gone.
        let entries = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        found.extend(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
        next += 1;
    }
    Ok(found)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for directory in below(directory)? {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        found.extend(entries.filter(|e| e.file_type().is_ok_and(|kind| !kind.is_dir())).map(|e| e.path()));
    }
    Ok(found)
}

/// A program of the debug build, which this test is of too.
fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.ancestors().nth(2).context("target/debug/deps")?.join(name);
    ensure!(
        path.is_file(),
        "{} is not there: `cargo test --no-run` of the workspace makes it",
        path.display()
    );
    Ok(path)
}

fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    command.spawn().with_context(|| format!("cannot start {command:?}"))
}

fn containerd_config(dir: &Path) -> String {
    let path = |name: &str| format!("{:?}", dir.join(name));
    format!(
        "version = 2\nroot = {}\nstate = {}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\n  address = {}\n[ttrpc]\n  address = {}\n",
        path("root"),
        path("containerd"),
        path("containerd.sock"),
        path("containerd.ttrpc"),
    )
}

fn agent_config(dir: &Path, cgroup: &str, scheduler: &str, ca_hash: &str) -> Result<String> {
    let logger = program("gantry-logger")?;
    Ok(format!(
        r#"
[node]
name = "n1"
addresses = ["{NODE}"]
[scheduler]
address = "{scheduler}"
ca_hash = "{ca_hash}"
token_file = {token:?}
[containerd]
socket = {socket:?}
namespace = "{cgroup}"
logger = {logger:?}
[cgroup]
root = "/{cgroup}/pods"
enforcement = "best-effort"
[network]
uplink = "up0"
[dataplane]
bpffs = {bpf:?}
cgroup = "/sys/fs/cgroup/{cgroup}"
[paths]
state_dir = {state:?}
run_dir = {run:?}
log_dir = {pods:?}
[metrics]
listen = "{METRICS}"
"#,
        token = dir.join("token"),
        socket = dir.join("containerd.sock"),
        bpf = dir.join("bpf"),
        state = dir.join("state"),
        run = dir.join("run"),
        pods = dir.join("pods"),
    ))
}
