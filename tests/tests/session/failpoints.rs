//! The agent is killed between two steps of every port that changes the node, while a pod is made, changed or removed; the
//! next agent finishes what was begun. Nobody else's container is touched, and of the pod nothing stays.

mod bed;
mod image;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use gantry_scheduler::{model::Resource, objects::DeleteOptions};
use serde_json::{Value, json};

use self::{
    bed::{Bed, IMAGE, on_own_host},
    image::Registry,
};
use crate::{DAY, PATIENCE, Scheduler, admin};

/// Where the life of a pod is cut short, while it comes and while it goes: each in a life of its own, as far as they go.
const BIRTH: &[&str] = &[
    "ledger.store.sealed",
    "ledger.store.stored",
    "durable.replace.staged",
    "cgroup.ensure.made",
    "net.create.addressed",
    "net.create.wired",
    "net.publish.bound",
    "net.publish.named",
    "dataplane.attach.named",
    "dataplane.attach.half",
    "volumes.ensure.mounted",
    "volumes.atomic.filled",
    "volumes.atomic.staged",
    "volumes.files.written",
    "volumes.sub-path.bound",
    "runtime.users.viewed",
    "runtime.create.recorded",
    "runtime.create.snapshot",
    "runtime.create.task",
    "runtime.start.started",
];
const DEATH: &[&str] = &[
    "ledger.store.sealed",
    "ledger.store.stored",
    "durable.replace.staged",
    "runtime.kill.signalled",
    "runtime.remove.task",
    "runtime.remove.snapshot",
    "runtime.remove.recorded",
    "net.remove.unwired",
    "net.remove.released",
    "net.remove.unpinned",
    "apply.network.removed",
    "dataplane.detach.unnamed",
    "cgroup.remove.emptied",
    "volumes.remove.half",
    "apply.files.unlogged",
];
/// Where the end of a pod that ends by itself is cut short.
const END: &[&str] = &["runtime.release.settled", "durable.replace.staged"];
const CHANGE: &[&str] = &["volumes.atomic.filled", "volumes.atomic.staged", "ledger.store.stored"];

/// Where the pull of a pod's image is cut short.
const PULL: &[&str] = &[
    "images.pull.leased",
    "images.ingest.written",
    "images.pull.fetched",
    "images.unpack.applied",
    "images.pull.unpacked",
    "images.pull.kept",
    "images.pull.named",
];

struct Test {
    scheduler: Scheduler,
    bed: Bed,
    registry: Registry,
    bystander: String,
    processes: BTreeSet<String>,
    baseline: BTreeSet<String>,
}

impl Test {
    async fn start() -> Result<Self> {
        let scheduler = Scheduler::start(DAY).await?;
        let (address, hash) = (scheduler.address.to_string(), scheduler.authority.ca_hash());
        let mut bed = Bed::start(&address, &hash, &scheduler.token.reveal()).await?;
        let registry = Registry::start(bed.dir()).await?;
        scheduler.secret("s").await?;
        bed.start_agent(None)?;
        let bystander = create(&scheduler, "bystander", IMAGE, RUNS).await?;
        let mut test = Self {
            scheduler,
            bed,
            registry,
            bystander,
            processes: BTreeSet::new(),
            baseline: BTreeSet::new(),
        };
        test.running("bystander").await?;
        test.processes = test.bed.processes(&test.bystander)?;
        ensure!(test.processes.len() == 1, "the bystander runs as {:?}", test.processes);
        test.bed.settled().await?;
        test.baseline = test.bed.traces()?;
        Ok(test)
    }

    async fn phase(&self, name: &str) -> String {
        match self.scheduler.get(Resource::PODS, name).await {
            Ok(pod) => format!("{} {}", pod["status"]["phase"], pod["status"]["containerStatuses"]),
            Err(_) => "gone".to_owned(),
        }
    }

