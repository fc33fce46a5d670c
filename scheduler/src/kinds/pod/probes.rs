//! Validation of probes and lifecycle hooks.

use serde_json::Value;

use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems},
};

const PROBE_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
/// `terminationGracePeriodSeconds` of a pod that does not say.
const DEFAULT_GRACE: i64 = 30;
const HOOK_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];

/// The probes and hooks of a container.
pub(super) fn check(container: &Value, path: &Path, problems: &mut Problems) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[name].is_object() {
            probe(&container[name], name, &path.field(name), problems);
        }
    }
    for hook in ["postStart", "preStop"] {
        let handler = &container["lifecycle"][hook];
        if handler.is_object() {
            self::handler(handler, &HOOK_HANDLERS, &path.field("lifecycle").field(hook), problems);
        }
    }
}

/// A hook that sleeps has only the pod's grace period for it.
pub(super) fn check_sleep(container: &Value, grace: &Value, path: &Path, problems: &mut Problems) {
    let grace = grace.as_i64().unwrap_or(DEFAULT_GRACE);
    for hook in ["postStart", "preStop"] {
        if let Some(seconds) =
            container["lifecycle"][hook]["sleep"]["seconds"].as_i64().filter(|s| *s > grace)
        {
            let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            problems.invalid(&path.field("lifecycle").field(hook), seconds, why);
        }
    }
}

fn probe(probe: &Value, name: &str, path: &Path, problems: &mut Problems) {
    handler(probe, &PROBE_HANDLERS, path, problems);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        problems.not_negative(&path.field(field), &probe[field]);
    }
    let successes = probe["successThreshold"].as_i64().unwrap_or(1);
    if name != "readinessProbe" && successes > 1 {
        problems.invalid(&path.field("successThreshold"), successes, "must be 1");
    }
    if let Some(seconds) = probe["terminationGracePeriodSeconds"].as_i64() {
        let path = path.field("terminationGracePeriodSeconds");
        if name == "readinessProbe" {
            problems.invalid(&path, seconds, "must not be set for readinessProbes");
        } else if seconds <= 0 {
            problems.invalid(&path, seconds, "must be greater than 0");
        }
    }
}

fn handler(handler: &Value, kinds: &[&str], path: &Path, problems: &mut Problems) {
    let mut present = kinds.iter().filter(|kind| handler[**kind].is_object());
    let Some(first) = present.next() else {
        return problems.required(path, "must specify a handler type");
    };
    for more in present {
        problems.forbidden(&path.field(more), "may not specify more than 1 handler type");
    }
    let (action, path) = (&handler[*first], path.field(first));
    match *first {
        "exec" if items(&action["command"]).is_empty() => problems.required(&path.field("command"), ""),
        "httpGet" => {
            if text(action, "path").is_empty() {
                problems.required(&path.field("path"), "");
            }
            problems.port_or_name(&path.field("port"), &action["port"]);
            problems.one_of(&path.field("scheme"), text(action, "scheme"), &["HTTP", "HTTPS"]);
            for (index, header) in items(&action["httpHeaders"]).iter().enumerate() {
                header_name(
                    text(header, "name"),
                    &path.field("httpHeaders").index(index).field("name"),
                    problems,
                );
            }
        }
        "tcpSocket" => problems.port_or_name(&path.field("port"), &action["port"]),
        "grpc" => problems.port(&path.field("port"), action["port"].as_i64().unwrap_or_default()),
        "sleep" => problems.not_negative(&path.field("seconds"), &action["seconds"]),
        _ => {}
    }
}

fn header_name(name: &str, path: &Path, problems: &mut Problems) {
    let legal = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !legal {
        let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex \
                   used for validation is '[-A-Za-z0-9]+')";
        problems.invalid(path, name, why);
    }
}
