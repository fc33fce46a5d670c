//! Validation of when a container is started again: its restart policy, its rules, and what a resize may do.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems},
};

const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const ACTIONS: [&str; 2] = ["Restart", "RestartAllContainers"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const NEEDED: &str = "must specify restartPolicy when restart rules are used";
/// Enough for every exit code that somebody tells apart.
const MAX_RULES: usize = 20;
/// There are no more exit codes.
const MAX_CODES: usize = 255;

/// `restartPolicy` and `restartPolicyRules` of a container that runs to its end before the others start. As upstream,
/// rules without a policy are not looked at.
pub(super) fn init_policy(container: &Value, path: &Path, problems: &mut Problems) {
    if container["restartPolicy"].is_string() {
        policy(container, path, problems);
    } else if !items(&container["restartPolicyRules"]).is_empty() {
        problems.required(&path.field("restartPolicy"), NEEDED);
    }
}

/// `restartPolicy` and `restartPolicyRules` of a container.
pub(super) fn policy(container: &Value, path: &Path, problems: &mut Problems) {
    let rules = items(&container["restartPolicyRules"]);
    let at = path.field("restartPolicy");
    match container["restartPolicy"].as_str() {
        None if rules.is_empty() => return,
        None => problems.required(&at, NEEDED),
        Some(policy) if !POLICIES.contains(&policy) => problems.unsupported(&at, policy, &POLICIES),
        Some(_) => {}
    }
    let path = path.field("restartPolicyRules");
    if rules.len() > MAX_RULES {
        problems.too_many(&path, rules.len(), MAX_RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        self::rule(rule, &path.index(index), problems);
    }
}

fn rule(rule: &Value, path: &Path, problems: &mut Problems) {
    let action = text(rule, "action");
    if !ACTIONS.contains(&action) {
        problems.unsupported(&path.field("action"), action, &ACTIONS);
    }
    let (codes, path) = (&rule["exitCodes"], path.field("exitCodes"));
    if !codes.is_object() {
        return problems.required(&path, "must be specified");
    }
    let operator = text(codes, "operator");
    if !OPERATORS.contains(&operator) {
        problems.unsupported(&path.field("operator"), operator, &OPERATORS);
    }
    let count = items(&codes["values"]).len();
    if count > MAX_CODES {
        problems.too_many(&path.field("values"), count, MAX_CODES);
    }
}

/// `resizePolicy` of a container; `never` when the pod starts nothing again. As upstream, most is told of the list.
pub(super) fn resize_policy(policies: &Value, never: bool, path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, policy) in items(policies).iter().enumerate() {
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            problems.duplicate(&path.index(index), resource);
        }
        problems.one_of(path, resource, &["cpu", "memory"]);
        problems.one_of(path, restart, &["NotRequired", "RestartContainer"]);
        if never && restart != "NotRequired" {
            problems.invalid(path, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}
