//! Whether a pod may be on the node by the Node's labels and taints, as the API has them. Whoever bound the pod need not
//! have asked.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

type Labels = BTreeMap<String, String>;

/// Whether node selector and required node affinity allow a node with this name and these labels.
pub(super) fn allows(spec: &PodSpec, name: &str, labels: &Labels) -> bool {
    let chosen = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let fields = Labels::from([("metadata.name".to_owned(), name.to_owned())]);
    let any = |terms: &[NodeSelectorTerm]| terms.iter().any(|term| fits(term, labels, &fields));
    spec.node_selector.iter().flatten().all(chosen)
        && required.is_none_or(|required| any(&required.node_selector_terms))
}

/// A term that says nothing, or what cannot be understood, selects no node.
fn fits(term: &NodeSelectorTerm, labels: &Labels, fields: &Labels) -> bool {
    let (expressions, names) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    let (expressions, names) = (expressions.unwrap_or_default(), names.unwrap_or_default());
    let says_something = !expressions.is_empty() || !names.is_empty();
    says_something
        && expressions.iter().all(|requirement| holds(requirement, labels))
        && names.iter().all(|requirement| holds(requirement, fields))
}

fn holds(requirement: &NodeSelectorRequirement, labels: &Labels) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let own = labels.get(&requirement.key);
    let compared = |holds: fn(i64, i64) -> bool| {
        let bound = values.first().and_then(|value| value.parse().ok());
        let own = own.and_then(|value| value.parse().ok());
        own.zip(bound).is_some_and(|(own, bound)| holds(own, bound))
    };
    match requirement.operator.as_str() {
        "In" => own.is_some_and(|value| values.contains(value)),
        "NotIn" => !values.is_empty() && own.is_none_or(|value| !values.contains(value)),
        "Exists" => own.is_some(),
        "DoesNotExist" => own.is_none(),
        "Gt" => compared(|own, bound| own > bound),
        "Lt" => compared(|own, bound| own < bound),
        _ => false,
    }
}

/// Whether the pod tolerates every taint that no pod may run with. Those that only keep placement away have done so.
pub(super) fn tolerated(spec: &PodSpec, taints: &[Taint]) -> bool {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let evicting = taints.iter().filter(|taint| taint.effect == "NoExecute");
    evicting.into_iter().all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &'_ Option<String>| field.as_deref().unwrap_or_default().to_owned();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    let value = match text(&toleration.operator).as_str() {
        "Exists" => true,
        // One without a key is of all keys, and says `Exists`.
        "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        _ => false,
    };
    value && (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(mut more: Value) -> PodSpec {
        more["containers"] = json!([]);
        serde_json::from_value(more).unwrap()
    }

    fn labels() -> Labels {
        [("disk", "ssd"), ("cores", "8")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn a_node_selector_asks_for_each_of_its_labels() {
        let selects = |selector: Value| allows(&spec(json!({"nodeSelector": selector})), "n", &labels());
        assert!(selects(json!({})) && selects(json!({"disk": "ssd", "cores": "8"})));
        assert!(!selects(json!({"disk": "hdd"})) && !selects(json!({"disk": "ssd", "zone": "a"})));
    }

    #[test]
    fn one_term_of_required_affinity_is_enough_and_all_of_it_must_hold() {
        let required = |terms: Value| {
            let node =
                json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
            allows(&spec(json!({"affinity": {"nodeAffinity": node}})), "n", &labels())
        };
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (key, operator, values, holds) in [
            ("disk", "In", json!(["hdd", "ssd"]), true),
            ("zone", "In", json!(["a"]), false),
            ("disk", "NotIn", json!(["ssd"]), false),
            ("zone", "NotIn", json!(["a"]), true),
            ("disk", "Exists", json!([]), true),
            ("zone", "Exists", json!([]), false),
            ("zone", "DoesNotExist", json!([]), true),
            ("cores", "Gt", json!(["4"]), true),
            ("cores", "Gt", json!(["8"]), false),
            ("cores", "Lt", json!(["9"]), true),
            ("disk", "Lt", json!(["9"]), false),
            ("disk", "Near", json!(["ssd"]), false),
        ] {
            assert_eq!(required(json!([expression(key, operator, values)])), holds, "{key} {operator}");
        }
        let (yes, no) = (expression("disk", "Exists", json!([])), expression("zone", "Exists", json!([])));
        assert!(required(json!([no, yes])), "one of two terms");
        assert!(!required(json!([{}])) && !required(json!([])), "an empty term selects nothing");
        let named = |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
        assert!(required(named("n")) && !required(named("other")));
    }

    #[test]
    fn only_taints_that_evict_keep_a_pod_out() {
        let taint = |effect: &str| -> Vec<Taint> {
            serde_json::from_value(json!([{"key": "k", "value": "v", "effect": effect}])).unwrap()
        };
        let tolerating = |toleration: Value| spec(json!({"tolerations": [toleration]}));
        assert!(tolerated(&spec(json!({})), &taint("NoSchedule")));
        assert!(!tolerated(&spec(json!({})), &taint("NoExecute")));
        for (toleration, holds) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists", "tolerationSeconds": 5}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k", "operator": "Near", "value": "v"}), false),
            (json!({"key": "l", "operator": "Exists"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), false),
        ] {
            assert_eq!(
                tolerated(&tolerating(toleration.clone()), &taint("NoExecute")),
                holds,
                "{toleration}"
            );
        }
    }
}
