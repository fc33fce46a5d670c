//! Pods.

use serde_json::{Value, json};

use crate::kinds::{
    Column,
    json::{items, text},
    print::{AGE, NAME, NONE, age, column, integer, name, or_none, since, wide},
};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
    column("Status", "string", "The aggregate status of the containers in this pod."),
    column(
        "Restarts",
        "string",
        "The number of times the containers in this pod have been restarted and when the last container in \
         this pod has restarted.",
    ),
    AGE,
    wide("IP", "string", "=core.v1.PodStatus.podIP"),
    wide("Node", "string", "=core.v1.PodSpec.nodeName"),
    wide("Nominated Node", "string", "=core.v1.PodStatus.nominatedNodeName"),
    wide("Readiness Gates", "string", "=core.v1.PodSpec.readinessGates"),
];

pub(super) fn cells(pod: &Value, now: i64) -> Vec<Value> {
    let summary = Summary::of(pod);
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let restarts = match &summary.last_restart {
        Some(at) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, since(&json!(at), now))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = items(&status["podIPs"]).first().map(|ip| text(ip, "ip")).unwrap_or_default();
    vec![
        name(pod),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(restarts),
        age(pod, now),
        json!(or_none(ip)),
        json!(or_none(text(spec, "nodeName"))),
        json!(or_none(text(status, "nominatedNodeName"))),
        json!(readiness_gates(pod)),
    ]
}

/// What the statuses of the containers add up to.
struct Summary {
    total: usize,
    ready: usize,
    restarts: i64,
    last_restart: Option<String>,
    reason: String,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let sidecars = items(&spec["initContainers"]).iter().filter(|c| text(c, "restartPolicy") == "Always");
        let mut summary = Self {
            total: items(&spec["containers"]).len() + sidecars.count(),
            ready: 0,
            restarts: 0,
            last_restart: None,
            reason: text(status, "phase").to_owned(),
        };
        if !text(status, "reason").is_empty() {
            text(status, "reason").clone_into(&mut summary.reason);
        }
        if items(&status["conditions"]).iter().any(|c| text(c, "reason") == "SchedulingGated") {
            "SchedulingGated".clone_into(&mut summary.reason);
        }
        let initializing = summary.add_init_containers(pod);
        if !initializing || has_condition(status, "Initialized") {
            summary.add_containers(pod);
        }
        summary.add_deletion(pod);
        summary
    }

    /// Goes through the init containers up to the one that is not done; returns whether there is one.
    fn add_init_containers(&mut self, pod: &Value) -> bool {
        let spec = items(&pod["spec"]["initContainers"]);
        for (index, container) in items(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
            self.add_restarts(container);
            let (terminated, waiting) = (&container["state"]["terminated"], &container["state"]["waiting"]);
            if terminated.is_object() && integer(&terminated["exitCode"]) == 0 {
                continue;
            }
            if is_sidecar(spec, container) && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            let waits = text(waiting, "reason");
            self.reason = if terminated.is_object() {
                format!("Init:{}", end_reason(terminated))
            } else if !waits.is_empty() && waits != "PodInitializing" {
                format!("Init:{waits}")
            } else {
                format!("Init:{index}/{}", spec.len())
            };
            return true;
        }
        false
    }

    fn add_containers(&mut self, pod: &Value) {
        let (spec, status) = (items(&pod["spec"]["initContainers"]), &pod["status"]);
        // Restarts of init containers no longer matter, save those of sidecars.
        (self.restarts, self.last_restart) = (0, None);
        for container in items(&status["initContainerStatuses"]).iter().filter(|c| is_sidecar(spec, c)) {
            self.add_restarts(container);
        }
        let mut running = false;
        for container in items(&status["containerStatuses"]).iter().rev() {
            self.add_restarts(container);
            let state = &container["state"];
            let waits = text(&state["waiting"], "reason");
            if !waits.is_empty() {
                waits.clone_into(&mut self.reason);
            } else if state["terminated"].is_object() {
                self.reason = end_reason(&state["terminated"]);
            } else if container["ready"] == true && state["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = has_condition(status, "Ready");
            (if ready { "Running" } else { "NotReady" }).clone_into(&mut self.reason);
        }
    }

    fn add_restarts(&mut self, container: &Value) {
        self.restarts += integer(&container["restartCount"]);
        let ended = text(&container["lastState"]["terminated"], "finishedAt");
        // Timestamps of one form sort as text.
        if !ended.is_empty() && self.last_restart.as_deref().is_none_or(|last| last < ended) {
            self.last_restart = Some(ended.to_owned());
        }
    }

    fn add_deletion(&mut self, pod: &Value) {
        if !pod["metadata"]["deletionTimestamp"].is_string() {
            return;
        }
        if text(&pod["status"], "reason") == "NodeLost" {
            "Unknown".clone_into(&mut self.reason);
        } else if !matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut self.reason);
        }
    }
}

fn is_sidecar(spec: &[Value], status: &Value) -> bool {
    let container = spec.iter().find(|c| text(c, "name") == text(status, "name"));
    container.is_some_and(|c| text(c, "restartPolicy") == "Always")
}

fn end_reason(terminated: &Value) -> String {
    match (text(terminated, "reason"), integer(&terminated["signal"])) {
        ("", 0) => format!("ExitCode:{}", integer(&terminated["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn has_condition(status: &Value, ty: &str) -> bool {
    items(&status["conditions"]).iter().any(|c| text(c, "type") == ty && text(c, "status") == "True")
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let open = gates.iter().filter(|gate| has_condition(&pod["status"], text(gate, "conditionType")));
    format!("{}/{}", open.count(), gates.len())
}
