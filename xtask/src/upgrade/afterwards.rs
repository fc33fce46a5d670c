//! What must work on an upgraded cluster: writes of what earlier daemons stored, statuses, words, streams, and the life of
//! pods that earlier agents started.

use std::{collections::BTreeMap, fs, thread, time::Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{LOOK_EVERY, NODES, Order, SETTLE_TIME, record::Record, workload::NAMESPACE};
use crate::{cluster::Cluster, ui};

/// Kinds that a person asks for.
const DESCRIBED: [&str; 12] = [
    "nodes",
    "namespaces",
    "pods",
    "deployments",
    "replicasets",
    "services",
    "endpoints",
    "endpointslices",
    "configmaps",
    "secrets",
    "serviceaccounts",
    "leases",
];

/// Both agents were sent a snapshot when they first spoke to the scheduler of that time, in an epoch that their ledgers
/// know: what an earlier agent made of its updates is not all that they said, or services were told in another form.
pub(super) fn everything_was_sent_again(cluster: &Cluster, order: Order) -> Result<String> {
    for node in (1..=NODES).map(|i| cluster.layout.node(i)) {
        let path = cluster.layout.dir.join(format!("logs/{}-agent.log", node.name));
        let log = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
        let sessions: Vec<&str> = log.lines().filter(|line| line.contains("session opened")).collect();
        // In the order of the starts: the earlier agent's first, one for each scheduler, the new agent's.
        let of_new = match order {
            Order::SchedulerFirst => sessions.last(),
            Order::AgentsFirst => sessions.iter().rev().nth(1),
        };
        let line = of_new.with_context(|| format!("{} says nothing of sessions", path.display()))?;
        ensure!(line.contains("snapshot=true"), "{}: {line}", node.name);
        let known = sessions.iter().filter(|other| epoch(other) == epoch(line)).count();
        ensure!(known > 1, "{}: the epoch was no longer that of the ledger: {line}", node.name);
    }
    Ok("in the epoch that their ledgers have".to_owned())
}

/// What a line says of the epoch.
fn epoch(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.contains("epoch"))
}

/// Uses the cluster as its owner would.
pub(super) fn use_it(cluster: &Cluster, before: &Record, step: &mut ui::Step) -> Result<String> {
    step.detail("asking in kubectl's words");
    words(cluster)?;
    step.detail("writing what was there");
    writes(cluster, before)?;
    step.detail("statuses");
    statuses(cluster)?;
    step.detail("streams of old containers");
    streams(cluster)?;
    step.detail("a change of what old pods have mounted");
    mounted(cluster)?;
    step.detail("more pods, fewer pods, other pods");
    lives(cluster)?;
    Ok(String::new())
}

fn words(cluster: &Cluster) -> Result<()> {
    for kind in DESCRIBED {
        for words in [vec!["get", kind, "-A", "-o", "wide"], vec!["describe", kind, "-A"]] {
            let text = cluster.kubectl().args(&words).text()?;
            ensure!(!text.contains("<invalid>"), "kubectl {}:\n{text}", words.join(" "));
        }
    }
    // It comes with the heartbeats.
    eventually("usage of the nodes", || cluster.kubectl().args(["top", "nodes"]).run().map(Ok))
}

/// A label on every object of before. None of it rolls anything out.
fn writes(cluster: &Cluster, before: &Record) -> Result<()> {
    let mut names: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for key in before.objects.keys().filter(|key| !key.starts_with("events")) {
        let (kind, rest) = key.split_once(' ').context("a key has two words")?;
        let (namespace, name) = rest.split_once('/').context("and the second has two parts")?;
        names.entry((kind.to_owned(), namespace.to_owned())).or_default().push(name.to_owned());
    }
    for ((kind, namespace), names) in names {
        let place: &[&str] = if namespace.is_empty() { &[] } else { &["-n", &namespace] };
        cluster.kubectl().args(["label", &kind]).args(place).args(&names).arg("upgraded=yes").run()?;
    }
    let patch = r#"{"spec":{"minReadySeconds":1}}"#;
    let kept = || cluster.kubectl().args(["-n", NAMESPACE]);
    kept().args(["patch", "deployment", "web", "-p", patch]).run()?;
    kept().args(["rollout", "status", "deployment/web", "--timeout=30s"]).run()?;
    let sets = count(cluster, &["get", "replicasets", "-l", "app=web"])?;
    ensure!(sets == 2, "{sets} ReplicaSets: something was rolled out");
    Ok(())
}

