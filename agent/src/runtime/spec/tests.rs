use std::collections::BTreeMap;

use oci_spec::image::ConfigBuilder;

use super::*;
use crate::{model::ContainerId, runtime::Mount};

fn spec() -> ContainerSpec {
    ContainerSpec {
        id: ContainerId::new("uid.web.0"),
        pod_namespace: "default".into(),
        pod_name: "web".into(),
        image: "web:1".into(),
        command: Vec::new(),
        args: Vec::new(),
        working_dir: None,
        env: Vec::new(),
        mounts: Vec::new(),
        user: None,
        group: None,
        run_as_non_root: false,
        extra_groups: Vec::new(),
        add_capabilities: Vec::new(),
        drop_capabilities: Vec::new(),
        privileged: false,
        allow_privilege_escalation: true,
        read_only_root: false,
        seccomp: Seccomp::RuntimeDefault,
        netns: Some("/run/ns/net".into()),
        ipcns: Some("/run/ns/ipc".into()),
        utsns: Some("/run/ns/uts".into()),
        cgroup: "/gantry/pods/poduid/web".into(),
        limits: Limits::default(),
        oom_score_adj: 1000,
        log_path: "/var/log/0.log".into(),
        stdin: false,
        stdin_once: false,
        tty: false,
        handler: None,
        sysctls: BTreeMap::new(),
        host_pid: false,
        labels: BTreeMap::new(),
    }
}

fn image() -> ImageConfig {
    let words = |list: &[&str]| list.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
    ConfigBuilder::default()
        .entrypoint(words(&["/entry"]))
        .cmd(words(&["serve"]))
        .env(words(&["PATH=/bin", "MODE=image", "KEEP=1"]))
        .working_dir("/srv")
        .build()
        .unwrap()
}

fn json(spec: &ContainerSpec) -> serde_json::Value {
    let identity = Identity { uid: 1000, gid: 0, groups: vec![2000], home: Some("/home/app".into()) };
    serde_json::to_value(build(spec, &image(), &identity, "uid", None, u64::MAX).unwrap()).unwrap()
}

#[test]
fn command_and_args_replace_entrypoint_and_cmd() {
    let args = |command: &[&str], args: &[&str]| {
        let words = |list: &[&str]| list.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        arguments(&ContainerSpec { command: words(command), args: words(args), ..spec() }, &image()).unwrap()
    };
    assert_eq!(args(&[], &[]), ["/entry", "serve"]);
    assert_eq!(args(&[], &["x"]), ["/entry", "x"]);
    assert_eq!(args(&["/c"], &[]), ["/c"]);
    assert_eq!(args(&["/c"], &["x"]), ["/c", "x"]);
    let none = arguments(&spec(), &ImageConfig::default()).unwrap_err();
    assert_eq!(none.to_string(), "no command specified");
}

#[test]
fn environment_of_the_pod_wins_over_the_images() {
    let env = [("MODE".to_owned(), "pod".to_owned()), ("NEW".to_owned(), "a=b".to_owned())].into();
    let oci = json(&ContainerSpec { env, ..spec() });
    assert_eq!(
        oci["process"]["env"],
        serde_json::json!(["PATH=/bin", "HOME=/home/app", "MODE=pod", "KEEP=1", "NEW=a=b"])
    );
    assert_eq!(oci["process"]["cwd"], "/srv");
}

#[test]
fn joins_the_pods_namespaces_and_has_its_own_processes() {
    let oci = json(&spec());
    let namespaces = oci["linux"]["namespaces"].as_array().unwrap();
    let path = |kind: &str| namespaces.iter().find(|n| n["type"] == kind).map(|n| n["path"].clone());
    assert_eq!(path("network").unwrap(), "/run/ns/net");
    assert_eq!(path("ipc").unwrap(), "/run/ns/ipc");
    assert_eq!(path("uts").unwrap(), "/run/ns/uts");
    assert_eq!(path("pid").unwrap(), serde_json::Value::Null);
    assert!(path("user").is_none());
    assert!(oci.get("hostname").is_none(), "the pinned UTS namespace has the name already");
}

