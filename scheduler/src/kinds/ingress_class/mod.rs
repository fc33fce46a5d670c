//! IngressClasses: kept and checked for whatever controller a user installs; none is built in.

use std::borrow::Cow;

use k8s_openapi::api::networking::v1::IngressClass;
use serde_json::{Value, json};

use super::{
    Column, DEFAULT_CLASS, Kind, Rules, ingress,
    json::{member_mut, set_default, text},
    print::{AGE, NAME, NONE, age, column},
    validate::{Path, Problems, meta, names},
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind { generation: true, columns: Cow::Borrowed(COLUMNS), ..Kind::published::<IngressClass>(Classes) }
}

struct Classes;

impl Rules for Classes {
    fn defaults(&self, class: &mut Value) {
        let spec = class.as_object_mut().and_then(|class| member_mut(class, "spec"));
        if let Some(parameters) = spec.and_then(|spec| member_mut(spec, "parameters"))
            && parameters.get("scope").is_none_or(Value::is_null)
        {
            set_default(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, class: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(class, old)
    }

    fn cells(&self, class: &Value, now: i64) -> Vec<Value> {
        cells(class, now)
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Controller", "string", "Controller that is responsible for handling this class"),
    column("Parameters", "string", "A reference to a resource with additional parameters"),
    AGE,
];

fn cells(class: &Value, now: i64) -> Vec<Value> {
    let (spec, own) = (&class["spec"], text(&class["metadata"], "name"));
    let default = class["metadata"]["annotations"][DEFAULT_CLASS] == "true";
    let parameters = &spec["parameters"];
    let shown = match (parameters.is_null(), parameters["apiGroup"].as_str()) {
        (true, _) => NONE.to_owned(),
        (_, Some(group)) => format!("{}.{group}/{}", text(parameters, "kind"), text(parameters, "name")),
        (_, None) => format!("{}/{}", text(parameters, "kind"), text(parameters, "name")),
    };
    let own = if default { format!("{own} (default)") } else { own.to_owned() };
    vec![json!(own), json!(text(spec, "controller")), json!(shown), age(class, now)]
}

/// The longest name of a class's controller.
const MAX_CONTROLLER: usize = 250;

/// An IngressClass; `old` on update.
fn validate(class: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    let (spec, path) = (&class["spec"], Path::new("spec"));
    let at = path.field("controller");
    if let Some(old) = old {
        // A text that is not there is the empty one.
        problems.immutable(&at, &text(spec, "controller").into(), &old["spec"]["controller"]);
    }
    meta::object_meta(class, names::dns_subdomain, &mut problems);
    let controller = text(spec, "controller");
    if controller.len() > MAX_CONTROLLER {
        problems.too_long(&at, MAX_CONTROLLER);
    }
    domain_prefixed_path(controller, &at, &mut problems);
    if !spec["parameters"].is_null() {
        parameters(&spec["parameters"], &path.field("parameters"), &mut problems);
    }
    problems.into_causes()
}

fn domain_prefixed_path(value: &str, path: &Path, problems: &mut Problems) {
    if value.is_empty() {
        return problems.required(path, "");
    }
    match value.split_once('/') {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            problems.all(path, host, names::dns_subdomain(host));
            problems.all(path, rest, names::http_path(rest));
        }
        _ => problems.invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

fn parameters(parameters: &Value, path: &Path, problems: &mut Problems) {
    ingress::reference(parameters, path, problems);
    let (namespace, at) = (&parameters["namespace"], path.field("namespace"));
    match parameters["scope"].as_str() {
        None => problems.required(&path.field("scope"), ""),
        Some("Namespace") => match namespace.as_str() {
            None => problems.required(&at, "`parameters.scope` is set to 'Namespace'"),
            Some(name) => problems.all(&at, name, names::dns_label(name)),
        },
        Some("Cluster") => {
            if !namespace.is_null() {
                problems.forbidden(&at, "`parameters.scope` is set to 'Cluster'");
            }
        }
        Some(other) => problems.unsupported(&path.field("scope"), other, &["Cluster", "Namespace"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(causes: &[Cause]) -> String {
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_class_names_its_controller_and_keeps_it() {
        let class = |spec: Value| {
            let mut class = json!({"metadata": {"name": "c"}, "spec": spec});
            Classes.defaults(&mut class);
            class
        };
        let problem = |spec: Value| told(&validate(&class(spec), None));
        let parameters = |parameters: Value| json!({"controller": "acme.io/x", "parameters": parameters});
        assert_eq!(problem(parameters(json!({"kind": "K", "name": "n"}))), "");
        assert_eq!(problem(json!({})), "spec.controller: Required value");
        assert_eq!(
            problem(json!({"controller": "x"})),
            "spec.controller: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")"
        );
        assert_eq!(
            problem(parameters(json!({"kind": "K", "name": "n", "namespace": "a"}))),
            "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"
        );
        let (old, new) = (class(json!({"controller": "a.io/x"})), class(json!({"controller": "b.io/x"})));
        assert_eq!(
            told(&validate(&new, Some(&old))),
            "spec.controller: Invalid value: \"b.io/x\": field is immutable"
        );
    }
}
