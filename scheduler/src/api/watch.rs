//! Watches as streams of JSON lines, or of messages over a WebSocket. Backpressure is the client's: nothing is queued for it, and when it has
//! fallen behind the history it gets an `ERROR` event with 410 and lists again.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{WebSocketUpgrade, ws},
    response::Response,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderValue, header};
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Api,
    listing::ListOptions,
    negotiate::{Accepted, Form, Media},
    read,
    request::{Include, RequestContext},
    rows::Rows,
    table, upgrade,
};
use crate::{
    kinds::{Kind, schema::complete, wire},
    model::{ApiError, Object, Reason, Resource, Revision, encode},
    objects::{Objects, Selection, WatchEvent, WatchStream},
};

/// A watch without `timeoutSeconds` ends after between half an hour and an hour, as upstream, so that clients
/// spread over the replicas again.
const DEFAULT_SECONDS: std::ops::Range<u64> = 1800..3600;

/// `GET` of a collection with `watch=1`, or of a path below `watch/`.
pub(super) async fn watch(
    api: &Api,
    ask: &RequestContext<'_>,
    kind: &Arc<Kind>,
    options: ListOptions,
    socket: Option<WebSocketUpgrade>,
) -> Result<Response, ApiError> {
    let accepted = ask.accepted;
    let (version, current) = (options.start()?, api.objects.revision());
    let from = match options.initial {
        // Everything, but not older than this.
        Some(true) => version.filter(|version| *version > current),
        Some(false) => Some(version.unwrap_or(current)),
        None => version,
    };
    if accepted.media == Media::Yaml {
        // There are no streams of it.
        let message = "only the following media types are accepted: application/json;stream=watch, \
                       application/vnd.kubernetes.protobuf;stream=watch";
        return Err(ApiError::new(Reason::NotAcceptable, message));
    }
    let encoder = EventEncoder {
        kind: kind.clone(),
        rows: api.rows.clone(),
        accepted,
        table: if accepted.form == Form::Table { ask.table()? } else { Include::None },
        bookmarks: options.bookmarks,
        mark_initial: options.bookmarks && options.initial == Some(true),
        with_columns: true,
    };
    let seconds = match options.seconds.and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(seconds) if seconds > 0 => seconds,
        _ => rand::rng().random_range(DEFAULT_SECONDS),
    };
    let (objects, selection) = (&api.objects, options.selection);
    let lasts = Duration::from_secs(seconds);
    let ends = Instant::now().checked_add(lasts);
    let events = match objects.watch_until(kind.resource, selection.clone(), from, ends).await {
        Ok(events) => events,
        // As upstream: a version that is still to come is waited for.
        Err(error) if error.reason == Reason::Timeout && options.initial.is_none() => {
            later(objects.clone(), kind.resource, selection, from.unwrap_or_default()).boxed()
        }
        // As upstream: the stream starts and its first event is the error.
        Err(error) if matches!(error.reason, Reason::Expired | Reason::Timeout) => {
            stream::iter([Err(error)]).boxed()
        }
        Err(error) => return Err(error),
    };
    let stop = api.stop.clone().cancelled_owned();
    let end = async move {
        // Both branches only end the stream; neither holds anything.
        tokio::select! {
            () = tokio::time::sleep(lasts) => {}
            () = stop => {}
        }
    };
    if let Some(socket) = socket {
        let frames = encoder.events(events).take_until(Box::pin(end));
        return Ok(match accepted.media {
            // A message has its length already.
            Media::Protobuf => socket.on_upgrade(move |socket| {
                let events = frames.map(|frame| frame.slice(wire::LENGTH.min(frame.len())..));
                upgrade::tell(socket, events, ws::Message::Binary)
            }),
            _ => socket.on_upgrade(move |socket| upgrade::tell(socket, frames, upgrade::text)),
        });
    }
    let lines = encoder.lines(events).take_until(Box::pin(end));
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    let media = match accepted.media {
        Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// The changes after a version that is still to come.
fn later(
    objects: Objects,
    resource: Resource,
    selection: Selection,
    from: Revision,
) -> impl Stream<Item = Result<WatchEvent, ApiError>> + Send {
    const LOOK_AGAIN: Duration = Duration::from_millis(500);
    let begun = async move {
        while objects.revision() < from {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        objects.watch(resource, selection, Some(from)).await
    };
    stream::once(begun).flat_map(|begun| begun.unwrap_or_else(|error| stream::iter([Err(error)]).boxed()))
}

/// Turns events into lines.
struct EventEncoder {
    kind: Arc<Kind>,
    /// Those that were made for others, too.
    rows: Arc<Rows>,
    accepted: Accepted,
    table: Include,
    bookmarks: bool,
    /// The first bookmark tells that the initial events are complete.
    mark_initial: bool,
    /// Only the first table carries the column definitions.
    with_columns: bool,
}

impl EventEncoder {
    /// Each event by itself.
    fn events(self, events: WatchStream) -> impl Stream<Item = Bytes> + Send {
        stream::unfold((self, events), |(mut encoder, mut events)| async move {
            loop {
                let event = events.next().await?;
                let line = match event {
                    Ok(event) => encoder.line(&event),
                    Err(error) => Ok(Some(encoder.error(&error))),
                };
                // An object that cannot be shown ends the watch with the reason.
                let line = line.unwrap_or_else(|error| Some(encoder.error(&error)));
                if let Some(line) = line {
                    return Some((line, (encoder, events)));
                }
            }
        })
    }

    /// What is ready at once leaves in one write.
    fn lines(self, events: WatchStream) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        self.events(events).ready_chunks(64).map(|chunk| {
            let mut joined = BytesMut::new();
            for line in chunk {
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
        let object = self.object(object)?;
        Ok(Some(self.framed(name, &object)))
    }

    fn error(&self, error: &ApiError) -> Bytes {
        self.framed("ERROR", &encode(&error.to_status()))
    }

    /// An event in the client's media type.
    fn framed(&self, name: &str, object: &[u8]) -> Bytes {
        if self.accepted.media != Media::Protobuf {
            return line_of(name, object);
        }
        let frame = serde_json::from_slice(object).ok().and_then(|value| wire::frame(name, &value));
        frame
            .unwrap_or_else(|| {
                tracing::error!(kind = &*self.kind.kind, "an event could not be encoded in protobuf");
                Vec::new()
            })
            .into()
    }

    fn object(&mut self, object: &Arc<Object>) -> Result<Bytes, ApiError> {
        match self.accepted.form {
            Form::Plain => read::plain(&self.kind, object),
            Form::Partial | Form::PartialList => table::partial_of(object, self.accepted),
            Form::Table => {
                let row = self.rows.row(&self.kind, object, self.table, self.accepted)?;
                let head = self.table_of(&[], &object.revision.to_string());
                table::around(&head, |out| {
                    out.put(row);
                    Ok(())
                })
            }
        }
    }

    fn table_of(&mut self, items: &[Value], revision: &str) -> Value {
        let page = table::Page { revision, next: None, remaining: None };
        let layout = table::Layout::of(&self.kind);
        let mut table = table::table(layout, items, page, self.table, self.accepted);
        if !std::mem::take(&mut self.with_columns)
            && let Some(table) = table.as_object_mut()
        {
            table.insert("columnDefinitions".to_owned(), Value::Null);
        }
        table
    }

    fn bookmark(&mut self, revision: Revision) -> Option<Bytes> {
        let initial = std::mem::take(&mut self.mark_initial);
        if !self.bookmarks && !initial {
            return None;
        }
        let (kind, api_version) = match self.accepted.form {
            Form::Partial | Form::PartialList => {
                ("PartialObjectMetadata", self.accepted.version().to_owned())
            }
            Form::Plain | Form::Table => (&*self.kind.kind, self.kind.api_version()),
        };
        let mut object = json!({"kind": kind, "apiVersion": api_version,
            "metadata": {"resourceVersion": revision.to_string()}});
        if initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let body = if self.accepted.form == Form::Table {
            // Upstream's has a row about nothing.
            encode(&self.table_of(std::slice::from_ref(&object), &revision.to_string()))
        } else {
            if self.accepted.form == Form::Plain {
                complete(&self.kind.ty, &mut object);
            }
            encode(&object)
        };
        Some(self.framed("BOOKMARK", &body))
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
