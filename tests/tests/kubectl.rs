//! The commands that people use every day, in the newest and the oldest supported kubectl. Checks that the output
//! reads as users know it, not only that the command succeeds.

use std::{
    io::{BufRead, BufReader},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use gantry_tests::{Cluster, Kubectl, Namespace, eventually, eventually_within, manifests};

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn the_newest_kubectl_feels_at_home() -> Result<()> {
    everyday(&Cluster::from_env()?.kubectl()?, "home-new")
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn the_oldest_kubectl_feels_at_home() -> Result<()> {
    everyday(&Cluster::from_env()?.old_kubectl()?, "home-old")
}

fn everyday(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let ns = Namespace::create(kubectl, namespace)?;
    ns.apply(&manifests::web("web", 2, "2.1.0"))?;
    ns.apply(&manifests::client("client"))?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    ns.ok("wait pod/client --for=condition=Ready --timeout=60s")?;
    getting(kubectl, &ns)?;
    describing(&ns)?;
    logs(kubectl, &ns)?;
    exec(kubectl, &ns)?;
    running(kubectl, &ns)?;
    absent(&ns)?;
    changing(kubectl, &ns)?;
    discovering(kubectl)?;
    usage(kubectl, &ns)?;
    deleting(&ns)
}

fn getting(kubectl: &Kubectl, ns: &Namespace<'_>) -> Result<()> {
    let pods = ns.ok("get pods")?;
    header(&pods, &["NAME", "READY", "STATUS", "RESTARTS", "AGE"])?;
    ensure!(
        pods.lines().filter(|l| l.starts_with("web-") && l.contains("1/1") && l.contains("Running")).count()
            == 2
    );
    let wide = ns.ok("get pods -o wide")?;
    header(
        &wide,
        &[
            "NAME",
            "READY",
            "STATUS",
            "RESTARTS",
            "AGE",
            "IP",
            "NODE",
            "NOMINATED",
            "NODE",
            "READINESS",
            "GATES",
        ],
    )?;
    header(&ns.ok("get deployments")?, &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"])?;
    header(&ns.ok("get replicasets")?, &["NAME", "DESIRED", "CURRENT", "READY", "AGE"])?;
    header(&ns.ok("get services")?, &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"])?;
    header(&kubectl.ok("get nodes")?, &["NAME", "STATUS", "ROLES", "AGE", "VERSION"])?;
    header(&ns.ok("get endpointslices")?, &["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"])?;
    ensure!(ns.ok("get pods -l app=web -o name")?.lines().count() == 2);
    ensure!(ns.ok("get all")?.contains("deployment.apps/web"));
    ensure!(kubectl.ok("get pods -A")?.contains(&ns.name));
    ensure!(ns.ok("get deployment web -o yaml")?.starts_with("apiVersion: apps/v1\nkind: Deployment\n"));
    ensure!(ns.json("get pods")?["kind"] == "List");
    ensure!(ns.fails("get pod nobody")?.contains(r#"pods "nobody" not found"#));
    watching(kubectl, ns)
}

/// `-w` prints what is there and then each change.
fn watching(kubectl: &Kubectl, ns: &Namespace<'_>) -> Result<()> {
    streaming(kubectl, &format!("-n {} get configmaps -w -o name", ns.name), "configmap/seen", || {
        ns.ok("create configmap seen --from-literal=a=b").map(drop)
    })
}

/// A kubectl that goes on printing shows `line` after `cause`.
fn streaming(kubectl: &Kubectl, words: &str, line: &str, cause: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut child = kubectl.spawn(words)?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let (send, receive) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let caused = cause();
    let mut seen = Vec::new();
    let found =
        eventually_within(Duration::from_secs(10), &format!("kubectl {words} to show {line}"), || {
            seen.extend(receive.try_iter());
            Ok(if seen.iter().any(|l: &String| l.contains(line)) { Ok(()) } else { Err(format!("{seen:?}")) })
        });
    child.kill()?;
    child.wait()?;
    drop(receive);
    reader.join().ok();
    caused.and(found)
}

fn describing(ns: &Namespace<'_>) -> Result<()> {
    let pod = ns.ok("get pods -l app=web -o name")?;
    let text = ns.ok(&format!("describe {}", pod.lines().next().context("no pod")?))?;
    for part in [
        "Controlled By:",
        "Container ID:",
        "containerd://",
        "Readiness:",
        "QoS Class:",
        "Scheduled",
        "Started",
    ] {
        ensure!(text.contains(part), "describe pod has no {part:?}:\n{text}");
    }
    let text = ns.ok("describe deployment web")?;
    for part in ["StrategyType:", "RollingUpdate", "Available", "NewReplicaSet:", "ScalingReplicaSet"] {
        ensure!(text.contains(part), "describe deployment has no {part:?}:\n{text}");
    }
    let text = ns.ok("describe service web")?;
    ensure!(text.contains("Endpoints:") && text.contains(":8080"), "{text}");
    let text = ns.ok("describe node node-1")?;
    for part in ["Capacity:", "Allocatable:", "Non-terminated Pods:", "Allocated resources:", "Conditions:"] {
        ensure!(text.contains(part), "describe node has no {part:?}:\n{text}");
    }
    Ok(())
}

fn logs(kubectl: &Kubectl, ns: &Namespace<'_>) -> Result<()> {
    ns.ok("exec client -- gantry-workload get http://web/log?line=hello-from-the-log")?;
    eventually("the line in the logs", || {
        let text = ns.ok("logs -l app=web --tail=-1")?;
        Ok(if text.contains("hello-from-the-log") { Ok(()) } else { Err(text) })
    })?;
    let pod = ns.ok("get pods -l app=web -o jsonpath={.items[0].metadata.name}")?;
    ensure!(ns.ok(&format!("logs {pod} -c server --timestamps"))?.starts_with("20"));
    ensure!(ns.ok(&format!("logs {pod} --tail=1"))?.lines().count() == 1);
    let address = ns.ok(&format!("get pod {pod} -o jsonpath={{.status.podIP}}"))?;
    let ask = |line: &str| {
        ns.ok(&format!("exec client -- gantry-workload get http://{address}:8080/log?line={line}")).map(drop)
    };
    streaming(kubectl, &format!("-n {} logs -f {pod}", ns.name), "while-following", || {
        ask("while-following")
    })?;
    let refusal = ns.fails(&format!("logs {pod} -c nobody"))?;
    ensure!(refusal.contains("container nobody is not valid for pod"), "{refusal}");
    // A container that ended leaves its last words for --previous.
    ask("last-words")?;
    ns.ok(&format!("exec client -- gantry-workload get http://{address}:8080/exit?code=3"))?;
    eventually("a restart", || {
        let pod = ns.json(&format!("get pod {pod}"))?;
        let status = &pod["status"]["containerStatuses"][0];
        let restarted = status["restartCount"] == 1 && status["lastState"]["terminated"]["exitCode"] == 3;
        Ok(if restarted && status["ready"] == true { Ok(()) } else { Err(status.to_string()) })
    })?;
    ensure!(ns.ok(&format!("logs {pod} --previous"))?.contains("last-words"));
    Ok(())
}

fn exec(kubectl: &Kubectl, ns: &Namespace<'_>) -> Result<()> {
    ensure!(ns.ok("exec client -- echo hello")?.trim() == "hello");
    let words = ["-n", &ns.name, "exec", "-i", "client", "--", "cat"];
    ensure!(kubectl.run_args(&words, Some("through stdin"))?.stdout == "through stdin");
    let words = ["-n", &ns.name, "exec", "client", "--", "sh", "-c", "echo out; echo err >&2; exit 7"];
    let output = kubectl.run_args(&words, None)?;
    ensure!(output.stdout == "out\n" && output.stderr.contains("err\n"), "{output:?}");
    ensure!(output.stderr.contains("command terminated with exit code 7"), "{}", output.stderr);
    // On a real terminal: its size arrives, it echoes, and the shell's exit code is kubectl's.
    let words = format!("-n {} exec -it client -- sh", ns.name);
    let output = kubectl.on_terminal(&words, "stty size; tty; echo typed-$((40 + 2)); exit 9\n")?;
    for part in ["33 101", "/dev/pts/", "typed-42", "exit code 9"] {
        ensure!(output.stdout.contains(part), "the terminal does not show {part:?}: {output:?}");
    }
    ensure!(!output.success, "the exit code is lost: {output:?}");
    let missing = ns.fails("exec client -- no-such-program")?;
    ensure!(missing.contains("no-such-program"), "{missing}");
    Ok(())
}

/// A pod of its own for one command, whose input and output are kubectl's.
fn running(kubectl: &Kubectl, ns: &Namespace<'_>) -> Result<()> {
    let run = [
        "-n",
        &ns.name,
        "run",
        "once",
        "--rm",
        "--restart=Never",
        "--image",
        "registry.company.com/web-app:2.1.0",
    ];
    let script = "while read -r line; do echo got $line; echo heard $line >&2; done; echo end; exit 4";
    let words = [&run[..], &["-i", "--command", "--", "sh", "-c", script]].concat();
    let output = kubectl.run_args(&words, Some("one\ntwo\n"))?;
    ensure!(output.stdout.contains("got one\ngot two\nend\n"), "{output:?}");
    ensure!(output.stderr.contains("heard one\nheard two\n"), "{output:?}");
    ensure!(!output.success && output.stderr.contains("terminated (Error)"), "{output:?}");
    let words = [&run[..], &["-it", "--command", "--", "sh"]].concat().join(" ");
    let output = kubectl.on_terminal(&words, "tty; echo typed-$((40 + 2)); exit\n")?;
    ensure!(
        output.success && output.stdout.contains("/dev/pts/") && output.stdout.contains("typed-42"),
        "{output:?}"
    );
    ensure!(ns.fails("get pod once")?.contains("not found"), "--rm removes it");
    Ok(())
}

/// What is not served is named, in kubectl's own way where it has one.
fn absent(ns: &Namespace<'_>) -> Result<()> {
    let job = ns.fails("create job later --image=x")?;
    ensure!(job.contains("(post jobs.batch)") && job.contains("does not serve jobs of batch/v1"), "{job}");
    let debug = ns.fails("debug pod/client --image=x -- true")?;
    ensure!(debug.contains("ephemeral containers are disabled for this cluster"), "{debug}");
    Ok(())
}

fn changing(kubectl: &Kubectl, ns: &Namespace<'_>) -> Result<()> {
    let manifest = "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: mine}, data: {a: '1', b: '2'}}";
    ensure!(ns.apply(manifest)?.contains("configmap/mine created"));
    ensure!(ns.apply(manifest)?.contains("configmap/mine unchanged"));
    ensure!(ns.apply(&manifest.replace(", b: '2'", ""))?.contains("configmap/mine configured"));
    ensure!(ns.json("get configmap mine")?["data"].get("b").is_none(), "apply did not remove the field");
    let words = ["-n", &ns.name, "apply", "--server-side", "-f", "-"];
    let output = kubectl.run_args(&words, Some(&manifest.replace("mine", "theirs")))?;
    ensure!(output.stdout.contains("configmap/theirs serverside-applied"), "{output:?}");
    let words = ["-n", &ns.name, "apply", "--server-side", "--field-manager=other", "-f", "-"];
    let output = kubectl.run_args(&words, Some(&manifest.replace("mine", "theirs").replace("'1'", "'3'")))?;
    ensure!(!output.success && output.stderr.contains("conflict with \"kubectl\""), "{output:?}");
    ns.ok("label configmap mine kept=yes")?;
    ensure!(ns.ok("get configmap -l kept=yes -o name")?.trim() == "configmap/mine");
    ns.ok("annotate configmap mine note=here")?;
    ns.ok("scale deployment web --replicas=3")?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    ns.ok("rollout restart deployment/web")?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    let dry = ns.ok("create configmap dry --from-literal=a=b --dry-run=server")?;
    ensure!(dry.contains("created (server dry run)") && ns.fails("get configmap dry")?.contains("not found"));
    Ok(())
}

fn discovering(kubectl: &Kubectl) -> Result<()> {
    let resources = kubectl.ok("api-resources")?;
    for line in ["pods", "deployments", "endpointslices", "configmaps", "leases"] {
        ensure!(resources.lines().any(|l| l.starts_with(line)), "no {line} in:\n{resources}");
    }
    let text = kubectl.ok("explain pod.spec.containers.livenessProbe")?;
    ensure!(text.contains("initialDelaySeconds") && text.contains("<integer>"), "{text}");
    let text = kubectl.ok("auth whoami")?;
    ensure!(text.contains("kubernetes-admin") && text.contains("system:masters"), "{text}");
    ensure!(kubectl.ok("auth can-i delete pods")?.trim() == "yes");
    let no = kubectl.run("auth can-i delete pods --as=bob")?.stdout;
    ensure!(no.trim() == "no - the user is not in the group system:masters", "{no}");
    let refused = kubectl.fails("get pods --as=bob")?;
    ensure!(refused.contains("pods is forbidden: User \"bob\" cannot list resource"), "{refused}");
    ensure!(kubectl.ok("version")?.contains("Server Version: v1.37"));
    Ok(())
}

fn usage(kubectl: &Kubectl, ns: &Namespace<'_>) -> Result<()> {
    eventually("usage of both nodes", || {
        let output = kubectl.run("top nodes")?;
        let lines = output.stdout.lines().filter(|l| l.starts_with("node-")).count();
        Ok(if lines == 2 { Ok(()) } else { Err(output.stdout + &output.stderr) })
    })?;
    eventually("usage of the pods", || {
        let output = kubectl.run(&format!("-n {} top pods", ns.name))?;
        let found = output.stdout.contains("client") && output.stdout.contains("web-");
        Ok(if found { Ok(()) } else { Err(output.stdout + &output.stderr) })
    })?;
    header(&ns.ok("events")?, &["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"])?;
    Ok(())
}

fn deleting(ns: &Namespace<'_>) -> Result<()> {
    ns.ok("delete pod client --wait --timeout=30s")?;
    ensure!(ns.fails("get pod client")?.contains("not found"));
    ns.ok("delete deployment web --timeout=30s")?;
    eventually("the pods to follow their owner", || {
        let left = ns.ok("get pods,replicasets -o name")?;
        Ok(if left.is_empty() { Ok(()) } else { Err(left) })
    })
}

fn header(text: &str, words: &[&str]) -> Result<()> {
    let first: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(first == words, "the header is {first:?}, not {words:?}:\n{text}");
    Ok(())
}
