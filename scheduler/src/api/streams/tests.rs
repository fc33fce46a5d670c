use bytes::Bytes;
use gantry_proto::node::v1::{self as pb, stream_frame::Kind};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use serde_json::json;

use super::*;
use crate::objects::WriteOptions;

fn pod(containers: &[&str], statuses: &serde_json::Value) -> Pod {
    let containers: Vec<_> = containers.iter().map(|c| json!({"name": c})).collect();
    serde_json::from_value(json!({"metadata": {"name": "web", "uid": "u"},
        "spec": {"nodeName": "n", "containers": containers, "initContainers": [{"name": "setup"}]},
        "status": {"phase": "Running", "containerStatuses": statuses}}))
    .unwrap()
}

fn container_status(state: &serde_json::Value, last: &serde_json::Value) -> Pod {
    let status = json!([{"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": state, "lastState": last}]);
    pod(&["a"], &status)
}

fn params(query: &str) -> Params {
    Params::of(&format!("/x?{query}").parse().unwrap())
}

#[test]
fn the_container_is_the_only_one_or_must_be_named() {
    let two = pod(&["a", "b"], &json!([]));
    assert_eq!(container::choose(&pod(&["a"], &json!([])), None).unwrap(), "a");
    assert_eq!(container::choose(&two, Some("setup")).unwrap(), "setup");
    let unnamed = container::choose(&two, None).unwrap_err();
    assert_eq!(
        unnamed.message,
        "a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [setup]"
    );
    assert_eq!(unnamed.reason, Reason::BadRequest);
    assert_eq!(
        container::choose(&two, Some("x")).unwrap_err().message,
        "container x is not valid for pod web"
    );
}

#[test]
fn a_log_is_there_once_the_container_ran() {
    let ended = json!({"terminated": {"exitCode": 1}});
    let refused = |pod: &Pod, previous| container::has_log(pod, "a", previous).unwrap_err().message;
    let waiting = |reason: &str| container_status(&json!({"waiting": {"reason": reason}}), &json!({}));
    assert_eq!(
        refused(&waiting("ContainerCreating"), false),
        "container \"a\" in pod \"web\" is waiting to start: ContainerCreating"
    );
    assert_eq!(
        refused(&waiting("ImagePullBackOff"), false),
        "container \"a\" in pod \"web\" is waiting to start: trying and failing to pull image"
    );
    let crashing = container_status(&json!({"waiting": {"reason": "CrashLoopBackOff"}}), &ended);
    container::has_log(&crashing, "a", false).unwrap();
    container::has_log(&crashing, "a", true).unwrap();
    let running = container_status(&json!({"running": {}}), &json!({}));
    container::has_log(&running, "a", false).unwrap();
    assert_eq!(refused(&running, true), "previous terminated container \"a\" in pod \"web\" not found");
    assert!(container::runs(&running, "a").is_ok() && container::runs(&crashing, "a").is_err());
}

#[test]
fn log_parameters_are_checked_as_upstream_does() {
    let now = Timestamp::from_second(1_000).unwrap();
    let read = |query: &str| logs::options("web", &params(query), now);
    let all = read("follow=true&tailLines=0&sinceSeconds=10&limitBytes=5&timestamps=1").unwrap();
    assert_eq!((all.follow, all.timestamps, all.previous), (true, true, false));
    assert_eq!((all.tail_lines, all.since_ms, all.limit_bytes), (Some(0), Some(990_000), Some(5)));
    assert_eq!(read("sinceTime=1970-01-01T00:00:07Z").unwrap().since_ms, Some(7_000));
    let negative = read("tailLines=-1").unwrap_err();
    assert_eq!(negative.reason, Reason::Invalid);
    assert!(negative.message.contains("tailLines: Invalid value: -1: must be greater than or equal to 0"));
    let time = read("sinceTime=x").unwrap_err();
    assert_eq!(time.reason, Reason::BadRequest);
    assert!(time.message.ends_with("cannot parse \"x\" as \"2006\""), "{time}");
    let output = read("stream=Stdout").unwrap_err();
    assert!(output.message.ends_with("stream: Forbidden: may not be specified"), "{output}");
    for query in ["sinceSeconds=0", "limitBytes=0", "sinceSeconds=1&sinceTime=1970-01-01T00:00:07Z"] {
        assert!(read(query).is_err(), "{query}");
    }
}

