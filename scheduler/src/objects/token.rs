//! Continue tokens: where a list that is read in pages goes on. A token is upstream's own form and says which state the
//! list shows, after which object it goes on, and since when it is being read.
//!
//! A token is good for a bounded time, as upstream's is between two compactions: the state that it names need not be kept
//! for ever. A client that comes later gets another one with its refusal, with which the list goes on at the newest state.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{DecodeError, Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::model::{ApiError, Key, Reason, Resource, Revision, go};

/// Upstream compacts every five minutes.
const GOOD_FOR: Duration = Duration::from_secs(300);
const VERSION: &str = "meta.k8s.io/v1";
/// The state of a list that goes on at the newest one.
const NEWEST: i64 = -1;
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start \
    a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of \
    the results. Continuing with the provided token results in an inconsistent list - objects that were created, \
    modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// What a continue token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Token<'a> {
    #[serde(default, rename = "v")]
    version: Cow<'a, str>,
    /// Revision of the whole list.
    #[serde(default)]
    rv: i64,
    /// The last item that was sent, below the list's namespace, with a zero byte behind it.
    #[serde(default)]
    start: String,
    /// When the first page was sent, in Unix seconds; 0 is unknown.
    #[serde(default, rename = "t", skip_serializing_if = "is_zero")]
    since: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Token<'_> {
    /// The token behind the last item of a page; `before` is that of the page itself.
    pub(super) fn after(
        last: &Key,
        namespace: Option<&str>,
        revision: Revision,
        before: Option<&Token<'_>>,
    ) -> Self {
        let start = match &last.namespace {
            Some(own) if namespace.is_none() => format!("{own}/{}\0", last.name),
            _ => format!("{}\0", last.name),
        };
        let since = before.filter(|token| token.rv != NEWEST).map_or_else(now, |token| token.since);
        Self { version: VERSION.into(), rv: revision.0.cast_signed(), start, since }
    }

    pub(super) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn decode(text: &str) -> Result<Self, ApiError> {
        let invalid = |why: &str| {
            let message = format!("invalid continue token: continue key is not valid{why}");
            ApiError::new(Reason::BadRequest, message)
        };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| invalid(&base64_error(&error)))?;
        let token: Self = serde_json::from_slice(&bytes)
            .map_err(|error| invalid(&format!(": {}", go::json_error(&error, &bytes))))?;
        if token.version != VERSION {
            return Err(invalid(&format!(
                ": server does not recognize this encoded version {}",
                token.version
            )));
        }
        if token.rv == 0 {
            return Err(invalid(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.is_empty() {
            return Err(invalid(": encoded start key empty (version meta.k8s.io/v1)"));
        }
        let parts = token.start.strip_prefix('/').unwrap_or(&token.start).split('/');
        if parts.into_iter().any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid(&format!(": {}", token.start)));
        }
        Ok(token)
    }

    /// The state that it names; `None` is the newest.
    pub(super) fn revision(&self) -> Option<Revision> {
        u64::try_from(self.rv).ok().map(Revision)
    }

    /// Whether its time is over.
    pub(super) fn is_old(&self) -> bool {
        self.rv != NEWEST && self.since != 0 && now().saturating_sub(self.since) >= GOOD_FOR.as_secs()
    }

    /// The refusal of a token whose state is gone, with another token.
    pub(super) fn expired(&self) -> ApiError {
        let next = Self { rv: NEWEST, since: 0, ..self.clone() };
        ApiError { next: Some(next.encode().into()), ..ApiError::new(Reason::Expired, INCONSISTENT) }
    }

    /// The item that it goes on after.
    pub(super) fn key(&self, resource: Resource, namespace: Option<&str>) -> Key {
        let start = self.start.trim_start_matches('/').trim_end_matches('\0');
        match (namespace, start.split_once('/')) {
            (Some(namespace), _) => Key::namespaced(resource, namespace, start),
            (None, Some((namespace, name))) => Key::namespaced(resource, namespace, name),
            (None, None) => Key::cluster(resource, start),
        }
    }
}

/// Whether a text is a continue token at all.
pub fn check(text: &str) -> Result<(), ApiError> {
    Token::decode(text).map(|_| ())
}

/// In the words of Go's decoder.
fn base64_error(error: &DecodeError) -> String {
    let at = match error {
        DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => *at,
        DecodeError::InvalidLength(length) => length.saturating_sub(1),
        DecodeError::InvalidPadding => 0,
    };
    format!(": illegal base64 data at input byte {at}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_back_to_its_item() {
        let (pods, revision) = (Resource::PODS, Revision(7));
        for (key, namespace) in [
            (Key::namespaced(pods, "a", "p"), Some("a")),
            (Key::namespaced(pods, "a", "p"), None),
            (Key::cluster(Resource::NODES, "n"), None),
        ] {
            let text = Token::after(&key, namespace, revision, None).encode();
            let token = Token::decode(&text).unwrap();
            assert_eq!((token.key(key.resource, namespace), token.revision()), (key, Some(revision)));
            assert!(!token.is_old());
        }
    }

    #[test]
    fn an_expired_token_is_answered_with_one_that_goes_on() {
        let key = Key::namespaced(Resource::PODS, "a", "p");
        let mut token = Token::after(&key, None, Revision(7), None);
        token.since -= GOOD_FOR.as_secs();
        assert!(token.is_old());
        let refused = token.expired();
        assert_eq!(refused.reason, Reason::Expired);
        let next = refused.next.unwrap();
        let next = Token::decode(&next).unwrap();
        assert_eq!(
            (next.key(Resource::PODS, None), next.revision(), next.is_old()),
            (key.clone(), None, false)
        );
        let page = Token::after(&key, None, Revision(9), Some(&next));
        assert!(page.since >= now() - 1, "a list that goes on has its whole time again");
        let page = Token::after(&key, None, Revision(7), Some(&token));
        assert_eq!(page.since, token.since, "the pages of one list do not prolong it");
    }

    #[test]
    fn what_is_no_token_is_refused_in_upstreams_words() {
        let said = |json: &str| Token::decode(&URL_SAFE_NO_PAD.encode(json)).unwrap_err().message;
        let head = "invalid continue token: continue key is not valid: ";
        for (json, why) in [
            (r#"{"rv":1,"start":"x"}"#, "server does not recognize this encoded version "),
            (
                r#"{"v":"meta.k8s.io/v1","start":"x"}"#,
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (r#"{"v":"meta.k8s.io/v1","rv":1}"#, "encoded start key empty (version meta.k8s.io/v1)"),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../x"}"#, "../x"),
            ("x", "invalid character 'x' looking for beginning of value"),
        ] {
            assert_eq!(said(json), format!("{head}{why}"));
        }
        let refused = Token::decode("a!").unwrap_err().message;
        assert_eq!(refused, format!("{head}illegal base64 data at input byte 1"));
    }
}
