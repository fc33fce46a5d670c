//! Connections are admitted like writes, before anything is connected.

use std::sync::Mutex;

use super::*;
use crate::objects::{
    Admission, Operation,
    admission::{Batch, Checked},
};

/// Refuses all connections but those to containers called `open`, and keeps what it was shown.
#[derive(Default)]
struct Gate(Mutex<Vec<(Subresource, Value)>>);

#[async_trait]
impl Admission for Gate {
    async fn validate(&self, write: Checked<'_>, _: &mut Batch) -> Result<(), ApiError> {
        let (Operation::Connect, Some(sub), Some(asked)) = (write.operation, write.subresource, write.object)
        else {
            return Ok(());
        };
        self.0.lock().unwrap().push((sub, asked.clone()));
        if asked["container"] == "open" {
            return Ok(());
        }
        Err(ApiError::forbidden(write.kind.resource, write.name, "no way in"))
    }
}

struct Reached;

#[async_trait]
impl Connect for Reached {
    async fn connect(
        &self,
        _: Arc<Object>,
        _: Subresource,
        _: Params,
        _: Request<Body>,
    ) -> Result<Response, ApiError> {
        Ok(respond::text(StatusCode::OK, "{}"))
    }

    async fn proxy(&self, _: Proxied<'_>, _: Request<Body>) -> Result<Response, ApiError> {
        Ok(respond::text(StatusCode::OK, "{}"))
    }
}

#[tokio::test]
async fn connections_are_admitted_with_what_they_ask_for() {
    let gate = Arc::new(Gate::default());
    let objects = Objects::in_memory(vec![gate.clone()]).await.unwrap();
    let f = Fixture::over(objects, Some(Arc::new(Reached)));
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "open", "image": "i"}]}});
    let (status, made) = f.ask(Method::POST, "/api/v1/namespaces/default/pods", &pod.to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let base = "/api/v1/namespaces/default/pods/p";
    for (rest, status) in [
        ("exec?command=ls&command=-l&container=open&stdin=true", StatusCode::OK),
        ("exec?command=ls", StatusCode::FORBIDDEN),
        ("attach?container=shut", StatusCode::FORBIDDEN),
        ("portforward?ports=80", StatusCode::FORBIDDEN),
        ("proxy/a/b", StatusCode::FORBIDDEN),
        ("log", StatusCode::OK),
    ] {
        let (found, body) = f.get(&format!("{base}/{rest}")).await;
        assert_eq!(found, status, "{rest}: {body}");
    }
    let seen = gate.0.lock().unwrap().clone();
    let subs: Vec<Subresource> = seen.iter().map(|(sub, _)| *sub).collect();
    let (exec, attach) = (Subresource::Exec, Subresource::Attach);
    assert_eq!(subs, [exec, exec, attach, Subresource::PortForward, Subresource::Proxy]);
    let first = json!({"apiVersion": "v1", "kind": "PodExecOptions", "command": ["ls", "-l"], "container": "open",
        "stdin": true});
    assert_eq!(seen[0].1, first);
    assert_eq!(seen[3].1["ports"], json!([80]));
    assert_eq!(seen[4].1["path"], "/a/b");
}
