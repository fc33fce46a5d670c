//! The administrator's kubeconfig. Written as JSON, which is YAML that every client reads.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{Authority, ClientCertificate, PkiError, files};

/// Writes a kubeconfig (0600).
pub fn write_kubeconfig(
    path: &Path,
    server: &str,
    authority: &Authority,
    user: &str,
    client: &ClientCertificate,
) -> Result<(), PkiError> {
    files::write(path, kubeconfig(server, authority, user, client).as_bytes())
}

/// The text of a kubeconfig with one cluster `gantry` at `server` (`https://host:port`) and one user.
pub fn kubeconfig(server: &str, authority: &Authority, user: &str, client: &ClientCertificate) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "gantry", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority.ca_pem()),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&client.certificate_pem),
            "client-key-data": STANDARD.encode(&client.key_pem),
        }}],
        "contexts": [{"name": "gantry", "context": {"cluster": "gantry", "user": user}}],
        "current-context": "gantry",
    });
    format!("{config:#}\n")
}
