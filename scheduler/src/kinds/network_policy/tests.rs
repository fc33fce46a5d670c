//! What is said of policies, word for word as upstream says it.

use super::*;

fn policy(spec: Value) -> Value {
    let mut policy = json!({"metadata": {"name": "p", "namespace": "n"}});
    policy["spec"] = spec;
    Policies.defaults(&mut policy);
    policy
}

fn told(policy: &Value, old: Option<&Value>) -> Vec<String> {
    validate(policy, old).iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

fn said(spec: Value) -> Vec<String> {
    told(&policy(spec), None)
}

#[test]
fn the_directions_follow_from_the_rules() {
    let types = |spec: Value| policy(spec)["spec"]["policyTypes"].clone();
    assert_eq!(types(json!({"podSelector": {}})), json!(["Ingress"]));
    assert_eq!(types(json!({"egress": [], "policyTypes": []})), json!(["Ingress"]));
    assert_eq!(types(json!({"egress": [{}]})), json!(["Ingress", "Egress"]));
    assert_eq!(types(json!({"egress": [{}], "policyTypes": ["Egress"]})), json!(["Egress"]));
    let ports = json!([{"port": 80}, {"port": "dns", "protocol": "UDP"}, {}]);
    let defaulted = policy(json!({"ingress": [{"ports": ports}], "egress": [{"ports": ports}]}));
    let expected =
        json!([{"port": 80, "protocol": "TCP"}, {"port": "dns", "protocol": "UDP"}, {"protocol": "TCP"}]);
    for rules in ["ingress", "egress"] {
        assert_eq!(defaulted["spec"][rules][0]["ports"], expected);
    }
    assert_eq!(said(json!({"ingress": [{"ports": ports, "from": [{"podSelector": {}}]}, {}]})), [""; 0]);
}

#[test]
fn directions_are_two() {
    assert_eq!(said(json!({"policyTypes": ["Egress", "Egress"]})), [""; 0]);
    assert_eq!(
        said(json!({"policyTypes": ["Foo", "Ingress", "Egress"]})),
        [
            "spec.policyTypes: Invalid value: [\"Foo\",\"Ingress\",\"Egress\"]: may not specify more than two policyTypes"
        ]
    );
    assert_eq!(
        said(json!({"policyTypes": ["Foo"]})),
        ["spec.policyTypes[0]: Unsupported value: \"Foo\": supported values: \"Ingress\", \"Egress\""]
    );
}

#[test]
fn ports_are_numbers_ranges_or_names() {
    let ports = json!([
        {"port": 80, "endPort": 70}, {"port": "http", "endPort": 90}, {"endPort": 90}, {"port": 0}, {"port": "-a"},
        {"protocol": "icmp"}, {"port": 80, "endPort": 70000}, {"port": 80, "endPort": 80}, {"port": -1, "endPort": -5}
    ]);
    let at = |tail: &str| format!("spec.egress[0].ports{tail}");
    assert_eq!(
        said(json!({"egress": [{"ports": ports}]})),
        [
            at("[0].endPort: Invalid value: 70: must be greater than or equal to `port`"),
            at("[1].endPort: Invalid value: 90: may not be specified when `port` is non-numeric"),
            at("[2].endPort: Invalid value: 90: may not be specified when `port` is not specified"),
            at("[3].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
            at("[4].port: Invalid value: \"-a\": must not begin or end with a hyphen"),
            at("[5].protocol: Unsupported value: \"icmp\": supported values: \"TCP\", \"UDP\", \"SCTP\""),
            at("[6].endPort: Invalid value: 70000: must be between 1 and 65535, inclusive"),
            at("[8].port: Invalid value: -1: must be between 1 and 65535, inclusive"),
            at("[8].endPort: Invalid value: -5: must be greater than or equal to `port`"),
            at("[8].endPort: Invalid value: -5: must be between 1 and 65535, inclusive"),
        ]
    );
}

#[test]
fn a_peer_is_pods_or_a_block() {
    let peers = json!([
        {}, {"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}, {"podSelector": {}, "namespaceSelector": {}},
        {"namespaceSelector": {"matchLabels": {"a": "?"}}, "podSelector": {"matchExpressions": [{"key": "k", "operator": "Is"}]}}
    ]);
    let said = said(json!({"ingress": [{"from": peers}]}));
    assert_eq!(
        said[..3],
        [
            "spec.ingress[0].from[0]: Required value: must specify a peer",
            "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
            "spec.ingress[0].from[3].podSelector.matchExpressions[0].operator: Invalid value: \"Is\": not a valid selector \
             operator",
        ]
    );
    assert!(
        said[3].starts_with("spec.ingress[0].from[3].namespaceSelector.matchLabels: Invalid value: \"?\"")
    );
    assert_eq!(said.len(), 4);
}

#[test]
fn a_block_is_a_range_with_parts_taken_out() {
    let block = |cidr: &str, except: &[&str]| {
        said(json!({"egress": [{"to": [{"ipBlock": {"cidr": cidr, "except": except}}]}]}))
            .into_iter()
            .map(|cause| cause.replace("spec.egress[0].to[0].ipBlock.", ""))
            .collect::<Vec<_>>()
    };
    let subset = |index: usize, text: &str| {
        format!("except[{index}]: Invalid value: {text:?}: must be a strict subset of `cidr`")
    };
    assert_eq!(block("10.0.0.0/8", &["10.1.0.0/16", "10.1.0.0/16"]), [""; 0]);
    assert_eq!(block("fd00::/8", &["fd01::/16"]), [""; 0]);
    assert_eq!(block("", &["x"]), ["cidr: Required value"]);
    assert_eq!(
        block("10.0.0.0/33", &["10.1.0.0/8", "x"]),
        [
            "cidr: Invalid value: \"10.0.0.0/33\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        ]
    );
    assert_eq!(
        block("10.0.0.1/8", &["11.0.0.0/16", "10.0.0.0/8", "fd00::/16"]),
        [
            "cidr: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length".to_owned(),
            subset(0, "11.0.0.0/16"),
            subset(1, "10.0.0.0/8"),
            subset(2, "fd00::/16"),
        ]
    );
    assert_eq!(
        block("0.0.0.0/0", &["", "10.0.0.1/9"]),
        [
            "except[0]: Invalid value: \"\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            "except[1]: Invalid value: \"10.0.0.1/9\": must not have bits set beyond the prefix length",
        ]
    );
}

#[test]
fn what_was_stored_stays_legal_wherever_it_stands_now() {
    let of = |blocks: Value| policy(json!({"ingress": [{"from": blocks}]}));
    let (old, block) =
        (of(json!([{"ipBlock": {"cidr": "10.0.0.1/8"}}])), json!({"ipBlock": {"cidr": "10.0.0.1/8"}}));
    let new = of(json!([{"podSelector": {}}, block]));
    assert_eq!(told(&new, Some(&old)), [""; 0]);
    assert_eq!(told(&new, None).len(), 1);
}

#[test]
fn ranges_in_another_form_than_usual_are_warned_about() {
    let spec = json!({"ingress": [{"from": [{"ipBlock": {"cidr": "FD00::0/8", "except": ["FD01::/16"]}}]}]});
    let at = "spec.ingress[0].from[0].ipBlock";
    let form = "should be in RFC 5952 canonical format";
    assert_eq!(
        Policies.warnings(&policy(spec)),
        [
            format!("{at}.cidr: IPv6 CIDR value \"FD00::0/8\" {form} (\"fd00::/8\")"),
            format!("{at}.except[0]: IPv6 CIDR value \"FD01::/16\" {form} (\"fd01::/16\")"),
        ]
    );
}

#[test]
fn the_table_shows_whom_a_policy_selects() {
    let shown = |selector: Value| Policies.cells(&policy(json!({"podSelector": selector})), 0)[1].clone();
    assert_eq!(shown(json!({})), "<none>");
    let selector = json!({"matchLabels": {"z": "1", "a": "2"},
        "matchExpressions": [{"key": "k", "operator": "In", "values": ["b", "a"]}, {"key": "x", "operator": "Exists"}]});
    assert_eq!(shown(selector), "a=2,k in (a,b),x,z=1");
}
