//! What upstream tells of the issuer of service account tokens. Nobody is issued one here: there are no keys that could
//! verify any, and who asks for them learns just that.

use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{negotiate, respond};
use crate::model::ApiError;

/// The path of the issuer's configuration.
pub(super) const CONFIGURATION: &str = ".well-known/openid-configuration";
/// The path of its keys.
pub(super) const KEYS: &str = "openid/v1/jwks";
/// The media type of keys.
pub(super) const KEY_SET: &str = "application/jwk-set+json";
/// Upstream's, in a cluster that does not say otherwise.
const ISSUER: &str = "https://kubernetes.default.svc";

/// The issuer's configuration; `server` is the address that clients reach us at.
pub(super) fn configuration(
    method: &Method,
    headers: &HeaderMap,
    server: &str,
) -> Result<Response, ApiError> {
    let found = json!({
        "issuer": ISSUER,
        "jwks_uri": format!("https://{server}/{KEYS}"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    });
    answer(method, headers, &found, "application/json")
}

/// Its keys.
pub(super) fn keys(method: &Method, headers: &HeaderMap) -> Result<Response, ApiError> {
    answer(method, headers, &json!({"keys": []}), KEY_SET)
}

fn answer(
    method: &Method,
    headers: &HeaderMap,
    found: &Value,
    media: &'static str,
) -> Result<Response, ApiError> {
    if method != Method::GET {
        return Err(respond::method_not_allowed());
    }
    negotiate::check_produced(headers, &[media])?;
    let mut response = respond::with_type(StatusCode::OK, found.to_string().into(), media);
    let kept = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(header::CACHE_CONTROL, kept);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    #[tokio::test]
    async fn there_are_no_keys_and_the_configuration_leads_to_them() {
        let (none, get) = (HeaderMap::new(), Method::GET);
        let body = |response: Response| async {
            let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            serde_json::from_slice::<Value>(&bytes).unwrap()
        };
        let told = body(configuration(&get, &none, "10.0.0.1:6443").unwrap()).await;
        assert_eq!(told["jwks_uri"], "https://10.0.0.1:6443/openid/v1/jwks");
        assert_eq!(body(keys(&get, &none).unwrap()).await, json!({"keys": []}));
        let mut json = HeaderMap::new();
        json.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        assert!(configuration(&get, &json, "").is_ok());
        assert_eq!(keys(&get, &json).unwrap_err().reason, Reason::NotAcceptable);
        assert_eq!(keys(&Method::POST, &none).unwrap_err().reason, Reason::MethodNotAllowed);
    }
}
