//! What there is of a cluster at one moment: every object of every kind as the API shows it, and of every node the
//! processes of its containers, the cgroups and the links of its pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::NODES;
use crate::{cluster::Cluster, layout::Node, sh::sh};

/// The state of a cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// By `kind namespace/name`, with everything that the API shows.
    pub(super) objects: BTreeMap<String, Value>,
    /// Kinds that are served.
    pub(super) kinds: BTreeSet<String>,
    /// The revision of the list of each kind.
    pub(super) revisions: BTreeMap<String, u64>,
    /// The first process of every container with the moment of its start, in the kernel's ticks.
    pub(super) processes: BTreeSet<String>,
    /// Directories of pods' cgroups and links of pods, each with the number that the kernel gave it.
    pub(super) kernel: BTreeSet<String>,
}

impl Record {
    /// Takes one.
    pub(super) fn take(cluster: &Cluster) -> Result<Self> {
        let mut record = Self::default();
        let kinds = cluster.kubectl().args(["api-resources", "--verbs=list", "-o", "name"]).text()?;
        // What is used is measured afresh each time.
        for kind in kinds.lines().filter(|kind| !kind.ends_with(".metrics.k8s.io")) {
            record.kinds.insert(kind.to_owned());
            let words = ["get", kind, "-A", "-o", "json"];
            let text = cluster.kubectl().args(words).text()?;
            let list: Value = serde_json::from_str(&text).with_context(|| format!("{kind}: no JSON"))?;
            for object in list["items"].as_array().into_iter().flatten() {
                record.objects.insert(key(kind, object), object.clone());
            }
            // kubectl's own list has no revision.
            let raw = raw_list(cluster, list["items"].as_array().and_then(|items| items.first()), kind)?;
            record.revisions.extend(raw.map(|revision| (kind.to_owned(), revision)));
        }
        for node in (1..=NODES).map(|i| cluster.layout.node(i)) {
            record.look_at(&node)?;
        }
        Ok(record)
    }

    fn look_at(&mut self, node: &Node) -> Result<()> {
        let socket = node.run.join("containerd.sock");
        let tasks = sh("ctr").arg("--address").arg(&socket).args(["-n", "gantry", "tasks", "list"]).text()?;
        for line in tasks.lines().skip(1) {
            let mut words = line.split_whitespace();
            let (Some(id), Some(pid)) = (words.next(), words.next()) else { continue };
            // A container that has ended has no process any more.
            let started = started(pid).unwrap_or_default();
            self.processes.insert(format!("{} {id} {pid} {started}", node.name));
        }
        self.cgroups(&node.name, &node.cgroup.join("pods"))?;
        let links = sh("ip").args(["-n", &node.netns, "-o", "link", "show"]).text()?;
        for line in links.lines() {
            // `7: gnt0123@if2: ...`
            let mut words = line.split(": ");
            if let (Some(index), Some(name)) = (words.next(), words.next()) {
                self.kernel.insert(format!("{} link {name} {index}", node.name));
            }
        }
        Ok(())
    }

    fn cgroups(&mut self, node: &str, directory: &Path) -> Result<()> {
        for entry in
            fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?
        {
            let path = entry?.path();
            // One that goes meanwhile is missed in the comparison.
            if let Ok(meta) = fs::metadata(&path)
                && meta.is_dir()
            {
                self.kernel.insert(format!("{node} cgroup {} {}", path.display(), meta.ino()));
                self.cgroups(node, &path)?;
            }
        }
        Ok(())
    }
}

/// `pods kept/web-1`
fn key(kind: &str, object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{kind} {}/{}", text("namespace"), text("name"))
}

/// The revision of a kind's list, by the path that one of its objects tells.
fn raw_list(cluster: &Cluster, any: Option<&Value>, kind: &str) -> Result<Option<u64>> {
    let Some(version) = any.and_then(|object| object["apiVersion"].as_str()) else { return Ok(None) };
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = kind.split('.').next().unwrap_or(kind);
    let text =
        cluster.kubectl().args(["get", "--raw", &format!("/{root}/{version}/{plural}?limit=1")]).text()?;
    let list: Value = serde_json::from_str(&text)?;
    Ok(list["metadata"]["resourceVersion"].as_str().and_then(|revision| revision.parse().ok()))
}

/// When a process started: field 22 of its stat, counted behind the name, which may have blanks in it.
fn started(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_started_at_some_time() {
        let started = started(&std::process::id().to_string()).unwrap();
        assert!(started.parse::<u64>().unwrap() > 0, "{started}");
    }
}
