//! Amounts of resources, and what a pod asks for.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::api::resource::Quantity as Text,
};

use crate::kinds::quantity::Quantity;

/// The resources that every decision asks for: they have a place of their own.
const COMMON: [&str; 3] = [CPU, MEMORY, PODS];
pub(super) const CPU: &str = "cpu";
pub(super) const MEMORY: &str = "memory";
pub(super) const PODS: &str = "pods";

fn place(name: &str) -> Option<usize> {
    COMMON.iter().position(|common| *common == name)
}

/// An amount of each resource: `cpu` in thousandths, everything else in units. A resource that is not named is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Amounts {
    common: [Option<i64>; COMMON.len()],
    others: BTreeMap<String, i64>,
}

impl Amounts {
    /// From a map of Kubernetes quantities; what does not parse counts as nothing (validation refused it).
    pub fn parse(map: Option<&BTreeMap<String, Text>>) -> Self {
        let amount = |name: &str, text: &str| {
            let quantity: Quantity = text.parse().ok()?;
            Some(if name == CPU { quantity.milli() } else { quantity.value() })
        };
        let mut amounts = Self::default();
        for (name, text) in map.into_iter().flatten() {
            if let Some(amount) = amount(name, &text.0) {
                amounts.set(name, amount);
            }
        }
        amounts
    }

    /// One of them.
    pub fn get(&self, name: &str) -> i64 {
        self.named(name).unwrap_or(0)
    }

    fn named(&self, name: &str) -> Option<i64> {
        match place(name) {
            Some(at) => self.common[at],
            None => self.others.get(name).copied(),
        }
    }

    /// All that are named.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        let common = COMMON.iter().zip(&self.common).filter_map(|(name, amount)| Some((*name, (*amount)?)));
        common.chain(self.others.iter().map(|(name, amount)| (name.as_str(), *amount)))
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.common.iter_mut().zip(&other.common) {
            if let Some(amount) = theirs {
                *mine = Some(mine.unwrap_or(0) + amount);
            }
        }
        for (name, amount) in &other.others {
            match self.others.get_mut(name) {
                Some(mine) => *mine += amount,
                None => drop(self.others.insert(name.clone(), *amount)),
            }
        }
    }

    /// Takes `other` away; what comes to nothing is forgotten.
    pub fn sub(&mut self, other: &Self) {
        for (mine, theirs) in self.common.iter_mut().zip(&other.common) {
            if let Some(amount) = theirs {
                *mine = Some(mine.unwrap_or(0) - amount).filter(|left| *left != 0);
            }
        }
        for (name, amount) in &other.others {
            let left = self.others.get(name).copied().unwrap_or(0) - amount;
            if left == 0 {
                self.others.remove(name);
            } else {
                self.others.insert(name.clone(), left);
            }
        }
    }

    fn max(&mut self, other: &Self) {
        for (name, amount) in other.iter() {
            self.set(name, self.get(name).max(amount));
        }
    }

    fn set(&mut self, name: &str, amount: i64) {
        match place(name) {
            Some(at) => self.common[at] = Some(amount),
            None => drop(self.others.insert(name.to_owned(), amount)),
        }
    }
}

/// What a container that asks for nothing is counted as when nodes are compared: a node full of such pods is
/// not an empty node.
const UNSAID_CPU: i64 = 100;
const UNSAID_MEMORY: i64 = 200 * 1024 * 1024;

/// What a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Requests {
    /// Exactly what it says: what must fit.
    pub said: Amounts,
    /// `cpu` and `memory` with an assumption where it says nothing: for scoring.
    pub assumed: Amounts,
}

impl Requests {
    /// Of a pod: the larger of what its containers need together and what any moment of its start needs, plus
    /// overhead. Init containers that go on running count from their start on.
    pub fn of(spec: &PodSpec) -> Self {
        Self { said: total(spec, said), assumed: total(spec, assumed) }
    }
}

fn total(spec: &PodSpec, request: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut running = Amounts::default();
    for container in &spec.containers {
        running.add(&request(container));
    }
    let (mut sidecars, mut start) = (Amounts::default(), Amounts::default());
    for container in spec.init_containers.iter().flatten() {
        let mut moment = request(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&moment);
            start.max(&sidecars);
        } else {
            moment.add(&sidecars);
            start.max(&moment);
        }
    }
    running.add(&sidecars);
    running.max(&start);
    // Resources of the pod as a whole come before the sum of its containers.
    let whole = Amounts::parse(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    for (name, amount) in whole.iter() {
        running.set(name, amount);
    }
    running.add(&Amounts::parse(spec.overhead.as_ref()));
    running
}

fn said(container: &Container) -> Amounts {
    Amounts::parse(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

fn assumed(container: &Container) -> Amounts {
    let mut amounts = said(container);
    for (name, unsaid) in [(CPU, UNSAID_CPU), (MEMORY, UNSAID_MEMORY)] {
        if amounts.named(name).is_none() {
            amounts.set(name, unsaid);
        }
    }
    amounts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(spec: serde_json::Value) -> Requests {
        Requests::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn containers_add_up_and_init_containers_do_not() {
        let requests = of(json!({
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "0.5"}}},
            ],
            "initContainers": [
                {"name": "big", "resources": {"requests": {"cpu": "2"}}},
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "last", "resources": {"requests": {"cpu": "1950m", "memory": "1Gi"}}},
            ],
            "overhead": {"cpu": "10m"},
        }));
        assert_eq!(
            requests.said.get("cpu"),
            2060,
            "the last init container beside the sidecar, and overhead"
        );
        assert_eq!(requests.said.get("memory"), 1 << 30);
    }

    #[test]
    fn a_pod_that_asks_for_nothing_is_still_something_when_scored() {
        let requests = of(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        assert_eq!(requests.said, Amounts::default());
        assert_eq!(requests.assumed.get("cpu"), 200);
    }

    #[test]
    fn amounts_come_back_to_nothing() {
        let map = [("cpu".to_owned(), Text("1500m".to_owned()))].into();
        let amounts = Amounts::parse(Some(&map));
        let mut sum = amounts.clone();
        sum.add(&amounts);
        assert_eq!(sum.get("cpu"), 3000);
        sum.sub(&amounts);
        sum.sub(&amounts);
        assert_eq!(sum, Amounts::default());
    }
}
