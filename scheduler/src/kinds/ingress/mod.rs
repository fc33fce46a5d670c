//! Ingresses: kept and checked for whatever controller a user installs; none is built in.

mod print;

use std::{borrow::Cow, net::Ipv6Addr};

use k8s_openapi::api::networking::v1::Ingress;
use serde_json::{Value, json};

use super::{
    Kind, Rules, Subresource,
    base::keep_status,
    json::{items, text},
    kind::texts,
    service,
    validate::{Path, Problems, meta, names},
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["ing"]),
        subresources: vec![Subresource::Status],
        generation: true,
        columns: Cow::Borrowed(print::COLUMNS),
        ..Kind::published::<Ingress>(Ingresses)
    }
}

struct Ingresses;

impl Rules for Ingresses {
    fn prepare_create(&self, ingress: &mut Value) {
        ingress["status"] = json!({"loadBalancer": {}});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    fn validate(&self, ingress: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(ingress, old)
    }

    fn validate_sub(&self, _: Subresource, new: &Value, old: &Value) -> Vec<Cause> {
        validate(new, Some(old))
    }

    fn warnings(&self, ingress: &Value) -> Vec<String> {
        let annotated = !ingress["metadata"]["annotations"][CLASS_ANNOTATION].is_null();
        if !annotated || !ingress["spec"]["ingressClassName"].is_null() {
            return Vec::new();
        }
        let what = "is deprecated, please use 'spec.ingressClassName' instead";
        vec![format!("annotation {CLASS_ANNOTATION:?} {what}")]
    }

    fn status_warnings(&self, ingress: &Value) -> Vec<String> {
        service::warnings::ingress_addresses(ingress)
    }

    fn cells(&self, ingress: &Value, now: i64) -> Vec<Value> {
        print::cells(ingress, now)
    }
}

/// The annotation that named the class before `spec.ingressClassName` did.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// An Ingress; `old` on update.
fn validate(ingress: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(ingress, names::dns_subdomain, &mut problems);
    let (spec, path) = (&ingress["spec"], Path::new("spec"));
    let rules = items(&spec["rules"]);
    if rules.is_empty() && spec["defaultBackend"].is_null() {
        problems.invalid(
            &path,
            spec["rules"].clone(),
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if !spec["defaultBackend"].is_null() {
        backend(&spec["defaultBackend"], &path.field("defaultBackend"), &mut problems);
    }
    for (index, item) in rules.iter().enumerate() {
        rule(item, &path.field("rules").index(index), &mut problems);
    }
    for (index, item) in items(&spec["tls"]).iter().enumerate() {
        tls(item, &path.field("tls").index(index), &mut problems);
    }
    let class = &spec["ingressClassName"];
    if let Some(name) = class.as_str() {
        problems.all(&path.field("ingressClassName"), name, names::dns_subdomain(name));
    }
    match old {
        None => {
            let annotated = ingress["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
            if let Some(annotated) = annotated.filter(|name| class.is_string() && class != name) {
                let path = Path::new("annotations").field(CLASS_ANNOTATION);
                problems.invalid(&path, annotated, "must match `ingressClassName` when both are specified");
            }
        }
        Some(old) if old["status"] != ingress["status"] => status(&ingress["status"], &mut problems),
        Some(_) => {}
    }
    problems.into_causes()
}

fn tls(tls: &Value, path: &Path, problems: &mut Problems) {
    for (index, host) in items(&tls["hosts"]).iter().filter_map(Value::as_str).enumerate() {
        problems.all(&path.field("hosts").index(index), host, host_name(host));
    }
    let secret = text(tls, "secretName");
    if !secret.is_empty() {
        problems.all(&path.field("secretName"), secret, names::dns_subdomain(secret));
    }
}

/// A name or, when there is a `*` in it, a wildcard name.
fn host_name(host: &str) -> Vec<String> {
    if host.contains('*') { names::wildcard_subdomain(host) } else { names::dns_subdomain(host) }
}

fn rule(rule: &Value, path: &Path, problems: &mut Problems) {
    let host = text(rule, "host");
    if is_address(host) {
        problems.invalid(&path.field("host"), host, "must be a DNS name, not an IP address");
    }
    if !host.is_empty() {
        problems.all(&path.field("host"), host, host_name(host));
    }
    if rule["http"].is_null() {
        return;
    }
    let (paths, at) = (items(&rule["http"]["paths"]), path.field("http").field("paths"));
    if paths.is_empty() {
        problems.required(&at, "");
    }
    for (index, item) in paths.iter().enumerate() {
        http_path(item, &at.index(index), problems);
    }
}

fn http_path(path: &Value, at: &Path, problems: &mut Problems) {
    let (value, field) = (text(path, "path"), at.field("path"));
    let Some(ty) = path["pathType"].as_str() else {
        return problems.required(&at.field("pathType"), "pathType must be specified");
    };
    let absolute = value.starts_with('/');
    match ty {
        "Exact" | "Prefix" => {
            if !absolute {
                problems.invalid(&field, value, "must be an absolute path");
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|s| value.contains(**s)) {
                problems.invalid(&field, value, format!("must not contain '{sequence}'"));
            }
            for suffix in ["/..", "/."].iter().filter(|s| value.ends_with(**s)) {
                problems.invalid(&field, value, format!("cannot end with '{suffix}'"));
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !absolute {
                problems.invalid(&field, value, "must be an absolute path");
            }
        }
        other => {
            let types = ["Exact", "ImplementationSpecific", "Prefix"];
            problems.unsupported(&at.field("pathType"), other, &types);
        }
    }
    backend(&path["backend"], &at.field("backend"), problems);
}

fn backend(backend: &Value, path: &Path, problems: &mut Problems) {
    match (&backend["resource"], &backend["service"]) {
        (Value::Null, Value::Null) => problems.invalid(path, "", "resource or service backend is required"),
        (Value::Null, service) => service_backend(service, path, problems),
        (resource, Value::Null) => reference(resource, &path.field("resource"), problems),
        _ => problems.invalid(path, "", "cannot set both resource and service backends"),
    }
}

fn service_backend(service: &Value, path: &Path, problems: &mut Problems) {
    let (name, at) = (text(service, "name"), path.field("service"));
    if name.is_empty() {
        problems.required(&at.field("name"), "");
    } else {
        problems.all(&at.field("name"), name, names::dns_label(name));
    }
    let (port, at) = (&service["port"], at.field("port"));
    match (text(port, "name"), port["number"].as_i64().unwrap_or_default()) {
        ("", 0) => problems.required(path, "port name or number is required"),
        ("", number) => problems.port(&at.field("number"), number),
        (name, 0) => problems.all(&at.field("name"), name, names::port_name(name)),
        _ => problems.invalid(path, "", "cannot set both port name & port number"),
    }
}

/// A reference to an object by group, kind and name.
pub(super) fn reference(reference: &Value, path: &Path, problems: &mut Problems) {
    if let Some(group) = reference["apiGroup"].as_str() {
        problems.all(&path.field("apiGroup"), group, names::dns_subdomain(group));
    }
    for field in ["kind", "name"] {
        let value = text(reference, field);
        if value.is_empty() {
            problems.required(&path.field(field), "");
        } else {
            problems.all(&path.field(field), value, names::path_segment(value));
        }
    }
}

fn status(status: &Value, problems: &mut Problems) {
    let path = Path::new("status.loadBalancer.ingress");
    for (index, ingress) in items(&status["loadBalancer"]["ingress"]).iter().enumerate() {
        let (path, ip, host) = (path.index(index), text(ingress, "ip"), text(ingress, "hostname"));
        if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            problems.invalid(&path.field("ip"), ip, why);
        }
        if !host.is_empty() {
            problems.all(&path.field("hostname"), host, names::dns_subdomain(host));
        }
        if is_address(host) {
            problems.invalid(&path.field("hostname"), host, "must be a DNS name, not an IP address");
        }
    }
}

/// Whether a host is an address, leading zeros allowed.
fn is_address(host: &str) -> bool {
    let parts: Vec<&str> = host.split('.').collect();
    let octet = |part: &&str| part.bytes().all(|b| b.is_ascii_digit()) && part.parse::<u8>().is_ok();
    (parts.len() == 4 && parts.iter().all(octet)) || host.parse::<Ipv6Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(causes: &[Cause]) -> String {
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("; ")
    }

    fn ingress(spec: &Value) -> Value {
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec, "status": {"loadBalancer": {}}})
    }

    fn problem(spec: &Value) -> String {
        told(&validate(&ingress(spec), None))
    }

    fn backend_of(port: &Value) -> Value {
        json!({"service": {"name": "web", "port": port}})
    }

    #[test]
    fn a_path_says_how_it_matches() {
        let path = |path: Value| {
            let mut path = path;
            path["backend"] = backend_of(&json!({"number": 80}));
            problem(&json!({"rules": [{"host": "*.example.com", "http": {"paths": [path]}}]}))
        };
        let at = "spec.rules[0].http.paths[0]";
        assert_eq!(path(json!({"path": "/", "pathType": "Prefix"})), "");
        assert_eq!(path(json!({"pathType": "ImplementationSpecific"})), "");
        assert_eq!(
            path(json!({"path": "/"})),
            format!("{at}.pathType: Required value: pathType must be specified")
        );
        assert_eq!(
            path(json!({"path": "/", "pathType": "Regex"})),
            format!(
                "{at}.pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \
                 \"ImplementationSpecific\", \"Prefix\""
            )
        );
        assert_eq!(
            path(json!({"path": "a//..%2f/..", "pathType": "Exact"})),
            [
                "must be an absolute path",
                "must not contain '//'",
                "must not contain '%2f'",
                "cannot end with '/..'"
            ]
            .map(|why| format!("{at}.path: Invalid value: \"a//..%2f/..\": {why}"))
            .join("; ")
        );
    }

    #[test]
    fn a_backend_is_a_service_or_a_resource() {
        let backend = |backend: Value| problem(&json!({"defaultBackend": backend}));
        let at = "spec.defaultBackend";
        assert_eq!(backend(backend_of(&json!({"name": "http"}))), "");
        assert_eq!(backend(json!({"resource": {"kind": "Bucket", "name": "b"}})), "");
        assert_eq!(
            backend(json!({})),
            format!("{at}: Invalid value: \"\": resource or service backend is required")
        );
        assert_eq!(
            backend(backend_of(&json!({}))),
            format!("{at}: Required value: port name or number is required")
        );
        assert_eq!(
            backend(backend_of(&json!({"name": "http", "number": 80}))),
            format!("{at}: Invalid value: \"\": cannot set both port name & port number")
        );
        assert_eq!(
            backend(json!({"resource": {"kind": "a/b", "name": ".."}})),
            format!(
                "{at}.resource.kind: Invalid value: \"a/b\": may not contain '/'; {at}.resource.name: Invalid value: \
                 \"..\": may not be '..'"
            )
        );
        assert_eq!(
            problem(&json!({})),
            "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"
        );
    }

    #[test]
    fn hosts_are_names_and_never_addresses() {
        let host = |host: &str| problem(&json!({"rules": [{"host": host}]}));
        assert_eq!(host("shop.example.com"), "");
        let refused =
            "spec.rules[0].host: Invalid value: \"010.0.0.1\": must be a DNS name, not an IP address";
        assert_eq!(host("010.0.0.1"), refused);
        assert!(
            host("*bar.com").contains("a wildcard DNS-1123 subdomain must start with '*.'"),
            "{}",
            host("*b")
        );
    }

    #[test]
    fn the_old_annotation_agrees_with_the_class() {
        let mut object = ingress(&json!({"defaultBackend": backend_of(&json!({"number": 80}))}));
        object["metadata"]["annotations"] = json!({CLASS_ANNOTATION: "nginx"});
        assert_eq!(
            Ingresses.warnings(&object),
            [
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
            ]
        );
        object["spec"]["ingressClassName"] = json!("other");
        assert_eq!(
            told(&validate(&object, None)),
            "annotations.kubernetes.io/ingress.class: Invalid value: \"nginx\": must match `ingressClassName` when \
             both are specified"
        );
    }

    #[test]
    fn a_status_names_addresses_and_hosts() {
        let old = ingress(&json!({"defaultBackend": backend_of(&json!({"number": 80}))}));
        let mut new = old.clone();
        new["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}, {"hostname": "1.2.3.4"}]}});
        assert_eq!(
            told(&validate(&new, Some(&old))),
            "status.loadBalancer.ingress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"
        );
    }
}