    async fn until(&self, what: &str, name: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let pod = self.scheduler.get(Resource::PODS, name).await.unwrap_or(Value::Null);
            if holds(&pod) {
                return Ok(());
            }
            let last = self.phase(name).await;
            ensure!(Instant::now() < end, "never {what}: {name} is {last}; {}", self.bed.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn running(&self, name: &str) -> Result<()> {
        let running = |pod: &Value| !pod["status"]["containerStatuses"][0]["state"]["running"].is_null();
        self.until("running", name, running).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let grace = DeleteOptions { grace_seconds: Some(1), ..DeleteOptions::default() };
        self.scheduler.objects.delete(Resource::PODS, Some("default"), name, &grace, &admin()).await?;
        Ok(())
    }

    /// The pod is gone without a trace, and nobody else was touched.
    async fn nothing_left(&self, name: &str) -> Result<()> {
        self.until("gone", name, Value::is_null).await?;
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.bed.traces();
            let left = match &now {
                Ok(now) if *now == self.baseline => break,
                Ok(now) => format!("{:#?}", now.symmetric_difference(&self.baseline).collect::<Vec<_>>()),
                Err(error) => format!("{error:#}"),
            };
            ensure!(Instant::now() < end, "traces: {left}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let now = self.bed.processes(&self.bystander)?;
        ensure!(now == self.processes, "the bystander was {:?} and is {now:?}", self.processes);
        Ok(())
    }

    /// A pod comes and goes, and both are cut short.
    async fn life(&mut self, name: &str, birth: Option<&str>, death: Option<&str>) -> Result<()> {
        self.bed.kill_agent()?;
        let uid = create(&self.scheduler, name, IMAGE, RUNS).await?;
        if let Some(point) = birth {
            self.bed.start_agent(Some((point, &uid)))?;
            self.bed.killed(point).await?;
        }
        self.bed.start_agent(None)?;
        self.running(name).await?;
        let lives = self.bed.processes(&uid)?;
        ensure!(lives.len() == 1, "{name} runs as {lives:?}");
        if let Some(point) = death {
            self.bed.kill_agent()?;
            self.delete(name).await?;
            self.bed.start_agent(Some((point, &uid)))?;
            self.bed.killed(point).await?;
            self.bed.start_agent(None)?;
        } else {
            self.delete(name).await?;
        }
        self.nothing_left(name).await
    }

    /// A pod ends by itself, and what is done then is cut short.
    async fn end(&mut self, number: usize, point: &str) -> Result<()> {
        self.bed.kill_agent()?;
        let name = format!("ended-{number}");
        let uid = create(&self.scheduler, &name, IMAGE, "sleep 1").await?;
        self.bed.start_agent(None)?;
        self.running(&name).await?;
        self.bed.kill_agent()?;
        self.bed.start_agent(Some((point, &uid)))?;
        self.bed.killed(point).await?;
        self.bed.start_agent(None)?;
        self.until("succeeded", &name, |pod| pod["status"]["phase"] == "Succeeded").await?;
        self.delete(&name).await?;
        self.nothing_left(&name).await
    }

    /// A pod's image is pulled, and that is cut short. The next pull ends with the image and nothing else.
    async fn pull(&mut self, number: usize, point: &str) -> Result<()> {
        self.bed.kill_agent()?;
        let name = format!("pulled-{number}");
        let (image, layer) = self.registry.push(&format!("pulled:{number}"))?;
        create(&self.scheduler, &name, &image, RUNS).await?;
        // A layer may be of many images.
        let whose = if point.starts_with("images.unpack") { &layer } else { &image };
        self.bed.start_agent(Some((point, whose)))?;
        self.bed.killed(point).await?;
        self.bed.start_agent(None)?;
        self.running(&name).await?;
        self.delete(&name).await?;
        self.until("gone", &name, Value::is_null).await?;
        self.bed.remove_image(&image)?;
        self.nothing_left(&name).await
    }

    /// Notes what became of a cut. After a fault the next one begins on the node as it is: what is wrong is told once.
    async fn note(&mut self, faults: &mut Vec<String>, cut: &str, outcome: Result<()>) -> Result<()> {
        let Err(fault) = outcome else {
            eprintln!("{cut}: nothing left");
            return Ok(());
        };
        let fault = format!("{cut}: {fault:#}");
        eprintln!("{fault}");
        faults.push(fault);
        self.bed.kill_agent()?;
        self.bed.start_agent(None)?;
        self.bed.until("the agent answers", || Ok(self.bed.traces().is_ok())).await?;
        self.baseline = self.bed.traces()?;
        Ok(())
    }

    /// A secret changes, and the agent is killed while its files do.
    async fn change(&mut self, number: usize, point: &str) -> Result<()> {
        let name = format!("changed-{number}");
        let uid = create(&self.scheduler, &name, IMAGE, RUNS).await?;
        self.running(&name).await?;
        let processes = self.bed.processes(&uid)?;
        self.bed.kill_agent()?;
        let value = format!("value{number}");
        let mut secret = self.scheduler.get(Resource::SECRETS, "s").await?;
        secret["stringData"] = json!({"k": value});
        self.scheduler
            .objects
            .update(Resource::SECRETS, Some("default"), "s", None, secret, &admin())
            .await?;
        self.bed.start_agent(Some((point, &uid)))?;
        self.bed.killed(point).await?;
        self.bed.start_agent(None)?;
        let pid = processes.first().and_then(|process| process.split(' ').next()).context("a process")?;
        let file = format!("/proc/{pid}/root/secret/k");
        self.bed.until("the new value", || Ok(std::fs::read_to_string(&file)? == value)).await?;
        ensure!(self.bed.processes(&uid)? == processes, "{name} was restarted");
        self.delete(&name).await?;
        self.nothing_left(&name).await
    }
}

/// Runs until it is told to end.
const RUNS: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// A pod with a volume of every kind that a kill can cut; its uid.
async fn create(scheduler: &Scheduler, name: &str, image: &str, script: &str) -> Result<String> {
    let policy = if image == IMAGE { "Never" } else { "IfNotPresent" };
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "nodeName": "n1",
        "terminationGracePeriodSeconds": 1,
        "restartPolicy": "Never",
        "containers": [{
            "name": "c", "image": image, "imagePullPolicy": policy,
            "command": ["/bin/sh", "-c", script],
            "volumeMounts": [mount("secret", "/secret"), mount("memory", "/memory"),
                {"name": "disk", "mountPath": "/part", "subPath": "part"}]}],
        "volumes": [
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "disk", "emptyDir": {}}]}});
    let pod = scheduler.create(Resource::PODS, body).await?;
    Ok(pod["metadata"]["uid"].as_str().context("a uid")?.to_owned())
}

#[test]
#[ignore = "needs root and containerd: run by cargo xtask test"]
fn a_kill_between_any_two_steps_leaves_nothing_and_touches_nobody() -> Result<()> {
    on_own_host(|| async {
        let mut test = Test::start().await?;
        let mut faults = Vec::new();
        for number in 0..BIRTH.len().max(DEATH.len()) {
            let (birth, death) = (BIRTH.get(number).copied(), DEATH.get(number).copied());
            let life = test.life(&format!("cut-{number}"), birth, death).await;
            test.note(&mut faults, &format!("{birth:?}, {death:?}"), life).await?;
        }
        for (number, point) in CHANGE.iter().enumerate() {
            let change = test.change(number, point).await;
            test.note(&mut faults, &format!("change, {point}"), change).await?;
        }
        for (number, point) in PULL.iter().enumerate() {
            let pull = test.pull(number, point).await;
            test.note(&mut faults, &format!("pull, {point}"), pull).await?;
        }
        for (number, point) in END.iter().enumerate() {
            let end = test.end(number, point).await;
            test.note(&mut faults, &format!("end, {point}"), end).await?;
        }
        ensure!(faults.is_empty(), "{}", faults.join("\n\n"));
        Ok(())
    })
}
