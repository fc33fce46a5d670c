//! What the API takes at a time, and until when.

use std::time::{Duration, SystemTime};

use http_body_util::BodyExt as _;

use super::{
    tls::{HOUR, Listening, PLENTY, ask},
    *,
};
use crate::{
    connections::Limits,
    pki::{ClientCertificate, Validity},
};

/// Shorter than a connection may be idle.
const PATIENCE: Duration = Duration::from_secs(8);

fn certificate(api: &Listening, user: &str, lifetime: Duration) -> ClientCertificate {
    let validity = Validity::starting(SystemTime::now(), lifetime);
    api.ca.client(user, &["system:masters"], validity).unwrap()
}

#[tokio::test]
async fn a_watch_and_an_idle_connection_end_with_the_certificate() {
    let api = Listening::with(PLENTY).await;
    let (short, long) = (certificate(&api, "short", 3 * HOUR / 3600), certificate(&api, "long", HOUR));
    let mut watching = api.connect(Some(&short)).await.unwrap();
    let uri = "/api/v1/namespaces/default/configmaps?watch=1";
    let watch = watching.send_request(ask(uri)).await.unwrap();
    assert_eq!(watch.status(), StatusCode::OK);
    let mut watch = watch.into_body();
    let mut idle = api.connect(Some(&short)).await.unwrap();
    assert_eq!(idle.send_request(ask("/api")).await.unwrap().status(), StatusCode::OK);
    let mut lasting = api.connect(Some(&long)).await.unwrap();
    let mut lasting = lasting.send_request(ask(uri)).await.unwrap().into_body();
    let ended = async { while let Some(Ok(_)) = watch.frame().await {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the watch ends");
    let closed = async {
        while idle.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("the connection ends");
    let goes_on = tokio::time::timeout(Duration::from_millis(200), lasting.frame()).await;
    assert!(goes_on.is_err(), "that of another certificate goes on: {goes_on:?}");
}

#[tokio::test]
async fn who_has_too_many_connections_is_told_and_others_are_served() {
    let api = Listening::with(Limits { total: 100, per_user: 1 }).await;
    let (eve, bob) = (certificate(&api, "eve", HOUR), certificate(&api, "bob", HOUR));
    let mut first = api.connect(Some(&eve)).await.unwrap();
    assert_eq!(first.send_request(ask("/api")).await.unwrap().status(), StatusCode::OK);
    let mut second = api.connect(Some(&eve)).await.unwrap();
    let refused = second.send_request(ask("/api")).await.unwrap();
    assert_eq!(
        (refused.status(), &refused.headers()[header::RETRY_AFTER]),
        (StatusCode::TOO_MANY_REQUESTS, &"5".parse().unwrap())
    );
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    let said: Value = serde_json::from_slice(&body).unwrap();
    assert!(said["message"].as_str().unwrap().starts_with("eve has 1 connections"), "{said}");
    assert!(second.ready().await.is_err(), "and the connection is closed");
    assert_eq!(api.connect(Some(&bob)).await.unwrap().send_request(ask("/api")).await.unwrap().status(), 200);
    assert_eq!(first.send_request(ask("/api")).await.unwrap().status(), StatusCode::OK);
    drop(first);
    let served = async {
        loop {
            let mut again = api.connect(Some(&eve)).await.unwrap();
            if again.send_request(ask("/api")).await.is_ok_and(|response| response.status() == 200) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, served).await.expect("its place is given back");
}

#[tokio::test]
async fn a_head_beyond_all_measure_is_refused() {
    let api = Listening::with(PLENTY).await;
    let admin = certificate(&api, "admin", HOUR);
    let with = async |size: usize| {
        let mut request = ask("/api");
        request.headers_mut().insert("x-long", "x".repeat(size).parse().unwrap());
        let mut connection = api.connect(Some(&admin)).await.unwrap();
        connection.send_request(request).await.map(|response| response.status().as_u16())
    };
    assert_eq!(with(32 << 10).await.unwrap(), 200);
    assert_eq!(with(100 << 10).await.unwrap(), 431);
}

/// A write whose body never comes.
fn stuck() -> Request<Body> {
    let body = Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    Request::post(CONFIG_MAPS).header(header::CONTENT_TYPE, "application/json").body(body).unwrap()
}

#[tokio::test]
async fn too_many_requests_are_told_to_come_again() {
    let f = Fixture::with(InFlight { reads: 400, writes: 1 }).await;
    // The fixture asks as an administrator, who has twice as many.
    let stuck: Vec<_> = (0..2)
        .map(|_| tokio::spawn(f.api.clone().handle(connection(Some(Actor::controller("test"))), stuck())))
        .collect();
    tokio::task::yield_now().await;
    let refused = f.send(request(Method::POST, CONFIG_MAPS, "application/json", "{}")).await;
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    let (status, said) = parsed(refused).await;
    assert_eq!((status, &said["reason"]), (StatusCode::TOO_MANY_REQUESTS, &json!("TooManyRequests")));
    assert_eq!(said["message"], "Too many requests, please try again later.");
    assert_eq!(f.get(CONFIG_MAPS).await.0, StatusCode::OK, "who reads is not held up by who writes");
    for task in stuck {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    f.make("a").await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let f = Fixture::new().await;
    let (status, said) = parsed(f.send(stuck()).await).await;
    assert_eq!((status, &said["reason"]), (StatusCode::GATEWAY_TIMEOUT, &json!("Timeout")));
}
