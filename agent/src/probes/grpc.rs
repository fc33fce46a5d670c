//! `grpc.health.v1.Health/Check`, whose two messages are small enough to be written down here.

use std::time::Duration;

use crate::model::chain;
use http::uri::PathAndQuery;
use tonic::{client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// One check. `Err` is the text for the event.
pub(super) async fn check(host: &str, port: u16, service: &str, limit: Duration) -> Result<(), String> {
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let failed =
        |error: String| format!("timeout: failed to connect service {address:?} within {limit:?}: {error}");
    let no_server = |error: String| format!("there is no gRPC server at {address:?}: {error}");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| chain(&error))?;
    let work = async {
        let channel = endpoint.connect().await.map_err(|error| failed(chain(&error)))?;
        let mut client = Grpc::new(channel);
        client.ready().await.map_err(|error| no_server(chain(&error)))?;
        let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let response = client.unary(request, path, codec).await.map_err(|status| match status.code() {
            tonic::Code::Unimplemented => {
                format!(
                    "this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                    status.message()
                )
            }
            // Not an answer: whatever listens there does not speak it.
            _ if std::error::Error::source(&status).is_some() => no_server(chain(&status)),
            _ => format!("health rpc probe failed: {}", status.message()),
        })?;
        match response.into_inner().status {
            SERVING => Ok(()),
            other => Err(format!("service unhealthy (responded with {:?})", name(other))),
        }
    };
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(failed("context deadline exceeded".into())))
}

fn name(status: i32) -> &'static str {
    match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}
