//! The kernel stops hearing from the agent after the n-th write, for every n of a publish; the next agent takes over what
//! is there. Services of all types, addresses that move, all that a table can say.

use std::time::Duration;

use super::{readers::*, *};
use crate::model::{Protocol, ServiceType};

/// TCP and UDP on one address, by name of the service: the last byte of its cluster address.
fn service(last: u8, endpoints: &[&str]) -> ServiceSpec {
    let at = |text: &str| {
        let (address, node) = text.split_once('@').unwrap_or((text, "here"));
        endpoint(&format!("10.0.0.{address}"), node)
    };
    let tcp = port(endpoints.iter().map(|text| at(text)).collect());
    let udp = ServicePort { name: "udp".into(), protocol: Protocol::Udp, ..tcp.clone() };
    let cluster_ips = vec![format!("10.96.0.{last}").parse().unwrap()];
    ServiceSpec { cluster_ips, ports: vec![tcp, udp], ..spec() }
}

fn balancer(address: &str, ranges: &[&str], service: ServiceSpec) -> ServiceSpec {
    ServiceSpec {
        kind: ServiceType::LoadBalancer,
        load_balancer_ips: vec![(address.parse().unwrap(), None)],
        source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..service
    }
}

fn node_port(port: u16, mut service: ServiceSpec) -> ServiceSpec {
    service.kind = ServiceType::NodePort;
    service.ports.iter_mut().for_each(|known| known.node_port = Some(port));
    service
}

fn external(address: &str, service: ServiceSpec) -> ServiceSpec {
    ServiceSpec { external_ips: vec![address.parse().unwrap()], ..service }
}

fn all(services: Vec<(&str, ServiceSpec)>) -> ServiceTable {
    services.into_iter().map(|(name, spec)| (id(name), Arc::new(spec))).collect()
}

/// What each pair goes through is in its name.
fn changes() -> Vec<(&'static str, ServiceTable, ServiceTable)> {
    let many: Vec<String> = (100..120).map(|last| format!("{last}:80")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let bound = |seconds, service| ServiceSpec { affinity: Some(Duration::from_secs(seconds)), ..service };
    let two = || service(1, &["1:80", "2:80@there"]);
    let three = || service(1, &["2:80@there", "3:80", "4:80@there"]);
    let local = |service| ServiceSpec { external_local: true, internal_local: true, ..service };
    let here = ["10.1.0.0/16", "192.168.0.0/16"];
    let there = ["10.2.0.0/16", "192.168.0.0/16"];
    let one = |service| all(vec![("a", service)]);
    let lb = |ranges: &[&str], service| balancer("198.51.100.1", ranges, service);
    vec![
        ("endpoints", one(two()), one(three())),
        ("more than a row", one(service(1, &many)), one(service(1, &many[3..9]))),
        ("the last endpoint", one(two()), one(service(1, &[]))),
        ("node ports, endpoints", one(node_port(30_001, two())), one(node_port(30_001, three()))),
        ("node ports, another", one(node_port(30_001, two())), one(node_port(30_002, three()))),
        ("policies", one(node_port(30_001, two())), one(node_port(30_001, local(three())))),
        ("affinity", one(two()), one(bound(100, three()))),
        ("another affinity", one(bound(10, two())), one(bound(100, two()))),
        ("ranges", one(lb(&here, two())), one(lb(&there, three()))),
        ("ranges where there were none", one(lb(&[], two())), one(lb(&here, three()))),
        (
            "a service with ranges",
            all(vec![]),
            all(vec![("a", lb(&here, two())), ("b", service(2, &["9:80"]))]),
        ),
        (
            "one with ranges for another",
            one(lb(&here, two())),
            all(vec![("b", balancer("198.51.100.2", &there, service(2, &["9:80"])))]),
        ),
        (
            "an address of a balancer becomes an external one",
            one(ServiceSpec {
                load_balancer_ips: ["198.51.100.1", "198.51.100.2"]
                    .map(|ip| (ip.parse().unwrap(), None))
                    .into(),
                ..lb(&here, two())
            }),
            one(external("198.51.100.1", balancer("198.51.100.2", &here, three()))),
        ),
        (
            "cluster addresses change hands",
            all(vec![("a", service(1, &["1:80"])), ("b", service(2, &["2:80"]))]),
            all(vec![("a", service(2, &["1:80"])), ("b", service(1, &["2:80"]))]),
        ),
        (
            "an external address changes hands, another stays",
            all(vec![
                ("a", service(1, &["1:80"])),
                ("b", node_port(30_001, external("192.0.2.1", service(2, &["2:80"])))),
            ]),
            all(vec![
                ("a", external("192.0.2.1", service(1, &["1:80"]))),
                ("b", node_port(30_001, service(2, &["2:80", "3:80"]))),
            ]),
        ),
        (
            "who comes first in the alphabet wants the address of another",
            all(vec![("b", external("192.0.2.1", service(2, &["2:80"])))]),
            all(vec![
                ("a", external("192.0.2.1", service(1, &["1:80"]))),
                ("b", external("192.0.2.1", service(2, &["2:80"]))),
            ]),
        ),
        (
            "services come and go",
            all(vec![("a", lb(&here, node_port(30_001, two()))), ("b", service(2, &["9:80"]))]),
            all(vec![
                ("b", service(2, &["8:80"])),
                ("c", bound(10, node_port(30_001, service(3, &["7:80"])))),
            ]),
        ),
    ]
}

fn publish_all(table: &mut Table<Memory>, services: &ServiceTable) -> Retired {
    table.publish(services, &node()).unwrap();
    table.take_retired()
}

/// An agent with `old` in the kernel publishes `new` and is killed after `writes`; the next one publishes `wanted`.
/// False when there were no more writes to be killed at.
fn kill_at(
    writes: usize,
    [old, new]: [&ServiceTable; 2],
    [before, after]: [&Claims; 2],
    wanted: &ServiceTable,
) -> Result<bool, String> {
    let memory = Memory::new(64, 64, 128);
    let mut table = Table::recover(memory.clone()).unwrap();
    let retired = publish_all(&mut table, old);
    memory.grace();
    table.release(retired);
    memory.connect_to_all();
    let bonds = bonds(&memory);
    let finished = memory.kill_after(writes, move || {
        let retired = publish_all(&mut table, new);
        table.maps.grace();
        table.release(retired);
    });
    let told = |faults: Vec<String>| if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) };
    told(mixtures(&memory, before, after))?;

    let mut table = Table::recover(memory.clone()).unwrap();
    replace(&mut table, wanted, &node(), [before, after])?;
    let goal = if std::ptr::eq(wanted, new) { after } else { before };
    told(differences(&memory, goal))?;
    told(leaks(&table))?;
    told(broken_bonds(&memory, &bonds, [before, after]))?;
    for (port, state) in &table.ports {
        // Who is new has no connections yet.
        let is_new = !old.contains_key(&port.service);
        if is_new && memory.connections(state.service) > 0 {
            return Err(format!("{port:?} goes on counting for somebody else"));
        }
    }
    let done = memory.writes();
    let again = replace(&mut table, wanted, &node(), [goal, goal])?;
    if (again.changed, again.removed, memory.writes()) != (0, 0, done) {
        return Err(format!("not done: {again:?}"));
    }
    replace(&mut table, &ServiceTable::new(), &node(), [goal, &Claims::new()])?;
    told(leaks(&table))?;
    assert_eq!(memory.sizes(), (0, 0));
    Ok(finished.is_none())
}

