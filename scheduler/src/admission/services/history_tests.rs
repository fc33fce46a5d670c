//! Random histories of services, ranges and addresses that are made by hand, against a plain model: no address is had
//! twice, none is left behind.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{Cluster, address, cluster};
use crate::{
    kinds::{ip_address, service_cidr},
    model::Resource,
    objects::{DeleteOptions, Selection, WriteOptions},
};

const RANGES: [&str; 4] = ["10.96.0.0/29", "10.200.0.0/29", "10.200.0.0/28", "10.200.0.8/29"];

#[derive(Clone, Debug)]
enum Step {
    /// Services that are created at once, with the address of their choice or any.
    Create(Vec<(u8, Option<u8>)>),
    Delete(u8),
    /// To a service without an address and back.
    Turn(u8, bool),
    Reserve(u8),
    Release(u8),
    Open(usize),
    Close(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (name, place) = (0_u8..8, 0_u8..32);
    let service = (name.clone(), prop::option::of(place.clone()));
    let step = prop_oneof![
        4 => prop::collection::vec(service, 1..5).prop_map(Step::Create),
        3 => name.clone().prop_map(Step::Delete),
        2 => (name, any::<bool>()).prop_map(|(n, external)| Step::Turn(n, external)),
        1 => place.clone().prop_map(Step::Reserve),
        1 => place.prop_map(Step::Release),
        1 => (1..RANGES.len()).prop_map(Step::Open),
        1 => (1..RANGES.len()).prop_map(Step::Close),
    ];
    prop::collection::vec(step, 1..50)
}

fn at(place: u8) -> String {
    if place < 8 { format!("10.96.0.{place}") } else { format!("10.200.0.{}", place - 8) }
}

#[derive(Default)]
struct Model {
    /// Who has which address.
    services: BTreeMap<String, Option<String>>,
    reserved: BTreeSet<String>,
    open: BTreeSet<usize>,
}

impl Model {
    fn holds(&self, address: &str) -> bool {
        let held =
            |range: &usize| service_cidr::holds(&RANGES[*range].parse().unwrap(), address.parse().unwrap());
        std::iter::once(&0).chain(&self.open).any(held)
    }

    fn is_free(&self, address: &str) -> bool {
        let had = self.services.values().flatten().any(|own| own == address);
        !had && !self.reserved.contains(address) && address != "10.96.0.1"
    }
}

struct World {
    cluster: Cluster,
    model: Model,
}

impl World {
    async fn step(&mut self, step: &Step) {
        let (delete, options) = (DeleteOptions::default(), WriteOptions::controller("test"));
        let objects = &self.cluster.objects;
        match step {
            Step::Create(all) => self.create(all).await,
            Step::Delete(n) => {
                let name = format!("s{n}");
                let there = self.model.services.remove(&name).is_some();
                assert_eq!(self.cluster.delete(&name).await.is_ok(), there);
                self.cluster.known(&name, false).await;
            }
            Step::Turn(n, external) => self.turn(&format!("s{n}"), *external).await,
            Step::Reserve(place) => {
                let free = self.model.is_free(&at(*place)) || at(*place) == "10.96.0.1";
                let made = self.cluster.reserve(&at(*place)).await.is_ok();
                assert_eq!(made, free && !self.model.reserved.contains(&at(*place)));
                if made {
                    self.model.reserved.insert(at(*place));
                }
            }
            Step::Release(place) => {
                if self.model.reserved.remove(&at(*place)) {
                    objects
                        .remove(Resource::IP_ADDRESSES, None, &at(*place), &delete, &options)
                        .await
                        .unwrap();
                }
            }
            Step::Open(range) => {
                if self.model.open.insert(*range) {
                    self.cluster.range(&format!("r{range}"), &[RANGES[*range]]).await;
                }
            }
            Step::Close(range) => {
                if self.model.open.remove(range) {
                    self.cluster.end_range(&format!("r{range}")).await.unwrap();
                }
            }
        }
    }

    async fn create(&mut self, all: &[(u8, Option<u8>)]) {
        let could = all.iter().any(|(n, place)| {
            let wanted = |address: &String| place.is_none_or(|place| at(place) == *address);
            let is_new = !self.model.services.contains_key(&format!("s{n}"));
            let mut free = (0..32).map(at).filter(|own| self.model.holds(own) && self.model.is_free(own));
            is_new && free.any(|own| wanted(&own))
        });
        let writes = all.iter().map(|(n, place)| {
            let (cluster, name) = (&self.cluster, format!("s{n}"));
            let spec = place.map_or_else(|| json!({}), |place| json!({"clusterIP": at(place)}));
            async move { (name.clone(), cluster.create(&name, spec).await, place.map(at)) }
        });
        let mut made = BTreeSet::new();
        for (name, outcome, wanted) in join_all(writes).await {
            let Ok(service) = outcome else { continue };
            let own = address(&service);
            assert!(self.model.holds(&own), "{own} is of no range");
            assert!(self.model.is_free(&own), "{own} is somebody's");
            assert!(wanted.is_none_or(|wanted| wanted == own));
            assert!(!self.model.services.contains_key(&name));
            self.model.services.insert(name.clone(), Some(own));
            made.insert(name);
        }
        // One that is alone in its wish for what is free gets it.
        assert!(all.len() > 1 || could != made.is_empty(), "{all:?}");
        for name in made {
            self.cluster.known(&name, true).await;
        }
    }

    async fn turn(&mut self, name: &str, external: bool) {
        let Some(before) = self.model.services.get(name).cloned() else { return };
        let spec = if external {
            json!({"type": "ExternalName", "externalName": "example.org"})
        } else {
            json!({"type": "ClusterIP"})
        };
        let Ok(service) = self.cluster.update(name, spec).await else { return };
        let after = service["spec"]["clusterIP"].as_str().map(str::to_owned);
        assert_eq!(after.is_none(), external);
        if let (None, Some(own)) = (&before, &after) {
            assert!(self.model.holds(own) && self.model.is_free(own));
        } else if after.is_some() {
            assert_eq!(before, after);
        }
        self.model.services.insert(name.to_owned(), after.clone());
        // The allocator hears of it with the cache.
        let id = crate::cache::Id::new("default", name);
        let known = || self.cluster.cache.services.get(&id)?.spec.as_ref()?.cluster_ip.clone();
        while known() != after {
            tokio::task::yield_now().await;
        }
    }

    async fn check(&self) {
        let all =
            self.cluster.objects.list(Resource::IP_ADDRESSES, &Selection::default()).await.unwrap().items;
        let stored: BTreeMap<String, Option<String>> = all
            .iter()
            .map(|object| {
                let value: Value = object.decode().unwrap();
                let service = ip_address::service(&value).map(|(_, name)| name.to_owned());
                (object.key.name.to_string(), service)
            })
            .collect();
        let services = self.model.services.iter();
        let mut expected: BTreeMap<String, Option<String>> =
            services.filter_map(|(name, own)| Some((own.clone()?, Some(name.clone())))).collect();
        expected.extend(self.model.reserved.iter().map(|own| (own.clone(), None)));
        assert_eq!(stored, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_address_is_had_twice_and_none_is_left(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World { cluster: cluster(RANGES[0], 30000..=32767).await, model: Model::default() };
            for step in &steps {
                world.step(step).await;
                world.check().await;
            }
        });
    }
}
