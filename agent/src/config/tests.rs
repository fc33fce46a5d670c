use std::path::Path;

use super::*;
use crate::observe::Threshold;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("agent.toml"))
}

const LEAST: &str = "[scheduler]\naddress = \"10.0.0.1:6444\"\nca_hash = \"sha256:00\"\n";

#[test]
fn the_scheduler_is_all_that_must_be_said() {
    let config = parse(LEAST).unwrap();
    assert!(config.cgroup.required);
    assert_eq!(config.node.max_pods, 110);
    assert_eq!(config.containerd.handlers["runc"].runtime_type, "io.containerd.runc.v2");
    assert_eq!(config.dataplane.cgroup, Path::new("/sys/fs/cgroup"));
    assert_eq!(config.network.hold_back, Duration::from_secs(60));
    assert_eq!(config.logs.max_bytes, 10 << 20);
}

#[test]
fn all_problems_are_told_at_once_with_path_and_value() {
    let text = r#"
        [node]
        name = "Bad_Name"
        taints = ["gpu=true"]
        addresses = ["here"]
        [reserved]
        cpu = "lots"
        [pressure]
        disk = "half"
        [scheduler]
        address = "nowhere"
        [containerd]
        default_handler = "kata"
        [cgroup]
        enforcement = "maybe"
        [paths]
        state_dir = "relative"
        [network]
        hold_back = "soon"
        mtu = 100
        [metrics]
        listen = "all"
        [log]
        format = "xml"
    "#;
    let message = parse(text).unwrap_err().to_string();
    for part in [
        "node.name = \"Bad_Name\"",
        "node.taints = \"gpu=true\"",
        "node.addresses = \"here\"",
        "reserved.cpu = \"lots\"",
        "pressure.disk = \"half\"",
        "scheduler.address = \"nowhere\"",
        "scheduler.ca_file = unset",
        "containerd.default_handler = \"kata\": is none of the handlers: runc",
        "cgroup.enforcement = \"maybe\"",
        "paths.state_dir = \"relative\"",
        "network.hold_back = \"soon\"",
        "network.mtu = 100",
        "metrics.listen = \"all\"",
        "log.format = \"xml\"",
    ] {
        assert!(message.contains(part), "{part} is missing in {message}");
    }
}

#[test]
fn unknown_keys_are_refused_by_name() {
    let error = parse(&format!("{LEAST}tokenfile = \"x\"\n")).unwrap_err();
    assert!(crate::model::chain(&error).contains("tokenfile"), "{error:?}");
}

#[test]
fn the_file_is_used_as_written() {
    let text = format!(
        "{LEAST}[node]\nname = \"n-1\"\ntaints = [\"gpu=true:NoSchedule\", \"x:NoExecute\"]\n\
         [images.aliases]\n\"registry.company.com/web-app\" = \"127.0.0.1:5000/web-app\"\n\
         [dns]\nservers = [\"192.0.2.1\", \"192.0.2.2:5353\"]\n[containerd.handlers.crun]\nbinary = \"crun\"\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.node.taints[1].key, "x");
    assert_eq!(config.dns.servers[0].port(), 53);
    assert_eq!(config.images.aliases.len(), 1);
    assert_eq!(config.containerd.handlers["crun"].binary.as_deref(), Some("crun"));
}

#[test]
fn what_must_be_free_is_an_amount_or_a_share() {
    let disk = |text: &str| {
        parse(&format!("{LEAST}[pressure]\ndisk = {text:?}\n")).map(|config| config.node.pressure.disk)
    };
    for (text, threshold) in [
        ("1Gi", Threshold::Amount(1 << 30)),
        ("0", Threshold::Amount(0)),
        ("10%", Threshold::Share(0.1)),
        ("0%", Threshold::Share(0.0)),
        ("7.5%", Threshold::Share(0.075)),
    ] {
        assert_eq!(disk(text).unwrap(), threshold, "{text}");
    }
    for text in ["", "%", "-1Gi", "101%", "-1%", "NaN%", "much"] {
        assert!(disk(text).is_err(), "{text}");
    }
}
