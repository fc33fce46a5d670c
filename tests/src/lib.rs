//! Harness of the end-to-end suites: a handle on the cluster that `cargo xtask test` started, kubectl in both
//! tested versions, and waiting on states. It starts no daemon and fakes nothing. Every wait is level-triggered,
//! ends at a deadline and says what it last saw.

mod http;
mod kubectl;
pub mod manifests;
mod namespace;
mod wait;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use http::{Answer, get, get_from};
pub use kubectl::{Kubectl, Output};
pub use namespace::Namespace;
pub use wait::{eventually, eventually_within};

/// The cluster under test.
pub struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    /// The cluster that the environment names; an error says how to get one.
    pub fn from_env() -> Result<Self> {
        Ok(Self { dir: variable("GANTRY_TEST_DIR")?.into() })
    }

    /// The newest kubectl.
    pub fn kubectl(&self) -> Result<Kubectl> {
        Ok(Kubectl::new(variable("GANTRY_KUBECTL")?.into(), self.kubeconfig()))
    }

    /// The oldest kubectl that is supported.
    pub fn old_kubectl(&self) -> Result<Kubectl> {
        Ok(Kubectl::new(variable("GANTRY_OLD_KUBECTL")?.into(), self.kubeconfig()))
    }

    /// kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Process id of a supervised process: `scheduler`, `node-1-agent`, `node-1-containerd`, `registry`.
    pub fn pid(&self, process: &str) -> Result<u32> {
        let path = self.dir.join(format!("{process}.pid"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
        text.trim().parse().with_context(|| format!("{} holds {text:?}", path.display()))
    }

    /// SIGKILL to a supervised process; the supervisor starts it again.
    pub fn kill(&self, process: &str) -> Result<()> {
        let pid = i32::try_from(self.pid(process)?)?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .with_context(|| format!("cannot kill {process} (pid {pid})"))
    }

    /// The directory with the daemons' state.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// A file of the tutorial, byte for byte.
pub fn tutorial(file: &str) -> PathBuf {
    project().join("../shared/tutorial").join(file)
}

/// A file of the project.
pub fn project_file(path: &str) -> PathBuf {
    project().join(path)
}

fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| {
        format!("{name} is not set: `cargo xtask test end-to-end` starts a cluster and runs this")
    })
}
