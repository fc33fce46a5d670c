//! What people get wrong, and what they are told: the same outcome and as good a message as upstream, and recovery
//! by itself when the cause goes away.

use anyhow::{Result, ensure};
use gantry_tests::{Cluster, Namespace, eventually, manifests};

/// A refused manifest and what the refusal must say.
struct Refused {
    why: &'static str,
    manifest: &'static str,
    says: &'static [&'static str],
}

const REFUSED: &[Refused] = &[
    Refused {
        why: "not YAML",
        manifest: "apiVersion: v1\nkind: [",
        says: &["error converting YAML to JSON"],
    },
    Refused {
        why: "unknown kind",
        manifest: "{apiVersion: v1, kind: Prod, metadata: {name: a}}",
        says: &[r#"no matches for kind "Prod" in version "v1""#],
    },
    Refused {
        why: "unknown field",
        manifest: "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containres: [], containers: [{name: a, image: a}]}}",
        says: &["strict decoding error", r#"unknown field "spec.containres""#],
    },
    Refused {
        why: "bad quantity",
        manifest: "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: a, resources: {limits: {cpu: lots}}}]}}",
        says: &["quantities must match the regular expression"],
    },
    Refused {
        why: "request above limit",
        manifest: "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: a, resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}}]}}",
        says: &["spec.containers[0].resources.requests", "must be less than or equal to memory limit"],
    },
    Refused {
        why: "no containers",
        manifest: "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: []}}",
        says: &["spec.containers: Required value"],
    },
    Refused {
        why: "name not DNS-1123",
        manifest: "{apiVersion: v1, kind: ConfigMap, metadata: {name: A_b}}",
        says: &["metadata.name: Invalid value", "a lowercase RFC 1123 subdomain"],
    },
    Refused {
        why: "selector does not match the template",
        manifest: "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: b}}, spec: {containers: [{name: a, image: a}]}}}}",
        says: &[
            "spec.template.metadata.labels: Invalid value",
            "`selector` does not match template `labels`",
        ],
    },
    Refused {
        why: "port out of range",
        manifest: "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 70000}]}}",
        says: &["spec.ports[0].port: Invalid value: 70000", "must be between 1 and 65535, inclusive"],
    },
    Refused {
        why: "volume mount without a volume",
        manifest: "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: a, volumeMounts: [{name: gone, mountPath: /x}]}]}}",
        says: &["spec.containers[0].volumeMounts[0].name: Not found"],
    },
];

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn wrong_manifests_are_refused_with_a_reason() -> Result<()> {
    let cluster = Cluster::from_env()?;
    for kubectl in [cluster.kubectl()?, cluster.old_kubectl()?] {
        let ns = Namespace::create(&kubectl, "wrong")?;
        for refused in REFUSED {
            let output = ns.apply_raw(refused.manifest)?;
            ensure!(!output.success, "{}: accepted: {}", refused.why, output.stdout);
            for text in refused.says {
                ensure!(
                    output.stderr.contains(text),
                    "{}: {text:?} is not in: {}",
                    refused.why,
                    output.stderr
                );
            }
        }
        let missing =
            kubectl.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: nowhere}}")?;
        ensure!(missing.stderr.contains(r#"namespaces "nowhere" not found"#), "{}", missing.stderr);
        drop(ns);
        kubectl.ok("wait --for=delete namespace/wrong --timeout=60s")?;
    }
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn an_image_that_does_not_exist_backs_off_and_recovers() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "images")?;
    ns.apply(&manifests::client("late").replace("web-app:2.1.0", "web-app:0.0.0"))?;
    for reason in ["ErrImagePull", "ImagePullBackOff"] {
        eventually(reason, || waiting(&ns, "late", reason))?;
    }
    let events = ns.ok("get events --field-selector involvedObject.name=late")?;
    ensure!(events.contains("Failed to pull image") && events.contains("Back-off pulling image"), "{events}");
    // The image of a bare pod may be changed: the back-off ends with its cause.
    ns.ok("set image pod/late shell=registry.company.com/web-app:2.1.0")?;
    ns.ok("wait pod/late --for=condition=Ready --timeout=60s")?;
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn a_missing_key_is_named_and_heals() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "keys")?;
    ns.apply("{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {other: x}}")?;
    let env = "env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: wanted}}}]";
    ns.apply(&manifests::client("needs").replace("    command:", &format!("    {env}\n    command:")))?;
    eventually("CreateContainerConfigError", || waiting(&ns, "needs", "CreateContainerConfigError"))?;
    let described = ns.ok("describe pod needs")?;
    ensure!(described.contains("couldn't find key wanted in Secret keys/s"), "{described}");
    ns.apply("{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {other: x, wanted: found}}")?;
    ns.ok("wait pod/needs --for=condition=Ready --timeout=60s")?;
    ensure!(ns.ok("exec needs -- env")?.lines().any(|line| line == "A=found"));
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn pending_says_why_per_node() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "pending")?;
    let spec = "  resources: {requests: {cpu: '1000'}}";
    ns.apply(&manifests::client("huge").replace("    command:", &format!("  {spec}\n    command:")))?;
    eventually("the reason per node", || {
        let pod = ns.json("get pod huge")?;
        let message = pod["status"]["conditions"][0]["message"].as_str().unwrap_or_default().to_owned();
        Ok(if message.contains("0/2 nodes are available: 2 Insufficient cpu") {
            Ok(())
        } else {
            Err(message)
        })
    })?;
    let events = ns.ok("get events --field-selector involvedObject.name=huge")?;
    ensure!(events.contains("FailedScheduling"), "{events}");
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn a_program_that_is_not_there_is_told_at_each_attempt() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "programs")?;
    ns.ok("run typo --image=registry.company.com/web-app:2.1.0 --command -- nothing-here")?;
    eventually("two attempts, both told", || {
        let events = ns.ok("describe pod typo")?;
        let told = events.contains("executable file not found in $PATH") && events.contains("(x2 over");
        Ok(if told { Ok(()) } else { Err(events) })
    })?;
    let pod = ns.json("get pod typo")?;
    let end = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    ensure!(end["reason"] == "StartError" && end["exitCode"] == 128, "{end}");
    Ok(())
}

fn waiting(ns: &Namespace<'_>, pod: &str, reason: &str) -> Result<Result<(), String>> {
    let state = &ns.json(&format!("get pod {pod}"))?["status"]["containerStatuses"][0]["state"];
    Ok(if state["waiting"]["reason"] == reason { Ok(()) } else { Err(state.to_string()) })
}
