//! `/healthz`, `/livez` and `/readyz`, with the checks that they are made of. Open to everyone, so a check that fails
//! says that it does and not why.

use axum::response::Response;
use http::StatusCode;
use tokio::sync::watch;

use super::{Params, respond};
use crate::store::Condition;

/// What the checks look at.
pub(super) struct State {
    /// Whether requests are to be sent here.
    pub(super) ready: bool,
    /// Whether the store takes writes.
    pub(super) store: watch::Receiver<Condition>,
}

/// A check: its name, whether it belongs to `/readyz` alone, and whether it is passed. The store goes by the name that
/// upstream's has, because that is what is asked for.
type Check = (&'static str, bool, fn(&State) -> bool);

const CHECKS: [Check; 4] = [
    ("ping", false, |_| true),
    ("log", false, |_| true),
    ("etcd", false, |state| *state.store.borrow() != Condition::Broken),
    ("informer-sync", true, |state| state.ready),
];

const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// The answer at a path, if there is anything.
pub(super) fn answer(path: &str, params: &Params, state: &State) -> Option<Response> {
    let mut parts = path.strip_prefix('/')?.splitn(2, '/');
    let endpoint = parts.next().filter(|endpoint| ENDPOINTS.contains(endpoint))?;
    let mut checks = CHECKS.iter().filter(|(_, readiness, _)| !readiness || endpoint == "readyz");
    if let Some(name) = parts.next() {
        let (_, _, passed) = checks.find(|(own, ..)| *own == name)?;
        return Some(if passed(state) {
            respond::text(StatusCode::OK, "ok")
        } else {
            respond::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("internal server error: {name} failed\n"),
            )
        });
    }
    let (mut lines, mut good) = (String::new(), true);
    for (name, _, passed) in checks {
        lines += &if params.all("exclude").any(|excluded| excluded == *name) {
            format!("[+]{name} excluded: ok\n")
        } else if passed(state) {
            format!("[+]{name} ok\n")
        } else {
            good = false;
            format!("[-]{name} failed: reason withheld\n")
        };
    }
    Some(if !good {
        respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{endpoint} check failed\n"))
    } else if params.get("verbose").is_some() {
        respond::text(StatusCode::OK, format!("{lines}{endpoint} check passed\n"))
    } else {
        respond::text(StatusCode::OK, "ok")
    })
}

/// All paths.
pub(super) fn paths() -> impl Iterator<Item = String> {
    ENDPOINTS.into_iter().flat_map(|endpoint| {
        let checks = CHECKS.iter().filter(move |(_, readiness, _)| !readiness || endpoint == "readyz");
        let checks = checks.map(move |(name, ..)| format!("/{endpoint}/{name}"));
        std::iter::once(format!("/{endpoint}")).chain(checks)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(uri: &str, ready: bool, condition: Condition) -> Option<(u16, String)> {
        let (_sender, store) = watch::channel(condition);
        let uri: http::Uri = uri.parse().unwrap();
        let response = answer(uri.path(), &Params::of(&uri), &State { ready, store })?;
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Some((status, String::from_utf8(body.to_vec()).unwrap()))
    }

    #[tokio::test]
    async fn the_checks_are_listed_and_asked_for_alone() {
        let good = |uri| ask(uri, true, Condition::Good);
        assert_eq!(good("/readyz").await.unwrap(), (200, "ok".to_owned()));
        let (_, verbose) = good("/readyz?verbose&exclude=log").await.unwrap();
        assert_eq!(
            verbose,
            "[+]ping ok\n[+]log excluded: ok\n[+]etcd ok\n[+]informer-sync ok\nreadyz check passed\n"
        );
        assert_eq!(good("/livez/ping").await.unwrap().1, "ok");
        for absent in ["/healthz/", "/readyz/nope", "/livez/informer-sync"] {
            assert_eq!(good(absent).await, None, "{absent}");
        }
    }

    #[tokio::test]
    async fn what_fails_is_named() {
        let (status, body) = ask("/readyz", false, Condition::Good).await.unwrap();
        assert_eq!(status, 500);
        assert!(body.contains("[-]informer-sync failed: reason withheld\nreadyz check failed"), "{body}");
        assert_eq!(ask("/livez", false, Condition::Good).await.unwrap().0, 200);
        assert_eq!(ask("/livez/etcd", true, Condition::Broken).await.unwrap().0, 500);
        assert_eq!(ask("/readyz?exclude=informer-sync", false, Condition::Good).await.unwrap().0, 200);
    }
}
