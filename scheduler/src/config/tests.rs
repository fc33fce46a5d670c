use std::path::Path;

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("scheduler.toml"))
}

#[test]
fn an_empty_file_is_a_cluster_on_one_machine() {
    let config = parse("").unwrap();
    assert_eq!(config.api.advertise.to_string(), "127.0.0.1:6443");
    assert_eq!(config.cluster.dns_ip.to_string(), "10.96.0.10");
    assert_eq!(config.cluster.api_ip().to_string(), "10.96.0.1");
    assert_eq!(config.timing.lease, Duration::from_secs(40));
    let names = config.serving_names();
    assert!(names.contains(&"kubernetes.default.svc.cluster.local".to_owned()));
    assert!(names.contains(&"10.96.0.1".to_owned()) && !names.contains(&"0.0.0.0".to_owned()));
}

#[test]
fn all_problems_are_told_at_once_with_path_and_value() {
    let text = r#"
        data_dir = "relative"
        [api]
        listen = "here"
        [cluster]
        service_cidr = "10.0.0.1/16"
        node_ports = "9-1"
        [timing]
        heartbeat = "soon"
        [log]
        format = "xml"
    "#;
    let message = parse(text).unwrap_err().to_string();
    for part in [
        "data_dir = relative",
        "api.listen = \"here\"",
        "cluster.service_cidr = \"10.0.0.1/16\": has host bits; the network is 10.0.0.0/16",
        "cluster.node_ports = \"9-1\"",
        "timing.heartbeat = \"soon\"",
        "log.format = \"xml\"",
    ] {
        assert!(message.contains(part), "{part} not in {message}");
    }
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    for (text, part) in [
        ("[cluster]\npod_cidr = \"10.96.0.0/24\"", "overlaps cluster.service_cidr"),
        ("[cluster]\nnode_mask = 8", "cluster.node_mask = 8"),
        ("[cluster]\ndns_ip = \"10.1.1.1\"", "must be inside cluster.service_cidr"),
        ("[timing]\nlease = \"6s\"", "must be at least twice timing.heartbeat"),
        ("[api]\nconnections = 0\nconnections_per_user = 0", "api.connections = 0: must not be zero"),
        ("[nodes]\nconnections = 9\nconnections_per_node = 10", "nor above nodes.connections 9"),
    ] {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.contains(part), "{part} not in {message}");
    }
}

#[test]
fn unknown_keys_are_refused_by_name() {
    let error = parse("[api]\nlisten_on = \"x\"").unwrap_err();
    let text = crate::model::Chain(&error).to_string();
    assert!(text.contains("listen_on"), "{text}");
}
