use std::{collections::BTreeMap, io::Read, io::Write, net::TcpListener};

use bytes::Bytes;
use k8s_openapi::api::core::v1::PodStatus;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::{
    control::StreamChannel,
    model::{ContainerId, LogsRequest, NetworkStatus, StreamInput, StreamOutput},
    plan,
    runtime::LOG_LABEL,
};

fn attempt(number: u32, state: ContainerState) -> ObservedContainer {
    let (pod, container) = (PodUid::from("p"), ContainerName::from("c"));
    ObservedContainer {
        id: ContainerId::of(&pod, &container, number),
        pod,
        container,
        attempt: number,
        image: String::new(),
        image_id: String::new(),
        state,
        labels: BTreeMap::from([(LOG_LABEL.to_owned(), format!("/{number}.log"))]),
        earlier_boot: false,
        task: true,
    }
}

fn request(previous: bool) -> LogsRequest {
    LogsRequest {
        pod: PodUid::from("p"),
        container: ContainerName::from("c"),
        follow: false,
        previous,
        timestamps: false,
        since_ms: None,
        tail_lines: None,
        limit_bytes: None,
    }
}

fn channel() -> (StreamChannel, mpsc::Sender<StreamInput>, mpsc::Receiver<StreamOutput>) {
    let ((to, input), (output, from)) = (mpsc::channel(4), mpsc::channel(4));
    (StreamChannel { input, output }, to, from)
}

#[test]
fn logs_are_of_the_latest_attempt_that_started_or_the_one_before() {
    let running = ContainerState::Running { pid: 1, started_ms: 0 };
    let attempts = || vec![attempt(0, ContainerState::Lost), attempt(1, running.clone())];
    let path = |attempts, previous| {
        logs::choose(attempts, &request(previous), None).map(|p| p.display().to_string())
    };
    assert_eq!(path(attempts(), false).unwrap(), "/1.log");
    assert_eq!(path(attempts(), true).unwrap(), "/0.log");
    let created = vec![attempt(0, ContainerState::Lost), attempt(1, ContainerState::Created)];
    assert_eq!(path(created, false).unwrap(), "/0.log");
    let refused = path(vec![attempt(0, running)], true).unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (400, "previous terminated container \"c\" not found")
    );
    let refused = path(Vec::new(), false).unwrap_err();
    assert_eq!(refused.message, "container \"c\" is waiting to start: ContainerCreating");
}

/// As in a crash loop: while it waits, `lastState` is about the attempt that ended last, and so is `--previous`.
#[test]
fn previous_is_what_the_status_calls_the_last_state() {
    let attempts = || vec![attempt(0, ContainerState::Lost), attempt(1, ContainerState::Lost)];
    let status = |last: Option<u32>, state: serde_json::Value| -> PodStatus {
        let last = last.map(|number| {
            let id = plan::container_id(&attempt(number, ContainerState::Lost).id);
            json!({"terminated": {"exitCode": 1, "containerID": id}})
        });
        let container = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
                               "state": state, "lastState": last.unwrap_or(json!({}))});
        serde_json::from_value(json!({"containerStatuses": [container]})).unwrap()
    };
    let path = |attempts, previous, status: &PodStatus| {
        let chosen = logs::choose(attempts, &request(previous), Some(status));
        chosen.map(|path| path.display().to_string()).map_err(|refusal| refusal.message)
    };
    let crashing = status(Some(1), json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    assert_eq!(path(attempts(), true, &crashing).unwrap(), "/1.log");
    assert_eq!(path(attempts(), false, &crashing).unwrap(), "/1.log");
    let ended = status(Some(0), json!({"terminated": {"exitCode": 1}}));
    assert_eq!(path(attempts(), true, &ended).unwrap(), "/0.log");
    let first = status(None, json!({"running": {}}));
    assert!(path(attempts(), true, &first).unwrap_err().contains("previous terminated container"));
}

#[tokio::test]
async fn a_forwarded_connection_carries_both_ways_and_half_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = String::new();
        stream.read_to_string(&mut asked).unwrap();
        stream.write_all(format!("echo {asked}").as_bytes()).unwrap();
    });
    let host = NetworkStatus { netns: "/n".into(), ipcns: "/i".into(), utsns: "/u".into(), addresses: None };
    let (channel, to, mut from) = channel();
    let serving = tokio::spawn(forward::run(host, port, channel));
    to.send(StreamInput::Stdin(Bytes::from_static(b"hello"))).await.unwrap();
    to.send(StreamInput::StdinClosed).await.unwrap();
    assert_eq!(from.recv().await, Some(StreamOutput::Stdout(Bytes::from_static(b"echo hello"))));
    assert_eq!(serving.await.unwrap(), StreamEnd::default());
    server.join().unwrap();
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_told() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = NetworkStatus { netns: "/n".into(), ipcns: "/i".into(), utsns: "/u".into(), addresses: None };
    let end = forward::run(host, port, channel().0).await;
    assert!(end.error.unwrap().contains("Connection refused"));
}

/// As a server that refuses an upload and reads no more of it.
#[tokio::test]
async fn an_answer_comes_though_nobody_reads_what_is_sent() {
    let (channel, to, mut from) = channel();
    let (answer, mut server) = tokio::io::duplex(64);
    let (unread, _) = tokio::io::duplex(64);
    let serving = tokio::spawn(carry::carry(tokio::io::join(answer, unread), channel));
    for _ in 0..8 {
        to.send(StreamInput::Stdin(Bytes::from_static(b"upload"))).await.unwrap();
    }
    tokio::io::AsyncWriteExt::write_all(&mut server, b"too large").await.unwrap();
    drop(server);
    assert_eq!(from.recv().await, Some(StreamOutput::Stdout(Bytes::from_static(b"too large"))));
    assert_eq!(serving.await.unwrap(), StreamEnd::default());
}
