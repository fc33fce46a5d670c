//! Any history of tables, kills, refusals and restarts ends as the last table alone would have it.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*, sample::subsequence};

use super::{readers::*, *};
use crate::model::{Endpoint, Protocol, ServiceType};

/// One thing that happens to the agent.
#[derive(Clone, Debug)]
struct Step {
    services: ServiceTable,
    node: NodeName,
    fate: Fate,
}

#[derive(Clone, Debug)]
enum Fate {
    /// It publishes.
    Publishes,
    /// It ends, the next one publishes.
    Restarts,
    /// It publishes and is killed after so many writes: of publishing, of freeing, or, restarted, of taking over.
    Killed { after: usize, restarted: bool },
    /// The kernel refuses a change on the way.
    Refused { after: usize },
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        2 => Just(Fate::Publishes),
        1 => Just(Fate::Restarts),
        4 => (0..160_usize, any::<bool>()).prop_map(|(after, restarted)| Fate::Killed { after, restarted }),
        1 => (0..20_usize).prop_map(|after| Fate::Refused { after }),
    ]
}

fn endpoint_of(last: u8, port: u16, state: u8, node: &str) -> Endpoint {
    let known = endpoint(&format!("10.0.0.{last}:{port}"), node);
    let (ready, serving, terminating) = match state {
        0 => (false, true, true),
        1 => (false, false, true),
        2 => (false, false, false),
        _ => (true, true, false),
    };
    Endpoint { ready, serving, terminating, ..known }
}

fn endpoints(port: u16) -> impl Strategy<Value = Vec<Endpoint>> {
    let one = (0..8_u8, prop_oneof![Just("here"), Just("there")]);
    let of = move |(last, (state, node)): (u8, (u8, &str))| endpoint_of(last, port, state, node);
    proptest::collection::btree_map(1..40_u8, one, 0..20)
        .prop_map(move |all| all.into_iter().map(of).collect())
}

/// Several ports of one service; some of them twice, by TCP and by UDP.
fn ports(number: u8) -> impl Strategy<Value = Vec<ServicePort>> {
    let wanted = subsequence(
        vec![(Protocol::Tcp, 80), (Protocol::Udp, 80), (Protocol::Tcp, 443), (Protocol::Sctp, 9)],
        0..=4,
    );
    (wanted, endpoints(8080), endpoints(8443), any::<bool>()).prop_map(
        move |(wanted, first, second, on_nodes)| {
            let of = |(protocol, port)| ServicePort {
                name: format!("{protocol:?}-{port}"),
                protocol,
                port,
                node_port: (on_nodes && protocol != Protocol::Sctp)
                    .then_some(30_000 + u16::from(number) * 10 + port % 7),
                endpoints: if port == 443 { second.clone() } else { first.clone() },
            };
            wanted.into_iter().map(of).collect()
        },
    )
}

/// External addresses may be wanted by several; cluster addresses and ports of nodes are one service's.
fn service(number: u8) -> impl Strategy<Value = ServiceSpec> {
    let addresses = |pool: [&'static str; 2]| subsequence(pool.to_vec(), 0..=2);
    let who = (addresses(["192.0.2.1", "192.0.2.2"]), addresses(["192.0.2.2", "198.51.100.1"]));
    let ranges = subsequence(vec!["10.1.0.0/16", "10.1.2.0/24", "172.16.0.0/12"], 0..=3);
    let how = (option::of(1..1000_u64), any::<[bool; 3]>());
    (ports(number), who, ranges, how).prop_map(
        move |(ports, (external, balancers), ranges, (affinity, flags))| ServiceSpec {
            kind: ServiceType::LoadBalancer,
            cluster_ips: vec![format!("10.96.0.{number}").parse().unwrap()],
            external_ips: external.iter().map(|ip| ip.parse().unwrap()).collect(),
            load_balancer_ips: balancers.iter().map(|ip| (ip.parse().unwrap(), None)).collect(),
            source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            affinity: affinity.map(Duration::from_secs),
            internal_local: flags[0],
            external_local: flags[1],
            publish_not_ready: flags[2],
            ports,
            ..spec()
        },
    )
}

fn services() -> impl Strategy<Value = ServiceTable> {
    (option::of(service(1)), option::of(service(2)), option::of(service(3))).prop_map(|(a, b, c)| {
        let named = [("a", a), ("b", b), ("c", c)].into_iter();
        named.filter_map(|(name, spec)| Some((id(name), Arc::new(spec?)))).collect()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let node = prop_oneof![9 => Just("here"), 1 => Just("there")];
    (services(), node, fate()).prop_map(|(services, node, fate)| Step { services, node: node.into(), fate })
}

/// An agent, if one lives, and the kernel that outlives it.
struct Node {
    memory: Memory,
    table: Option<Table<Memory>>,
}

impl Node {
    /// The agent that lives, or the next one.
    fn table(&mut self) -> &mut Table<Memory> {
        let memory = &self.memory;
        self.table.get_or_insert_with(|| Table::recover(memory.clone()).unwrap())
    }

    fn go(&mut self, step: &Step) {
        let Step { services, node, fate } = step;
        match fate {
            Fate::Publishes => {}
            Fate::Restarts => self.table = None,
            Fate::Refused { after } => {
                self.memory.refuse_after(Some(*after));
                // What it could not do is done by the next pass.
                let _ = self.table().publish(services, node);
                self.memory.refuse_after(None);
            }
            Fate::Killed { after, restarted } => {
                let mut table = self.table.take().filter(|_| !restarted);
                let memory = self.memory.clone();
                let _ = self.memory.kill_after(*after, move || {
                    let table = table.get_or_insert_with(|| Table::recover(memory.clone()).unwrap());
                    table.publish(services, node).unwrap();
                    memory.grace();
                    let retired = table.take_retired();
                    table.release(retired);
                });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_history_of_kills_ends_as_the_last_table_says(history in vec(step(), 1..10)) {
        let memory = Memory::new(256, 512, 1024);
        let mut node = Node { memory: memory.clone(), table: None };
        for step in &history {
            node.go(step);
            let wanted = claims(&step.services, &step.node);
            // What it found may be of any table before: only at the end of a pass is it this one.
            let faults = Faults::default();
            let seen = faults.clone();
            let done = memory.observed(
                move |memory| seen.add(memory.broken_promises()),
                || {
                    let table = node.table();
                    let done = table.publish(&step.services, &step.node);
                    table.maps.grace();
                    let retired = table.take_retired();
                    table.release(retired);
                    done
                },
            );
            prop_assert!(done.is_ok(), "{:?}", done);
            prop_assert_eq!(faults.none(), Ok(()));
            prop_assert_eq!(differences(&memory, &wanted), Vec::<String>::new());
            prop_assert_eq!(leaks(node.table()), Vec::<String>::new());
            // The same again changes nothing, for readers never anything.
            let again = replace(node.table(), &step.services, &step.node, [&wanted, &wanted]);
            prop_assert_eq!(again.map(|done| (done.changed, done.removed)), Ok((0, 0)));
        }
        let table = node.table();
        table.publish(&ServiceTable::new(), &"here".into()).unwrap();
        let retired = table.take_retired();
        table.release(retired);
        prop_assert_eq!(table.fill().map(|fill| fill.used), [0, 0, 0, 0]);
        prop_assert_eq!(memory.sizes(), (0, 0));
    }
}
