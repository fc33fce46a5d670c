//! The event recorder: control loops say what they did or could not do; equal events are counted, not repeated.
//!
//! In: events, without waiting. Out: core/v1 Event objects. Never: fails its caller. Events are told as well as
//! can be; what does not fit is dropped and counted in the log.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use tokio::sync::mpsc;

use crate::{
    cache::Cached,
    model::{Fingerprint, Fingerprints, Reason, Resource},
    objects::{Objects, Patch, WriteOptions},
    tasks::Tasks,
};

/// Events that wait to be written: a burst of a rollout of thousands of pods.
const WAITING: usize = 8192;
/// Distinct events remembered for counting, as many as upstream's recorder.
const REMEMBERED: usize = 4096;
/// One object may say so much at once, and then one more every `REFILL`: upstream's spam filter.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);

/// `Event.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Something went as it should.
    Normal,
    /// Something did not.
    Warning,
}

impl Severity {
    /// The text in `Event.type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One thing to tell, as plans state it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Normal or Warning.
    pub severity: Severity,
    /// CamelCase: `ScalingReplicaSet`.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

impl Note {
    /// A Normal one.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, reason, message: message.into() }
    }

    /// A Warning.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, reason, message: message.into() }
    }
}

/// One event on its way.
#[derive(Clone, Debug)]
pub struct Record {
    /// What it is about.
    pub about: ObjectReference,
    /// Normal or Warning.
    pub severity: Severity,
    /// CamelCase.
    pub reason: String,
    /// The sentence.
    pub message: String,
    /// Who says so: `deployment-controller`, `kubelet`.
    pub component: String,
    /// On which node, when on one.
    pub host: Option<String>,
    /// When it happened.
    pub time: Timestamp,
}

/// A reference to `object`, for events.
pub fn reference<T: Cached + k8s_openapi::Resource>(object: &T) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(T::API_VERSION.to_owned()),
        kind: Some(T::KIND.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// Writes events. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Record>,
}

impl Recorder {
    /// Starts the task that writes.
    pub fn start(objects: &Objects, tasks: &Tasks) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let objects = objects.clone();
        // Cancel-safe: events that are not written yet are lost at a stop, as upstream's are.
        tasks.essential("events", async move {
            write_all(&objects, receiver).await;
            // Everybody who could say something has gone, which happens only at the end.
            std::future::pending::<()>().await;
        });
        Self { sender }
    }

    /// Says `note` about `object` in the name of `component`, now.
    pub fn note<T: Cached + k8s_openapi::Resource>(&self, object: &T, component: &str, note: &Note) {
        self.publish(Record {
            about: reference(object),
            severity: note.severity,
            reason: note.reason.to_owned(),
            message: note.message.clone(),
            component: component.to_owned(),
            host: None,
            time: Timestamp::now(),
        });
    }

    /// Says something that was put together elsewhere (an agent's event).
    pub fn publish(&self, record: Record) {
        if let Err(error) = self.sender.try_send(record) {
            tracing::debug!(%error, "event dropped");
        }
    }
}

async fn write_all(objects: &Objects, mut receiver: mpsc::Receiver<Record>) {
    let mut counts = Counts::default();
    while let Some(record) = receiver.recv().await {
        let Some(step) = counts.count(&record) else { continue };
        if let Err(error) = write(objects, &record, &step).await {
            // A namespace that is going away takes no events: nothing to tell anyone.
            tracing::debug!(reason = record.reason, %error, "event not written");
            counts.forget(&record);
        }
    }
}

/// How an event is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    name: String,
    count: i32,
    first: Timestamp,
}

async fn write(objects: &Objects, record: &Record, step: &Step) -> Result<(), crate::model::ApiError> {
    let event = event_of(record, step);
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let options = WriteOptions::controller(&record.component);
    if step.count > 1 {
        let patch = serde_json::json!({
            "count": step.count, "lastTimestamp": Time(record.time), "message": record.message,
        });
        let patched = objects
            .patch(Resource::EVENTS, Some(&namespace), &step.name, None, Patch::Merge(patch), &options)
            .await;
        match patched {
            // Expired meanwhile: told anew below.
            Err(error) if error.reason == Reason::NotFound => {}
            other => return other.map(|_| ()),
        }
    }
    let body = serde_json::to_value(&event)
        .map_err(|e| crate::model::ApiError::new(Reason::InternalError, e.to_string()))?;
    objects.create(Resource::EVENTS, Some(&namespace), body, &options).await.map(|_| ())
}

