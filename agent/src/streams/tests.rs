use std::{collections::BTreeMap, io::Read, io::Write, net::TcpListener};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::{
    control::StreamChannel,
    model::{ContainerId, LogsRequest, NetworkStatus, StreamInput, StreamOutput},
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
    let path =
        |attempts, previous| logs::choose(attempts, &request(previous)).map(|p| p.display().to_string());
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
