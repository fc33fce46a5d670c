//! Watches as streams of JSON lines. Backpressure is the client's: nothing is queued for it, and when it has
//! fallen behind the history it gets an `ERROR` event with 410 and lists again.

use std::{convert::Infallible, time::Duration};

use axum::{body::Body, response::Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderValue, header};
use rand::Rng as _;
use serde_json::{Value, json};

use super::{
    Api,
    negotiate::{self, Form},
    read,
    request::Ask,
    table,
};
use crate::{
    kinds::Kind,
    model::{ApiError, Cause, Object, Reason, Revision},
    objects::{WatchEvent, WatchStream},
};

/// A watch without `timeoutSeconds` ends after between half an hour and an hour, as upstream, so that clients
/// spread over the replicas again.
const DEFAULT_SECONDS: std::ops::Range<u64> = 1800..3600;

/// `GET` of a collection with `watch=1`.
pub(super) async fn watch(
    api: &Api,
    ask: &Ask<'_>,
    kind: &'static Kind,
    namespace: Option<&str>,
) -> Result<Response, ApiError> {
    let form = negotiate::form(ask.headers)?;
    let selection = ask.params.selection(namespace)?;
    let initial = initial_events(ask)?;
    let from = if initial == Some(true) { None } else { start(api, ask, initial)? };
    let shower = Shower {
        kind,
        form,
        table: ask.table()?,
        bookmarks: ask.params.is_set("allowWatchBookmarks"),
        mark_initial: initial == Some(true),
        with_columns: true,
    };
    let seconds = match ask.params.number::<u64>("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => seconds,
        _ => rand::rng().random_range(DEFAULT_SECONDS),
    };
    let events = match api.objects.watch(kind.resource, selection, from).await {
        Ok(events) => events,
        // As upstream: the stream starts and its first event is the error.
        Err(error) if error.reason == Reason::Expired => stream::iter([Err(error)]).boxed(),
        Err(error) => return Err(error),
    };
    let stop = api.stop.clone().cancelled_owned();
    let end = async move {
        // Both branches only end the stream; neither holds anything.
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
            () = stop => {}
        }
    };
    let lines = shower.lines(events).take_until(Box::pin(end));
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// `sendInitialEvents`, with upstream's conditions.
fn initial_events(ask: &Ask<'_>) -> Result<Option<bool>, ApiError> {
    let how = ask.params.get("resourceVersionMatch").filter(|m| !m.is_empty());
    let invalid = |field: &str, reason, message: &str| {
        let cause = Cause { reason, field: field.to_owned(), message: message.to_owned() };
        Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", vec![cause]))
    };
    match (ask.params.get("sendInitialEvents").filter(|s| !s.is_empty()), how) {
        (None, Some(_)) => invalid(
            "resourceVersionMatch",
            "FieldValueForbidden",
            "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (None, None) => Ok(None),
        (Some(_), Some("NotOlderThan")) => Ok(Some(ask.params.is_set("sendInitialEvents"))),
        (Some(_), _) => invalid(
            "resourceVersionMatch",
            "FieldValueForbidden",
            "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
    }
}

/// Where a watch without initial events starts. No version means everything first, as it always has.
fn start(api: &Api, ask: &Ask<'_>, initial: Option<bool>) -> Result<Option<Revision>, ApiError> {
    match ask.params.revision()? {
        Some(revision) => Ok(Some(revision)),
        None if initial == Some(false) => Ok(Some(api.objects.revision())),
        None => Ok(None),
    }
}

/// Turns events into lines.
struct Shower {
    kind: &'static Kind,
    form: Form,
    table: table::Include,
    bookmarks: bool,
    /// The first bookmark tells that the initial events are complete.
    mark_initial: bool,
    /// Only the first table carries the column definitions.
    with_columns: bool,
}

impl Shower {
    fn lines(self, events: WatchStream) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        let lines = stream::unfold((self, events), |(mut shower, mut events)| async move {
            loop {
                let event = events.next().await?;
                let line = match event {
                    Ok(event) => shower.line(&event),
                    Err(error) => Ok(Some(line_of("ERROR", error.to_status().to_string().as_bytes()))),
                };
                // An object that cannot be shown ends the watch with the reason.
                let line = line
                    .unwrap_or_else(|error| Some(line_of("ERROR", error.to_status().to_string().as_bytes())));
                if let Some(line) = line {
                    return Some((Ok(line), (shower, events)));
                }
            }
        });
        // What is ready at once leaves in one write.
        lines.ready_chunks(64).map(|chunk: Vec<Result<Bytes, Infallible>>| {
            let mut joined = BytesMut::new();
            for line in chunk {
                let Ok(line) = line;
                joined.put_slice(&line);
            }
            Ok(joined.freeze())
        })
    }

    fn line(&mut self, event: &WatchEvent) -> Result<Option<Bytes>, ApiError> {
        let (name, object) = match event {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Modified(object) => ("MODIFIED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            WatchEvent::Bookmark(revision) => return Ok(self.bookmark(*revision)),
        };
        Ok(Some(line_of(name, &self.object(object)?)))
    }

    fn object(&mut self, object: &Object) -> Result<Bytes, ApiError> {
        match self.form {
            Form::Plain => read::plain(self.kind, object),
            Form::Partial => Ok(Bytes::from(read::partial(&read::decode(object)?).to_string())),
            Form::Table => {
                let value = read::decode(object)?;
                let revision = object.revision.to_string();
                Ok(self.table_of(std::slice::from_ref(&value), &revision))
            }
        }
    }

    fn table_of(&mut self, items: &[Value], revision: &str) -> Bytes {
        let page = table::Page { revision, next: None, remaining: None };
        let mut table = table::table(self.kind, items, page, self.table);
        if !std::mem::take(&mut self.with_columns)
            && let Some(table) = table.as_object_mut()
        {
            table.insert("columnDefinitions".to_owned(), Value::Null);
        }
        Bytes::from(table.to_string())
    }

    fn bookmark(&mut self, revision: Revision) -> Option<Bytes> {
        let initial = std::mem::take(&mut self.mark_initial);
        if !self.bookmarks && !initial {
            return None;
        }
        let (kind, api_version) = match self.form {
            Form::Partial => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            Form::Plain | Form::Table => (self.kind.kind, self.kind.api_version()),
        };
        let mut object = json!({"kind": kind, "apiVersion": api_version,
            "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null}});
        if initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let body = if self.form == Form::Table {
            self.table_of(&[], &revision.to_string())
        } else {
            Bytes::from(object.to_string())
        };
        Some(line_of("BOOKMARK", &body))
    }
}

fn line_of(name: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + name.len() + 24);
    line.put_slice(b"{\"type\":\"");
    line.put_slice(name.as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
}
