//! A containerd of the test's own: private mount namespace with cgroup v2, own root, state and socket. Everything
//! ends with the value, whatever the test did.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use gantry_agent::{
    containerd::Containerd,
    runtime::{ContainerdRuntime, Handler, Options},
};

/// A running containerd.
#[derive(Debug)]
pub(crate) struct Host {
    directory: tempfile::TempDir,
    daemon: Child,
    /// Where the test process sees cgroup v2.
    pub(crate) cgroup_mount: PathBuf,
    /// This host's own cgroup below it.
    pub(crate) cgroup: String,
}

impl Host {
    /// Starts containerd and waits until it answers.
    pub(crate) async fn start() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let directory = tempfile::Builder::new().prefix("gantry-containerd-").tempdir_in("/var/tmp").unwrap();
        let cgroup_mount = cgroup2_mount();
        let cgroup = format!("/{}", directory.path().file_name().unwrap().to_string_lossy());
        fs::create_dir(cgroup_mount.join(&cgroup[1..])).unwrap();
        write_config(directory.path());
        let daemon = spawn(directory.path());
        let host = Self { directory, daemon, cgroup_mount, cgroup };
        host.wait_until_ready().await;
        host
    }

    /// Kills containerd (its shims go on) and starts it again.
    pub(crate) async fn restart_containerd(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = spawn(self.path());
        self.wait_until_ready().await;
    }

    async fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer =
                Command::new("ctr").arg("--address").arg(self.socket()).arg("version").output().unwrap();
            if answer.status.success() {
                return;
            }
            let log = fs::read_to_string(self.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "containerd does not answer:\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// containerd namespace of its own: the OCI runtime's state is not kept per containerd.
    pub(crate) fn namespace(&self) -> &str {
        &self.cgroup[1..]
    }

    /// Everything of this host on disk.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// containerd's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("containerd.sock")
    }

    /// A client of it.
    pub(crate) fn client(&self) -> Containerd {
        Containerd::new(&self.socket(), self.namespace()).unwrap()
    }

    /// A new adapter, as after a restart of the agent.
    pub(crate) fn runtime(&self) -> ContainerdRuntime {
        let handler = |binary: &str| Handler {
            runtime_type: "io.containerd.runc.v2".into(),
            binary: Some(binary.into()),
        };
        let options = Options {
            snapshotter: "overlayfs".into(),
            handlers: [("runc".to_owned(), handler("runc"))].into(),
            default_handler: "runc".into(),
            logger: env!("CARGO_BIN_EXE_gantry-logger").into(),
            rotation: gantry_agent::logs::Rotation::default(),
            state_dir: self.path().join("run"),
            cgroup_mount: self.cgroup_mount.clone(),
        };
        ContainerdRuntime::new(self.client(), options)
    }

    /// Processes that name this host's directory on their command line: containerd, shims, loggers.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let ours = self.path().to_string_lossy().into_owned();
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            String::from_utf8_lossy(&command).contains(&ours).then_some(pid)
        })
        .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        use nix::{sys::signal, unistd::Pid};
        let group = self.cgroup_mount.join(&self.cgroup[1..]);
        let _ = fs::write(group.join("cgroup.kill"), "1");
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for pid in self.processes() {
            let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGKILL);
        }
        let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(self.namespace()));
        let deadline = Instant::now() + Duration::from_secs(5);
        while remove_cgroup(&group).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn remove_cgroup(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn cgroup2_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        (fields.get(2) == Some(&"cgroup2")).then(|| PathBuf::from(fields[1]))
    });
    mount.expect("cgroup v2 is mounted nowhere")
}

fn write_config(directory: &Path) {
    let path = |name: &str| format!("{:?}", directory.join(name));
    let config = format!(
        "version = 2\nroot = {}\nstate = {}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\n  address = {}\n[ttrpc]\n  address = {}\n",
        path("root"),
        path("state"),
        path("containerd.sock"),
        path("containerd.ttrpc"),
    );
    fs::write(directory.join("config.toml"), config).unwrap();
}

fn spawn(directory: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let script =
        "mount --make-rshared / && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec containerd -c \"$0\"";
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec", script])
        .arg(directory.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap()
}

/// Waits for a state, never for a moment.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within 15 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