#[test]
fn groups_of_the_image_and_the_pod_are_joined() {
    let oci = json(&ContainerSpec { extra_groups: vec![2000, 500], ..spec() });
    // The primary group too: a process that changes it must not get rid of what the group is refused.
    assert_eq!(oci["process"]["user"]["additionalGids"], serde_json::json!([0, 500, 2000]));
}

#[test]
fn without_limits_no_controller_file_is_asked_for() {
    let oci = json(&spec());
    let resources = oci["linux"]["resources"].as_object().unwrap();
    assert_eq!(resources.keys().collect::<Vec<_>>(), ["devices"]);
}

#[test]
fn limits_become_cgroup_values() {
    let limits = Limits {
        cpu_weight: Some(20),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        memory_max: Some(1 << 20),
        pids_max: Some(100),
    };
    let resources = json(&ContainerSpec { limits, ..spec() })["linux"]["resources"].clone();
    assert_eq!(resources["unified"], serde_json::json!({"cpu.weight": "20", "memory.oom.group": "1"}));
    assert_eq!(resources["cpu"], serde_json::json!({"quota": 50_000, "period": 100_000}));
    assert_eq!(resources["memory"], serde_json::json!({"limit": 1 << 20, "swap": 1 << 20}));
    assert_eq!(resources["pids"]["limit"], 100);
}

#[test]
fn confined_by_default_and_not_when_privileged() {
    let oci = json(&ContainerSpec { allow_privilege_escalation: false, ..spec() });
    assert_eq!(oci["process"]["noNewPrivileges"], true);
    assert_eq!(oci["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert!(!oci["linux"]["maskedPaths"].as_array().unwrap().is_empty());
    assert_eq!(oci["linux"]["resources"]["devices"][0]["allow"], false);
    let oci = json(&ContainerSpec { privileged: true, ..spec() });
    assert_eq!(oci["process"]["noNewPrivileges"], false);
    assert!(oci["linux"].get("seccomp").is_none() && oci["linux"].get("maskedPaths").is_none());
    assert!(!oci["linux"]["devices"].as_array().unwrap().is_empty());
}

#[test]
fn outer_mounts_come_before_inner_ones_and_a_given_shm_replaces_the_default() {
    let bind = |target: &str| Mount {
        source: "/v".into(),
        target: target.into(),
        read_only: true,
        propagation: Propagation::None,
    };
    let mounts = vec![bind("/data/inner"), bind("/data"), bind("/dev/shm")];
    let oci = json(&ContainerSpec { mounts, ..spec() });
    let targets: Vec<_> = oci["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap().to_owned())
        .collect();
    let position = |target: &str| targets.iter().position(|t| t == target).unwrap();
    assert!(position("/data") < position("/data/inner"));
    assert_eq!(targets.iter().filter(|t| *t == "/dev/shm").count(), 1);
}

#[test]
fn seccomp_follows_the_capabilities() {
    let allows = |add: &[&str], name: &str| {
        let add_capabilities = add.iter().map(|&c| c.to_owned()).collect();
        let oci = json(&ContainerSpec { add_capabilities, ..spec() });
        let rules = oci["linux"]["seccomp"]["syscalls"].as_array().unwrap().clone();
        rules.iter().any(|r| {
            r["action"] == "SCMP_ACT_ALLOW"
                && r.get("args").is_none()
                && r["names"].as_array().unwrap().iter().any(|n| n == name)
        })
    };
    assert!(allows(&[], "read") && !allows(&[], "mount") && !allows(&[], "clone"));
    assert!(allows(&["SYS_ADMIN"], "mount") && allows(&["SYS_ADMIN"], "clone"));
    assert!(!allows(&[], "settimeofday") && allows(&["SYS_TIME"], "settimeofday"));
}