fn event_of(record: &Record, step: &Step) -> Event {
    let namespace = record.about.namespace.clone().filter(|n| !n.is_empty());
    Event {
        metadata: ObjectMeta {
            name: Some(step.name.clone()),
            namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: record.about.clone(),
        reason: Some(record.reason.clone()),
        message: Some(record.message.clone()),
        type_: Some(record.severity.as_str().to_owned()),
        count: Some(step.count),
        first_timestamp: Some(Time(step.first)),
        last_timestamp: Some(Time(record.time)),
        source: Some(EventSource { component: Some(record.component.clone()), host: record.host.clone() }),
        reporting_component: Some(record.component.clone()),
        reporting_instance: record.host.clone(),
        ..Event::default()
    }
}

/// What tells events apart, as a hash under keys that nobody else knows: the words of thousands are not kept.
type Same = Fingerprint;

/// Counts equal events and holds back an object that says too much.
#[derive(Default)]
struct Counts {
    known: HashMap<Same, Step>,
    order: VecDeque<Same>,
    budget: HashMap<Same, (u32, Timestamp)>,
    fingerprints: Fingerprints,
    /// Agents tell time in milliseconds: what happened in the same one must not get the same name.
    serial: i128,
}

impl Counts {
    fn count(&mut self, record: &Record) -> Option<Step> {
        if !self.allowed(record) {
            return None;
        }
        let same = self.same(record);
        if let Some(step) = self.known.get_mut(&same) {
            step.count += 1;
            return Some(step.clone());
        }
        let name = record.about.name.as_deref().unwrap_or("unknown");
        self.serial = (self.serial + 1) % 1_000_000;
        let moment = record.time.as_nanosecond() + self.serial;
        let step = Step { name: format!("{name}.{moment:x}"), count: 1, first: record.time };
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(same);
        self.known.insert(same, step.clone());
        Some(step)
    }

    fn forget(&mut self, record: &Record) {
        let same = self.same(record);
        self.known.remove(&same);
        self.order.retain(|known| *known != same);
    }

    fn allowed(&mut self, record: &Record) -> bool {
        if self.budget.len() > REMEMBERED {
            self.budget.clear();
        }
        let key = self.fingerprints.of(&(&record.about.uid, &record.component));
        let (left, since) = self.budget.entry(key).or_insert((BURST, record.time));
        let refill = record.time.duration_since(*since).as_secs() / REFILL.as_secs().cast_signed();
        if refill > 0 {
            *left = left.saturating_add(u32::try_from(refill).unwrap_or(u32::MAX)).min(BURST);
            *since = record.time;
        }
        let allowed = *left > 0;
        *left = left.saturating_sub(1);
        allowed
    }

    fn same(&self, record: &Record) -> Same {
        let about = &record.about;
        self.fingerprints.of(&(
            (&about.uid, &about.name, &about.field_path),
            (&record.component, &record.host),
            (&record.reason, &record.message, record.severity),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str, second: i64) -> Record {
        Record {
            about: ObjectReference {
                name: Some("web".to_owned()),
                namespace: Some("production".to_owned()),
                uid: Some("u1".to_owned()),
                ..ObjectReference::default()
            },
            severity: Severity::Normal,
            reason: "Scheduled".to_owned(),
            message: message.to_owned(),
            component: "default-scheduler".to_owned(),
            host: None,
            time: Timestamp::from_second(1_700_000_000 + second).unwrap(),
        }
    }

    #[test]
    fn events_of_one_moment_have_names_of_their_own() {
        let mut counts = Counts::default();
        let names = ["a", "b", "c"].map(|message| counts.count(&record(message, 1)).unwrap().name);
        assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2], "{names:?}");
    }

    #[test]
    fn equal_events_are_counted_under_one_name() {
        let mut counts = Counts::default();
        let first = counts.count(&record("a", 0)).unwrap();
        let second = counts.count(&record("a", 9)).unwrap();
        let other = counts.count(&record("b", 9)).unwrap();
        assert_eq!((first.count, second.count, other.count), (1, 2, 1));
        assert_eq!(first.name, second.name);
        assert_ne!(first.name, other.name);
        let event = event_of(&record("a", 9), &second);
        assert_eq!(event.metadata.namespace.as_deref(), Some("production"));
        assert_eq!(event.count, Some(2));
        assert_eq!(event.first_timestamp.map(|t| t.0), Some(first.first));
    }

    #[test]
    fn an_object_that_says_too_much_is_held_back_and_let_in_again() {
        let mut counts = Counts::default();
        let told = (0..100).filter(|n| counts.count(&record(&n.to_string(), 0)).is_some()).count();
        assert_eq!(told, BURST as usize);
        assert!(counts.count(&record("later", 301)).is_some());
        assert!(counts.count(&record("later still", 302)).is_none());
    }
}
