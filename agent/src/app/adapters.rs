//! The ports on the real node: what of the configuration belongs to which adapter.

use std::{path::PathBuf, sync::Arc};

use super::Adapters;
use crate::{
    cgroup::{CgroupError, CgroupTree, Enforcement, TreeSettings},
    config::{Config, ContainerdConfig, LogsConfig},
    containerd::{Containerd, InvalidNamespace},
    dataplane::{DataplaneConfig, DataplaneError, EbpfDataplane},
    images::{ContainerdImages, ImageSettings},
    logs::Rotation,
    model::Limits,
    net::{KernelNetwork, NetError},
    observe::{Host, Ports},
    runtime::{ContainerdRuntime, Handler, Options},
    volumes::NodeVolumes,
};

/// The program beside the agent that writes container logs.
const LOGGER: &str = "gantry-logger";

/// A part of the machine that cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The cgroup tree.
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
    /// The service datapath.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// Pod networking.
    #[error(transparent)]
    Network(#[from] NetError),
    /// `containerd.namespace`
    #[error("cannot use containerd.namespace")]
    Namespace(#[from] InvalidNamespace),
    /// The agent's own path, beside which the logger is.
    #[error("cannot find the agent's own program")]
    Program(#[source] std::io::Error),
    /// The logger is not there.
    #[error(
        "{path} is not there: it writes the containers' logs; install it beside gantry-agent or set containerd.logger"
    )]
    Logger {
        /// Where it was looked for.
        path: PathBuf,
    },
}

/// Opens everything below the reconcilers. containerd need not be up yet.
pub async fn open(config: &Config) -> Result<Adapters, AdapterError> {
    let cgroups = CgroupTree::open(&TreeSettings {
        mount: config.cgroup.mount.clone(),
        root: config.cgroup.root.clone(),
        required: config.cgroup.required,
        allocatable: allocatable(config),
    })?;
    warn_without_limits(&crate::cgroup::Cgroups::enforcement(&cgroups));
    let client = Containerd::new(&config.containerd.socket, &config.containerd.namespace)?;
    let options = options(config, &config.containerd, config.logs)?;
    let images = ContainerdImages::new(
        client.clone(),
        &config.containerd.snapshotter,
        ImageSettings {
            aliases: config.images.aliases.clone(),
            mirrors: config.images.mirrors.clone(),
            plain_http: config.images.plain_http.clone(),
        },
    );
    let network = KernelNetwork::open(config.network.clone())?;
    let uplink = network.uplink_interface().await?;
    if uplink.is_none() {
        tracing::warn!(
            uplink = config.network.uplink,
            "no uplink yet: NodePorts and load balancer addresses are not answered until there is one"
        );
    }
    let dataplane = Arc::new(EbpfDataplane::open(DataplaneConfig { uplink, ..config.dataplane.clone() })?);
    let figures = Arc::clone(&dataplane);
    Ok(Adapters {
        ports: Ports {
            runtime: Arc::new(ContainerdRuntime::new(client, options)),
            images: Arc::new(images),
            cgroups: Arc::new(cgroups),
            network: Arc::new(network),
            dataplane,
            volumes: Arc::new(NodeVolumes::new(config.layout.clone())),
        },
        figures: Arc::new(move || Some(figures.snapshot())),
    })
}

/// Pods together get what is not reserved; without a reservation there is nothing to hold them to.
fn allocatable(config: &Config) -> Limits {
    let node = &config.node;
    if node.reserved_cpu_milli == 0 && node.reserved_memory == 0 {
        return Limits::default();
    }
    let (_, memory) = super::reporter::allocatable(node, &Host::new().machine());
    Limits { memory_max: (node.reserved_memory > 0).then_some(memory), ..Limits::default() }
}

fn options(
    config: &Config,
    containerd: &ContainerdConfig,
    logs: LogsConfig,
) -> Result<Options, AdapterError> {
    let handlers = containerd.handlers.iter().map(|(name, handler)| {
        let handler = Handler { runtime_type: handler.runtime_type.clone(), binary: handler.binary.clone() };
        (name.clone(), handler)
    });
    Ok(Options {
        snapshotter: containerd.snapshotter.clone(),
        handlers: handlers.collect(),
        default_handler: containerd.default_handler.clone(),
        logger: logger(containerd)?,
        rotation: Rotation { max_bytes: logs.max_bytes, max_files: logs.max_files },
        state_dir: config.layout.run_dir.join("runtime"),
        cgroup_mount: config.cgroup.mount.clone(),
    })
}

fn logger(containerd: &ContainerdConfig) -> Result<PathBuf, AdapterError> {
    let path = match &containerd.logger {
        Some(path) => path.clone(),
        None => std::env::current_exe().map_err(AdapterError::Program)?.with_file_name(LOGGER),
    };
    if path.is_file() { Ok(path) } else { Err(AdapterError::Logger { path }) }
}

/// Where everybody looks: here, in a node condition and in the metrics.
fn warn_without_limits(enforcement: &Enforcement) {
    if let Enforcement::BestEffort { missing } = enforcement {
        tracing::warn!(
            ?missing,
            "LIMITS ARE NOT ENFORCED: these cgroup v2 controllers are missing and cgroup.enforcement is best-effort"
        );
    }
}
