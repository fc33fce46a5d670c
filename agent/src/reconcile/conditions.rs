//! The conditions of the node, from what is known of machine, limits and runtime. Where everybody looks: the node's
//! status has them.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    cgroup::{Cgroups, Enforcement},
    model::{NodeCondition, NodeView},
    observe::{Host, Thresholds},
    plan::OOM_GUARANTEED,
};

/// What they are read from.
pub struct NodeConditions {
    /// The machine.
    pub host: Host,
    /// What must be free on it.
    pub thresholds: Thresholds,
    /// Whether limits hold.
    pub cgroups: Arc<dyn Cgroups>,
    /// The node.
    pub view: watch::Receiver<Arc<NodeView>>,
    /// Why the runtime does not answer.
    pub health: watch::Receiver<Option<String>>,
}

impl NodeConditions {
    /// As they are now.
    pub fn now(&self) -> Vec<NodeCondition> {
        let view = self.view.borrow().clone();
        let mut conditions = self.thresholds.conditions(&self.host, &view.layout.state_dir);
        conditions.push(limits(&self.cgroups.enforcement()));
        conditions.push(priorities(view.oom_floor));
        if let Some(why) = self.health.borrow().as_ref() {
            conditions.push(NodeCondition {
                kind: "Ready".to_owned(),
                status: "False".to_owned(),
                reason: "ContainerRuntimeUnhealthy".to_owned(),
                message: format!("the container runtime does not answer: {why}"),
            });
        }
        conditions
    }
}

/// Whether limits hold, where everybody looks.
fn limits(enforcement: &Enforcement) -> NodeCondition {
    let (status, reason, message) = match enforcement {
        Enforcement::Enforced => {
            ("True", "ControllersDelegated", "CPU, memory and process limits are enforced".to_owned())
        }
        Enforcement::BestEffort { missing } => (
            "False",
            "ControllersMissing",
            format!(
                "limits are NOT enforced on this node: the cgroup v2 controllers {} are missing and enforcement is best-effort",
                missing.join(", ")
            ),
        ),
    };
    NodeCondition {
        kind: "LimitsEnforced".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
    }
}

/// Whether containers get the oom_score_adj that their class has.
fn priorities(floor: i32) -> NodeCondition {
    let full = floor <= OOM_GUARANTEED;
    let message = match full {
        true => "containers get the oom_score_adj of their class".to_owned(),
        false => format!(
            "the runtime may not give a container an oom_score_adj below {floor} on this node (it lacks \
             CAP_SYS_RESOURCE): Guaranteed and critical containers get {floor} instead of {OOM_GUARANTEED}"
        ),
    };
    NodeCondition {
        kind: "OOMScoresEnforced".to_owned(),
        status: if full { "True" } else { "False" }.to_owned(),
        reason: if full { "LowestScoreAllowed" } else { "CapabilityMissing" }.to_owned(),
        message,
    }
}