#[test]
fn an_agent_killed_after_any_write_leaves_what_the_next_one_makes_whole() {
    let mut faults = Vec::new();
    for (name, old, new) in changes() {
        for (from, [old, new]) in [("forth", [&old, &new]), ("back", [&new, &old])] {
            let [before, after] = [old, new].map(|table| claims(table, &node()));
            let mut kills = 0;
            'kills: loop {
                for (goal, wanted) in [("the new", new), ("the old", old)] {
                    match kill_at(kills, [old, new], [&before, &after], wanted) {
                        Ok(true) => {}
                        Ok(false) => break 'kills,
                        Err(fault) => {
                            faults.push(format!(
                                "{name}, {from}, killed after {kills} writes, then {goal}:\n{fault}"
                            ));
                            break 'kills;
                        }
                    }
                }
                kills += 1;
            }
        }
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), 2 * changes().len(), faults.join("\n\n"));
}

#[test]
fn readers_see_the_old_sets_or_the_new_ones_while_an_agent_publishes() {
    for (name, old, new) in changes() {
        let [before, after] = [&old, &new].map(|table| claims(table, &node()));
        let mut table = Table::recover(Memory::new(64, 64, 128)).unwrap();
        replace(&mut table, &old, &node(), [&Claims::new(), &before]).unwrap();
        for (wanted, [from, to]) in [(&new, [&before, &after]), (&old, [&after, &before])] {
            let done = replace(&mut table, wanted, &node(), [from, to]);
            assert!(done.is_ok(), "{name}: {}", done.unwrap_err());
            assert_eq!(differences(&table.maps, to), Vec::<String>::new(), "{name}");
            assert_eq!(leaks(&table), Vec::<String>::new(), "{name}");
        }
    }
}