#[test]
fn exec_wants_a_command_and_a_stream() {
    let pod = pod(&["a"], &json!([]));
    let read = |query: &str, attach| exec::options(&pod, &params(query), attach);
    let shell =
        read("command=sh&command=-c&command=id&stdin=true&stdout=true&stderr=true&tty=true", false).unwrap();
    assert_eq!((shell.command.len(), shell.stdin, shell.stderr), (3, true, false));
    assert!(read("stdout=true", false).is_err());
    assert!(read("command=id", false).is_err());
    assert!(read("stdout=true", true).is_ok_and(|a| a.attach && a.command.is_empty()));
}

#[test]
fn channels_of_a_client_are_input_sizes_and_closes() {
    let incoming = |channel, bytes: &[u8]| exec::incoming(channel, Bytes::copy_from_slice(bytes), true);
    assert_eq!(incoming(0, b"hi"), Some(Kind::Stdin("hi".into())));
    assert_eq!(incoming(255, b"\0"), Some(Kind::StdinClosed(true)));
    assert_eq!(exec::incoming(255, "\0".into(), false), None, "only v5 closes");
    for (channel, nothing) in [(0, &b""[..]), (1, b"out"), (4, b"rubbish"), (255, b"\x01"), (9, b"x")] {
        assert_eq!(incoming(channel, nothing), None);
    }
}

/// Go reads names in any case, and so do clients write them.
#[test]
fn sizes_are_read_in_any_case() {
    let size = |width, height| Some(Kind::Resize(pb::TerminalSize { width, height }));
    assert_eq!(command::resize(br#"{"Width":80,"Height":24}"#), size(80, 24));
    assert_eq!(command::resize(br#"{"height":40,"width":99}"#), size(99, 40));
    assert_eq!(command::resize(br#"{"WIDTH":1,"hEIGHT":2,"x":3}{"width":5,"height":6}"#), size(5, 6));
    for nothing in [&b""[..], b"{}", br#"{"width":-1,"height":2}"#, br#"{"width":1}"#, b"rubbish"] {
        assert_eq!(command::resize(nothing), None);
    }
}

#[tokio::test]
async fn a_large_message_goes_to_the_agent_in_frames() {
    let (agent, mut frames) = tokio::sync::mpsc::channel(64);
    let bytes = Bytes::from(vec![7; 3 << 20]);
    assert!(command::deliver(Some(Kind::Stdin(bytes.clone())), &agent).await);
    drop(agent);
    let mut all = Vec::new();
    while let Some(frame) = frames.recv().await {
        let Some(Kind::Stdin(chunk)) = frame.kind else { panic!("{frame:?}") };
        assert!(chunk.len() <= 64 << 10);
        all.extend_from_slice(&chunk);
    }
    assert!(all == bytes);
}

#[test]
fn the_end_is_a_status_with_the_exit_code() {
    let end = |exit_code, error: &str| command::status(&pb::StreamEnd { exit_code, error: error.into() });
    assert_eq!(end(Some(0), "")["status"], "Success");
    let failed = end(Some(7), "");
    assert_eq!(
        (&failed["reason"], &failed["details"]["causes"][0]["message"]),
        (&json!("NonZeroExitCode"), &json!("7"))
    );
    assert_eq!(end(None, "no such file")["reason"], "InternalError");
    let words = |code| {
        command::error_channel_text(&pb::StreamEnd { exit_code: Some(code), error: String::new() }, false)
    };
    assert_eq!(words(0), None, "older protocols tell of failures alone");
    assert_eq!(words(7).unwrap(), "command terminated with non-zero exit code: exit status 7");
}

#[tokio::test]
async fn a_pod_is_reached_by_its_node_which_must_be_there() {
    let objects = Objects::in_memory(Vec::new()).await.unwrap();
    let bound = pod(&["a"], &json!([]));
    let missing = known_node(&objects, &bound).unwrap_err();
    assert_eq!((missing.message.as_str(), missing.reason), ("pods \"n\" not found", Reason::NotFound));
    assert_eq!(host_of(&objects, &bound).unwrap_err().reason, Reason::NotFound);
    let mut unbound = bound.clone();
    unbound.spec.as_mut().unwrap().node_name = None;
    assert_eq!(known_node(&objects, &unbound).unwrap(), None);
    assert_eq!(host_of(&objects, &unbound).unwrap_err().message, "pod web does not have a host assigned");
    assert_eq!(logs::nothing().status(), http::StatusCode::NO_CONTENT);
    let node = json!({"metadata": {"name": "n"}});
    objects.create(Resource::NODES, None, node, &WriteOptions::controller("test")).await.unwrap();
    assert_eq!(host_of(&objects, &bound).unwrap(), "n");
}