fn statuses(cluster: &Cluster) -> Result<()> {
    let pods = cluster.kubectl().args(["-n", NAMESPACE, "get", "pods", "-o", "name"]).text()?;
    let patch = r#"{"status":{"message":"told"}}"#;
    for pod in pods.lines() {
        let words = ["-n", NAMESPACE, "patch", pod, "--subresource=status", "-p", patch, "-o"];
        let stored = cluster.kubectl().args(words).arg("jsonpath={.status.message}").text()?;
        ensure!(stored == "told", "{pod}: the status was not stored: {stored:?}");
    }
    Ok(())
}

fn streams(cluster: &Cluster) -> Result<()> {
    let kept = || cluster.kubectl().args(["-n", NAMESPACE]);
    let said = kept().args(["exec", "alone", "-c", "shell", "--", "hostname"]).text()?;
    ensure!(said == "alone", "{said:?}");
    let logs = kept().args(["logs", "alone", "-c", "shell", "--tail=3"]).text()?;
    ensure!(logs.lines().count() == 3, "{logs:?}");
    let first = kept().args(["logs", "alone", "-c", "shell", "--tail=1"]).text()?;
    eventually("what an old container says now", || {
        let now = kept().args(["logs", "alone", "-c", "shell", "--tail=1"]).text()?;
        Ok(if now == first { Err(now) } else { Ok(()) })
    })?;
    let done = kept().args(["logs", "finished"]).text()?;
    ensure!(done == "done", "{done:?}");
    let name = "web.kept.svc.cluster.local";
    let found = kept().args(["exec", "alone", "-c", "shell", "--", "nslookup", name]).text()?;
    ensure!(found.contains(name), "{found}");
    Ok(())
}

fn mounted(cluster: &Cluster) -> Result<()> {
    let kept = || cluster.kubectl().args(["-n", NAMESPACE]);
    kept().args(["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"green"}}"#]).run()?;
    let pod = one(cluster, "app=web")?;
    eventually("the change in an old pod", || {
        let seen =
            kept().args(["exec", &pod, "--", "cat", "/etc/settings/colour", "/scratch/made"]).text()?;
        Ok(if seen == "greenmade" { Ok(()) } else { Err(seen) })
    })
}

/// A pod more, with the others as they are; one deleted and replaced; a rollout; and an end of all that leaves nothing.
fn lives(cluster: &Cluster) -> Result<()> {
    let kept = || cluster.kubectl().args(["-n", NAMESPACE]);
    let names = || kept().args(["get", "pods", "-l", "app=web", "-o", "name"]).text();
    let old: Vec<String> = names()?.lines().map(str::to_owned).collect();
    kept().args(["scale", "deployment/web", "--replicas=5"]).run()?;
    kept().args(["rollout", "status", "deployment/web", "--timeout=60s"]).run()?;
    let now = names()?;
    ensure!(old.iter().all(|name| now.contains(name.as_str())), "{old:?} is not all in {now}");
    let one = one(cluster, "app=required")?;
    kept().args(["delete", "pod", &one]).run()?;
    kept().args(["rollout", "status", "deployment/required", "--timeout=60s"]).run()?;
    kept().args(["set", "image", "deployment/web", "server=registry.company.com/web-app:2.1.0"]).run()?;
    kept().args(["rollout", "status", "deployment/web", "--timeout=120s"]).run()?;
    Ok(())
}

fn one(cluster: &Cluster, selector: &str) -> Result<String> {
    let words = ["-n", NAMESPACE, "get", "pods", "-l", selector, "-o", "jsonpath={.items[0].metadata.name}"];
    cluster.kubectl().args(words).text()
}

fn count(cluster: &Cluster, words: &[&str]) -> Result<usize> {
    let text = cluster.kubectl().args(["-n", NAMESPACE]).args(words).args(["-o", "json"]).text()?;
    let list: Value = serde_json::from_str(&text).context("kubectl printed no JSON")?;
    Ok(list["items"].as_array().map_or(0, Vec::len))
}

fn eventually(what: &str, mut look: impl FnMut() -> Result<Result<(), String>>) -> Result<()> {
    let end = Instant::now() + SETTLE_TIME * 2;
    loop {
        match look() {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(seen)) => ensure!(Instant::now() < end, "waited for {what}; last seen: {seen}"),
            Err(error) => ensure!(Instant::now() < end, "waited for {what}: {error:#}"),
        }
        thread::sleep(LOOK_EVERY);
    }
}
