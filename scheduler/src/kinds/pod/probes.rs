//! Validation of probes and lifecycle hooks.

use serde_json::Value;

use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems},
};

const PROBE_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];

/// The probes and hooks of a container in a pod that has `grace` seconds to end.
pub(super) fn check(container: &Value, grace: Option<i64>, path: &Path, problems: &mut Problems) {
    for hook in ["postStart", "preStop"] {
        let handler = &container["lifecycle"][hook];
        if handler.is_object() {
            let path = path.field("lifecycle").field(hook);
            self::handler(handler, &HOOK_HANDLERS, grace, &path, problems);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[name].is_object() {
            probe(&container[name], name, &path.field(name), problems);
        }
    }
}

fn probe(probe: &Value, name: &str, path: &Path, problems: &mut Problems) {
    handler(probe, &PROBE_HANDLERS, None, path, problems);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        problems.not_negative(&path.field(field), &probe[field]);
    }
    let (grace, at) = (&probe["terminationGracePeriodSeconds"], path.field("terminationGracePeriodSeconds"));
    if let Some(seconds) = grace.as_i64().filter(|seconds| *seconds <= 0) {
        problems.invalid(&at, seconds, "must be greater than 0");
    }
    if name == "readinessProbe" {
        if let Some(seconds) = grace.as_i64() {
            problems.invalid(&at, seconds, "must not be set for readinessProbes");
        }
        return;
    }
    let successes = probe["successThreshold"].as_i64().unwrap_or_default();
    if successes != 1 {
        problems.invalid(&path.field("successThreshold"), successes, "must be 1");
    }
}

fn handler(handler: &Value, kinds: &[&str], grace: Option<i64>, path: &Path, problems: &mut Problems) {
    let mut found = false;
    for kind in kinds.iter().filter(|kind| handler[**kind].is_object()) {
        let (action, path) = (&handler[*kind], path.field(kind));
        if found {
            problems.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match *kind {
            "exec" if items(&action["command"]).is_empty() => problems.required(&path.field("command"), ""),
            "httpGet" => http_get(action, &path, problems),
            "tcpSocket" => problems.port_or_name(&path.field("port"), &action["port"]),
            "grpc" => problems.port(&path.field("port"), action["port"].as_i64().unwrap_or_default()),
            "sleep" => sleep(action, grace, &path, problems),
            _ => {}
        }
    }
    if !found {
        problems.required(path, "must specify a handler type");
    }
}

/// A hook that sleeps has only the pod's grace period for it.
fn sleep(action: &Value, grace: Option<i64>, path: &Path, problems: &mut Problems) {
    let seconds = action["seconds"].as_i64().unwrap_or_default();
    if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        problems.invalid(path, seconds, why);
    }
}

fn http_get(action: &Value, path: &Path, problems: &mut Problems) {
    if text(action, "path").is_empty() {
        problems.required(&path.field("path"), "");
    }
    problems.port_or_name(&path.field("port"), &action["port"]);
    let (scheme, schemes) = (text(action, "scheme"), ["HTTP", "HTTPS"]);
    if !schemes.contains(&scheme) {
        problems.unsupported(&path.field("scheme"), scheme, &schemes);
    }
    for header in items(&action["httpHeaders"]) {
        header_name(text(header, "name"), &path.field("httpHeaders"), problems);
    }
}

fn header_name(name: &str, path: &Path, problems: &mut Problems) {
    let legal = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !legal {
        let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex \
                   used for validation is '[-A-Za-z0-9]+')";
        problems.invalid(path, name, why);
    }
}
