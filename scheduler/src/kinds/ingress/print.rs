//! What `kubectl get ingresses` prints.

use serde_json::{Value, json};

use crate::kinds::{
    Column,
    json::{items, text},
    print::{AGE, NAME, NONE, age, column, name},
    service::balancer_addresses,
};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column(
        "Class",
        "string",
        "The name of the IngressClass resource that should be used for additional configuration",
    ),
    column("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
    column("Address", "string", "Address is a list containing ingress points for the load-balancer"),
    column("Ports", "string", "Ports of TLS configurations that open"),
    AGE,
];

pub(super) fn cells(ingress: &Value, now: i64) -> Vec<Value> {
    let spec = &ingress["spec"];
    let ports = if items(&spec["tls"]).is_empty() { "80" } else { "80, 443" };
    vec![
        name(ingress),
        json!(spec["ingressClassName"].as_str().unwrap_or(NONE)),
        json!(hosts(items(&spec["rules"]))),
        json!(Vec::from_iter(balancer_addresses(ingress)).join(",")),
        json!(ports),
        age(ingress, now),
    ]
}

/// The first three hosts; the rules behind them are counted, also those without a host.
fn hosts(rules: &[Value]) -> String {
    const SHOWN: usize = 3;
    let mut shown = Vec::new();
    for rule in rules {
        if shown.len() == SHOWN {
            return format!("{} + {} more...", shown.join(","), rules.len() - SHOWN);
        }
        shown.extend(Some(text(rule, "host")).filter(|host| !host.is_empty()));
    }
    if shown.is_empty() { "*".to_owned() } else { shown.join(",") }
}