#[test]
fn a_restart_leaves_an_address_with_its_owner() {
    let shared =
        |name: &'static str, last, endpoint| (name, external("192.0.2.1", service(last, &[endpoint])));
    let (a, b) = (shared("a", 1, "1:80"), shared("b", 2, "2:80"));
    let mut table = table();
    table.publish(&all(vec![b.clone()]), &node()).unwrap();
    let both = all(vec![a, b]);
    table.publish(&both, &node()).unwrap();
    assert_eq!(answers(&table.maps, "192.0.2.1:80"), set(&["10.0.0.2:80"]));
    let mut table = restart(table);
    let writes = table.maps.hash_writes();
    table.publish(&both, &node()).unwrap();
    assert_eq!(answers(&table.maps, "192.0.2.1:80"), set(&["10.0.0.2:80"]));
    assert_eq!(table.maps.hash_writes(), writes);
}

/// What an agent has in the kernel that did not say what its sets are for.
fn left_by_one_that_did_not_say(services: &ServiceTable) -> Memory {
    let memory = Memory::new(64, 64, 128);
    publish_all(&mut Table::recover(memory.clone()).unwrap(), services);
    for index in 0..64 {
        let word = memory.raw(Array::Heads, index * Array::Heads.words());
        let said = Publish::unpack(word.load(Ordering::Relaxed));
        let flags = said.flags & ((1 << words::ROLE_SHIFT) - 1);
        word.store(Publish { flags, ..said }.pack(), Ordering::Relaxed);
    }
    memory
}

#[test]
fn sets_of_an_agent_that_did_not_say_what_they_are_for_are_taken_over() {
    let services = all(vec![
        ("a", balancer("198.51.100.1", &["10.1.0.0/16"], node_port(30_001, service(1, &["1:80", "2:80"])))),
        ("b", external("192.0.2.1", service(2, &["3:80"]))),
    ]);
    let memory = left_by_one_that_did_not_say(&services);
    let (bonds, changes) = (bonds(&memory), memory.hash_writes());
    let wanted = claims(&services, &node());
    let mut table = Table::recover(memory.clone()).unwrap();
    publish_all(&mut table, &services);
    assert_eq!(memory.hash_writes(), changes, "no address moves");
    assert_eq!(broken_bonds(&memory, &bonds, [&wanted, &wanted]), Vec::<String>::new());
    assert_eq!(differences(&memory, &wanted), Vec::<String>::new(), "and they say it now");
}

#[test]
fn what_only_some_may_use_is_not_opened_though_nobody_said_what_it_was_for() {
    let restricted = balancer("198.51.100.1", &["10.1.0.0/16"], service(1, &["1:80"]));
    let more = ("198.51.100.2".parse().unwrap(), None);
    let mut both = restricted.clone();
    both.load_balancer_ips.push(more.clone());
    let one_outside = external("198.51.100.1", ServiceSpec { load_balancer_ips: vec![more], ..restricted });
    let memory = left_by_one_that_did_not_say(&all(vec![("a", both)]));
    let mut table = Table::recover(memory.clone()).unwrap();
    let faults = Faults::default();
    let seen = faults.clone();
    let of_the_balancer = u32::from_ne_bytes([198, 51, 100, 2]);
    let open = move |memory: &Memory| {
        let open = memory.served().into_iter().filter(|(key, served)| {
            key.addr_be == of_the_balancer && served.set.flags & words::SOURCE_RANGES == 0
        });
        seen.add(open.map(|(key, served)| format!("{key:?} leads to {:?}", served.set)));
    };
    memory.observed(open, || publish_all(&mut table, &all(vec![("a", one_outside)])));
    assert_eq!(faults.none(), Ok(()));
}

#[test]
fn an_address_that_an_earlier_agent_left_elsewhere_moves_however_the_kernel_refuses() {
    let old = all(vec![("a", external("192.0.2.1", service(1, &["1:80"])))]);
    let new = all(vec![("a", service(1, &["1:80"])), ("b", external("192.0.2.1", service(2, &["2:80"])))]);
    let wanted = claims(&new, &node());
    for refused in 0.. {
        let mut table = table();
        publish_all(&mut table, &old);
        let mut table = restart(table);
        table.maps.refuse_after(Some(refused));
        let was_refused = table.publish(&new, &node()).is_err();
        table.maps.refuse_after(None);
        let done = table.publish(&new, &node());
        assert!(done.is_ok(), "after {refused} changes: {}", done.unwrap_err());
        let retired = table.take_retired();
        table.release(retired);
        assert_eq!(differences(&table.maps, &wanted), Vec::<String>::new(), "after {refused} changes");
        assert_eq!(leaks(&table), Vec::<String>::new(), "after {refused} changes");
        if !was_refused {
            break;
        }
    }
}
