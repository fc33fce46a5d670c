//! The scheduler of a cluster on this machine: its configuration, what nodes join with, its process.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::supervisor::Process;
use crate::{layout::Layout, sh::sh};

/// What an agent needs to join.
pub(crate) struct JoinMaterial {
    /// The cluster's CA certificate.
    pub(crate) ca_file: PathBuf,
    /// A bootstrap token.
    pub(crate) token_file: PathBuf,
}

/// Writes the configuration and lets the scheduler make its keys and the administrator's kubeconfig.
pub(crate) fn prepare(layout: &Layout) -> Result<()> {
    fs::create_dir_all(layout.dir.join("scheduler"))?;
    fs::write(config_file(layout), config(layout)).context("cannot write the scheduler's configuration")?;
    let kubeconfig = command(layout).args(["kubeconfig", "--server"]).arg(api(layout)).text()?;
    fs::write(layout.kubeconfig(), kubeconfig)?;
    sh("chmod").arg("0600").arg(layout.kubeconfig()).run()
}

/// A bootstrap token in a file of its own.
pub(crate) fn join_material(layout: &Layout) -> Result<JoinMaterial> {
    let token = command(layout).args(["token", "create"]).text()?;
    let token_file = layout.dir.join("scheduler/bootstrap-token");
    fs::write(&token_file, token)?;
    sh("chmod").arg("0600").arg(&token_file).run()?;
    Ok(JoinMaterial { ca_file: layout.dir.join("scheduler/data/pki/ca.crt"), token_file })
}

/// The scheduler's process.
pub(crate) fn process(layout: &Layout) -> Process {
    Process {
        name: "scheduler".to_owned(),
        cgroup: layout.cgroup.join("centre"),
        log: layout.dir.join("logs/scheduler.log"),
        argv: vec![binary(layout), "--config".into(), config_file(layout).display().to_string()],
    }
}

/// Where the API is: on the bridge, so that pods reach it too.
pub(crate) fn api(layout: &Layout) -> String {
    format!("https://{}:{}", layout.host_address(), layout.api_port())
}

fn binary(layout: &Layout) -> String {
    layout.binaries.join("gantry-scheduler").display().to_string()
}

fn config_file(layout: &Layout) -> PathBuf {
    layout.dir.join("scheduler.toml")
}

fn command(layout: &Layout) -> crate::sh::Sh {
    sh(binary(layout)).arg("--config").arg(config_file(layout))
}

fn config(layout: &Layout) -> String {
    let host = layout.host_address();
    format!(
        r#"# Written by cargo xtask up.
data_dir = {data:?}

[api]
listen = "{host}:{api_port}"

[nodes]
listen = "{host}:{node_port}"

[metrics]
listen = "{host}:{metrics_port}"

[cluster]
pod_cidr = "{pods}"
service_cidr = "{services}"
load_balancer_pool = ["{pool}"]
"#,
        data = layout.dir.join("scheduler/data"),
        api_port = layout.api_port(),
        node_port = Layout::NODE_PORT,
        metrics_port = Layout::METRICS_PORT,
        pods = layout.pod_cidr(),
        services = layout.service_cidr(),
        pool = layout.load_balancer_pool(),
    )
}
