//! Places are counted and given back; streams end when they are to.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

fn places(total: usize, per_user: usize) -> (Places, Registry) {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    (Places::api(Limits { total, per_user }, &metrics), registry)
}

fn told(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).unwrap();
    text
}

#[test]
fn a_user_gets_so_many_and_others_still_get_theirs() {
    let (places, registry) = places(10, 2);
    let take = |user: &str| {
        let mut place = places.take().unwrap();
        place.belongs_to(&Arc::from(user));
        place
    };
    let (first, _second) = (take("eve"), take("eve"));
    let third = take("eve");
    let refusal = third.refusal().unwrap().to_string();
    assert!(refusal.starts_with("eve has 2 connections"), "{refusal}");
    assert!(refusal.contains("`api.connections_per_user`"), "{refusal}");
    assert_eq!(take("bob").refusal(), None);
    drop(first);
    assert_eq!(take("eve").refusal(), None, "one was given back");
    drop(third);
    let text = told(&registry);
    assert!(text.contains("gantry_connections{port=\"api\"} 1"), "{text}");
    assert!(text.contains("gantry_connections_limit{port=\"api\"} 10"), "{text}");
    assert!(text.contains("gantry_connections_refused_total{port=\"api\",limit=\"user\"} 1"), "{text}");
}

#[test]
fn a_full_port_tells_some_and_closes_on_the_rest() {
    let (places, _registry) = places(1, 1);
    let first = places.take().unwrap();
    assert_eq!(first.refusal(), None);
    let told: Vec<Place> = std::iter::from_fn(|| places.take()).collect();
    assert_eq!(told.len(), 64);
    assert!(told.iter().all(|place| place.refusal() == Some(&Refusal::Total(1))));
    drop((first, told));
    assert_eq!(places.take().unwrap().refusal(), None);
}

fn bounded(end: Option<SystemTime>) -> (Bounded<DuplexStream>, DuplexStream, Arc<Deadline>) {
    let (near, far) = duplex(64);
    let (places, _) = places(1, 1);
    let deadline = Deadline::at(end);
    (Bounded::new(near, deadline.clone(), places.take().unwrap()), far, deadline)
}

#[tokio::test]
async fn a_stream_that_waits_is_woken_by_its_end_and_one_that_writes_fails() {
    let (mut stream, mut far, _) = bounded(Some(SystemTime::now() + Duration::from_millis(200)));
    far.write_all(b"in time").await.unwrap();
    let mut read = [0; 16];
    assert_eq!(stream.read(&mut read).await.unwrap(), 7);
    stream.write_all(b"too").await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut read)).await.expect("it ends");
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(stream.write(b"late").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn an_end_can_be_put_off_and_none_never_comes() {
    let (mut stream, mut far, deadline) = bounded(Some(SystemTime::now() + Duration::from_millis(100)));
    deadline.put_off(SystemTime::now() + Duration::from_secs(3600));
    let mut read = [0; 1];
    let waits = tokio::time::timeout(Duration::from_millis(400), stream.read(&mut read)).await;
    assert!(waits.is_err(), "{waits:?}");
    far.write_all(b"x").await.unwrap();
    assert_eq!(stream.read(&mut read).await.unwrap(), 1);
    let (mut endless, _far, _) = bounded(None);
    assert!(tokio::time::timeout(Duration::from_millis(50), endless.read(&mut read)).await.is_err());
}
