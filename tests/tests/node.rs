//! What a node does for its pods beyond running them: ports of its own, names, kernel parameters, shared mounts; what
//! it does not take; what people try first in the example's image.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use gantry_tests::{Cluster, Namespace, eventually, get, manifests};

const IMAGE: &str = "registry.company.com/web-app:2.1.0";
const PATIENCE: Duration = Duration::from_secs(3);

fn node_address(ns: &Namespace<'_>) -> Result<String> {
    ns.ok("get node node-1 -o jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}")
}

/// A pod bound to node-1 with these parts of a specification and of its only container, in YAML's flow style.
fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: node-1, \
         terminationGracePeriodSeconds: 1, {spec} containers: [{{name: c, image: \"{IMAGE}\", {container}}}]}}}}"
    )
}

fn message(ns: &Namespace<'_>, pod: &str, field: &str) -> Result<String> {
    ns.ok(&format!("get pod {pod} -o jsonpath={{.status.{field}}}"))
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn ports_of_the_node_lead_to_their_pod_until_it_goes() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "hostports")?;
    let node = node_address(&ns)?;
    let port =
        |target: u16, more: &str| format!("ports: [{{containerPort: {target}, hostPort: 54323, {more}}}]");
    // One number three times: at the loopback, at the node's address, and for datagrams.
    ns.apply(&pod("at-loopback", "", &port(8080, "hostIP: 127.0.0.1")))?;
    ns.apply(&pod("at-address", "", &port(8080, &format!("hostIP: {node}"))))?;
    ns.apply(&pod("datagrams", "", &port(8081, &format!("hostIP: {node}, protocol: UDP"))))?;
    let shell = "command: [sh, -c, \"sleep 3600\"]";
    ns.apply(&pod("of-node", "hostNetwork: true,", shell))?;
    ns.apply(&pod("of-itself", "", shell))?;
    ns.ok("wait pod --all --for=condition=Ready --timeout=60s")?;
    let ask = |from: &str, what: &str| ns.ok(&format!("exec {from} -- gantry-workload {what}"));
    let answers = |from: &str, what: &str, expected: &str| {
        eventually(&format!("{what} in {from} answered by {expected}"), || {
            let said = ask(from, what)?;
            Ok(if said.trim() == expected { Ok(()) } else { Err(said) })
        })
    };
    answers("of-node", "get http://127.0.0.1:54323/hostname", "at-loopback")?;
    answers("of-node", &format!("get http://{node}:54323/hostname"), "at-address")?;
    answers("of-node", &format!("udp {node}:54323 hello"), "datagrams hello")?;
    answers("of-itself", &format!("get http://{node}:54323/hostname"), "at-address")?;
    ensure!(ask("of-itself", "get http://127.0.0.1:54323/hostname").is_err(), "a pod's loopback is its own");
    let outside: SocketAddr = format!("{node}:54323").parse().context("the node's address")?;
    let answer = get(outside, "/hostname", PATIENCE)?;
    ensure!(answer.body.trim() == "at-address", "{answer:?}");
    ns.ok("delete pod at-address --wait")?;
    eventually("the port is free", || {
        Ok(match get(outside, "/hostname", PATIENCE) {
            Ok(answer) => Err(answer.body),
            Err(_) => Ok(()),
        })
    })
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn pods_that_the_node_cannot_take_are_failed_with_upstreams_words() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "refused")?;
    let sysctl = "securityContext: {sysctls: [{name: kernel.msgmax, value: \"100000\"}]},";
    for (name, spec, container, reason, words) in [
        (
            "room",
            "",
            "resources: {requests: {cpu: 4k}}",
            "OutOfcpu",
            "enough resource: cpu, requested: 4000000,",
        ),
        (
            "elsewhere",
            "nodeSelector: {disk: none-has-it},",
            "",
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
        ("windows", "os: {name: windows},", "", "PodOSNotSupported", "the OS field doesn't match node OS"),
        ("unsafe", sysctl, "", "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted"),
    ] {
        ns.apply(&pod(name, spec, container))?;
        eventually(&format!("{name} is refused"), || {
            let said = message(&ns, name, "reason")?;
            Ok(if said == reason { Ok(()) } else { Err(said) })
        })?;
        let said = message(&ns, name, "message")?;
        ensure!(said.starts_with("Pod was rejected: ") && said.contains(words), "{said}");
        ensure!(message(&ns, name, "phase")? == "Failed");
    }
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn classes_parameters_names_and_last_words_are_as_asked() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "asked")?;
    // Guaranteed: also where the runtime may not lower oom_score_adj.
    ns.apply(&pod("guaranteed", "", "resources: {limits: {cpu: 100m, memory: 64Mi}}"))?;
    let sysctls = "securityContext: {sysctls: [{name: kernel/shm_rmid_forced, value: \"1\"}]},";
    ns.apply(&pod("slashes", sysctls, ""))?;
    ns.apply(&pod("named", "hostnameOverride: db.example.org,", ""))?;
    let words =
        "terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, \"echo -n DONE; exit 1\"]";
    ns.apply(&pod("last-words", "restartPolicy: Never,", words))?;
    ns.ok("wait pod guaranteed slashes named --for=condition=Ready --timeout=60s")?;
    ensure!(message(&ns, "guaranteed", "qosClass")? == "Guaranteed");
    let conditions = ns.ok("get node node-1 -o jsonpath={.status.conditions[*].type}")?;
    ensure!(conditions.contains("OOMScoresEnforced"), "{conditions}");
    let port = ns.ok("get node node-1 -o jsonpath={.status.daemonEndpoints.kubeletEndpoint.Port}")?;
    ensure!(port == "10250", "{port}");
    let set = ns.ok("exec slashes -- sysctl kernel/shm_rmid_forced")?;
    ensure!(set.contains("kernel.shm_rmid_forced = 1"), "{set}");
    ensure!(ns.ok("exec named -- hostname")?.trim() == "db.example.org");
    eventually("the last words", || {
        let said = message(&ns, "last-words", "containerStatuses[0].state.terminated.message")?;
        Ok(if said == "DONE" { Ok(()) } else { Err(format!("{said:?}")) })
    })
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn a_probe_takes_its_children_with_it() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "children")?;
    let probe = "readinessProbe: {periodSeconds: 1, timeoutSeconds: 5, exec: {command: [sh, -c, \"sleep 4711 & exit 0\"]}}";
    ns.apply(&pod("probed", "", probe))?;
    ns.ok("wait pod probed --for=condition=Ready --timeout=60s")?;
    std::thread::sleep(Duration::from_secs(4));
    let left = ns.ok("exec probed -- ps")?;
    // One may be of the probe that runs now.
    ensure!(left.matches("sleep 4711").count() <= 1, "{left}");
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn a_mount_of_one_pod_is_seen_by_another_that_asks_for_it() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "propagation")?;
    let volume =
        "volumes: [{name: v, hostPath: {path: /var/tmp/gantry-propagation, type: DirectoryOrCreate}}],";
    let mounted = |kind: &str, more: &str| {
        format!("volumeMounts: [{{name: v, mountPath: /data, mountPropagation: {kind}}}], {more}")
    };
    ns.apply(&pod("slave", volume, &mounted("HostToContainer", "")))?;
    ns.apply(&pod("private", volume, &mounted("None", "")))?;
    ns.ok("wait pod slave private --for=condition=Ready --timeout=60s")?;
    let make = "mkdir -p /data/m && mount -t tmpfs t /data/m && echo here > /data/m/f && sleep 3600";
    let master = format!("securityContext: {{privileged: true}}, command: [sh, -c, \"{make}\"]");
    ns.apply(&pod("master", volume, &mounted("Bidirectional", &master)))?;
    let seen = eventually("the mount of the other pod", || {
        Ok(ns.ok("exec slave -- cat /data/m/f").map_err(|error| error.to_string()))
    })?;
    ensure!(seen.trim() == "here", "{seen}");
    ns.fails("exec private -- cat /data/m/f")?;
    // Else the mount stays on the machine.
    ns.ok("exec master -- umount /data/m")?;
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn names_are_answered_as_upstreams_suite_asks_for_them() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "names")?;
    ns.apply(&manifests::web("web", 1, "2.1.0"))?;
    ns.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: sub}, spec: {clusterIP: None, selector: {set: sub}, \
         ports: [{name: http, port: 80, targetPort: nowhere}]}}",
    )?;
    ns.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: away}, spec: {type: ExternalName, \
         externalName: web.names.svc.cluster.local}}",
    )?;
    ns.apply(&pod("client", "hostname: host, subdomain: sub,", ""))?;
    ns.ok("label pod client set=sub")?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    ns.ok("wait pod client --for=condition=Ready --timeout=60s")?;
    let own = message(&ns, "client", "podIP")?;
    let cluster_ip = ns.ok("get service web -o jsonpath={.spec.clusterIP}")?;
    let api = kubectl.ok("get service kubernetes -o jsonpath={.spec.clusterIP}")?;
    let below = "names.svc.cluster.local";
    for (question, answer) in [
        ("kubernetes.default.svc.cluster.local".to_owned(), api.as_str()),
        (format!("web.{below}"), &cluster_ip),
        (format!("away.{below}"), &cluster_ip),
        // A pod without the named target port.
        (format!("sub.{below}"), &own),
        (format!("host.sub.{below}"), &own),
        (format!("-type=srv _http._tcp.web.{below}"), "web.names.svc.cluster.local"),
        // By address: the name of its PTR record.
        (cluster_ip.clone(), "web.names.svc.cluster.local"),
    ] {
        eventually(&format!("{question} is {answer}"), || {
            let said = ns.ok(&format!("exec client -- nslookup {question}"))?;
            Ok(if said.contains(answer) { Ok(()) } else { Err(said) })
        })?;
    }
    // Partial names go through the pod's search list; these are what people type first.
    for name in ["web", "web.names", "web.names.svc", "away"] {
        let said = ns.ok(&format!("exec client -- wget -T 5 -qO- http://{name}/hostname"))?;
        ensure!(said.starts_with("web-"), "{name}: {said}");
    }
    let hosts = ns.ok("exec client -- cat /etc/hosts")?;
    ensure!(hosts.contains(&format!("{own}\thost.sub.{below}\thost")), "{hosts}");
    Ok(())
}
