//! The objects that a node was sent: what this agent makes of them, and each as it came.
//!
//! An update is kept byte for byte, so that an agent which knows more reads more out of it: a field, or a kind, that
//! this one does not know is in the ledger all the same. One that is not understood is no wish to be rid of its object:
//! what was accepted of it before stays in force, and the update waits beside it for an agent that understands it.
//!
//! A service and its slices come apart and are shown together: of each service of which a part came, all parts are put
//! together once, before anything is shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use gantry_proto::node::v1 as pb;
use prost::Message;

use super::{
    convert::{ConvertError, Identity, Kind, Put},
    ledger::Section,
};
use crate::model::{Chain, Desired, FailedObject, PodUid};

/// An update that is kept and not understood.
#[derive(Clone, Debug)]
struct Refused {
    uid: Arc<str>,
    generation: u64,
    raw: Bytes,
    why: Why,
}

#[derive(Clone, Debug)]
enum Why {
    UnknownKind,
    NotUnderstood(String),
}

/// What became of an update.
#[derive(Debug)]
pub(super) enum Taken {
    /// The desired state has it.
    Done,
    /// Its kind is unknown; `first`: no other of the kind is kept.
    UnknownKind { id: Identity, first: bool },
    /// It is kept, and the object stays as it was.
    NotUnderstood { id: Identity, error: ConvertError },
}

/// A message of the ledger that decodes as an update of no kind, for agents that know nothing of refused ones.
#[derive(Clone, PartialEq, Message)]
struct Mark {
    #[prost(bytes = "bytes", optional, tag = "15")]
    refused: Option<Bytes>,
}

/// See the module. Cheap to clone: the ledger writes a copy while the original goes on.
#[derive(Clone)]
pub(super) struct Objects {
    kinds: &'static [Kind],
    desired: Arc<Desired>,
    /// What `desired` was made from.
    accepted: Arc<BTreeMap<Identity, Bytes>>,
    /// The latest update of each name that is not understood.
    refused: Arc<BTreeMap<Identity, Refused>>,
    /// Services of which parts came or went since all of them were put together.
    parted: BTreeSet<Identity>,
}

impl Objects {
    /// None; `desired` says of which epoch, and whether there is a table.
    pub(super) fn empty(kinds: &'static [Kind], desired: Desired) -> Self {
        let (accepted, refused) = (Arc::default(), Arc::default());
        Self { kinds, desired: Arc::new(desired), accepted, refused, parted: BTreeSet::new() }
    }

    pub(super) fn desired(&self) -> &Arc<Desired> {
        &self.desired
    }

    /// The objects are as `epoch` has them at `generation`.
    pub(super) fn reached(&mut self, epoch: u64, generation: u64) {
        let desired = Arc::make_mut(&mut self.desired);
        (desired.epoch, desired.generation) = (epoch, generation);
    }

    /// Of services and other nodes all are known, be it that there are none.
    pub(super) fn know_table(&mut self) {
        Arc::make_mut(&mut self.desired).table_mut();
    }

    /// Takes one update, of which `raw` is all that came. What is not understood leaves its object as `before` has it,
    /// when these objects are to replace those.
    pub(super) fn take(
        &mut self,
        raw: &Bytes,
        update: pb::Update,
        before: Option<&Self>,
    ) -> (Section, Taken) {
        let id = Identity::of(&update);
        let Some(kind) = self.kind(id.kind) else {
            if update.removed {
                self.understood(&id, true);
                return (Section::Table, Taken::Done);
            }
            let first = !self.refused.keys().any(|known| known.kind == id.kind);
            self.refuse(&id, update.generation, raw, Why::UnknownKind);
            return (Section::Table, Taken::UnknownKind { id, first });
        };
        let (generation, removed) = (update.generation, update.removed);
        let taken = if removed {
            self.understood(&id, true);
            Arc::make_mut(&mut self.accepted).remove(&key(kind, &id));
            kind.remove(&id, Arc::make_mut(&mut self.desired));
            self.parted.extend(id.whole());
            Taken::Done
        } else {
            match self.put(kind, &id, update, raw) {
                Ok(()) => {
                    self.understood(&id, false);
                    Taken::Done
                }
                Err(error) => {
                    if let Some(before) = before {
                        self.keep(kind, &id, before);
                    }
                    let why = Why::NotUnderstood(Chain(&error).to_string());
                    self.refuse(&id, generation, raw, why);
                    Taken::NotUnderstood { id, error }
                }
            }
        };
        (kind.section, taken)
    }

    fn kind(&self, wire: i32) -> Option<&'static Kind> {
        self.kinds.iter().find(|kind| kind.wire == wire)
    }

    fn put(
        &mut self,
        kind: &Kind,
        id: &Identity,
        update: pb::Update,
        raw: &Bytes,
    ) -> Result<(), ConvertError> {
        let put = kind.read(id, update)?;
        put(Arc::make_mut(&mut self.desired));
        // A copy: what came is a part of a larger buffer, which it would hold on to.
        Arc::make_mut(&mut self.accepted).insert(key(kind, id), Bytes::copy_from_slice(raw));
        self.parted.extend(id.whole());
        Ok(())
    }

    /// Puts services together with their slices: what is desired is whole after it.
    pub(super) fn join(&mut self) {
        for service in std::mem::take(&mut self.parted) {
            match self.joined(&service) {
                Ok(Some(put)) => put(Arc::make_mut(&mut self.desired)),
                Ok(None) => {}
                // Its parts were understood, each by itself.
                Err(error) => {
                    let (namespace, name) = (&*service.namespace, &*service.name);
                    tracing::error!(namespace, name, error = %Chain(&error), "service not put together");
                }
            }
        }
    }

    /// A service with its slices; `None` when there is none, or none that came apart from them.
    fn joined(&self, id: &Identity) -> Result<Option<Put>, ConvertError> {
        use pb::update::Body;
        let Some(raw) = self.accepted.get(id) else { return Ok(None) };
        let pb::Update { mut generation, body, .. } = decoded(raw)?;
        let Some((kind, Body::Service(service))) = self.kind(id.kind).zip(body) else { return Ok(None) };
        if !service.sliced {
            return Ok(None);
        }
        let first = id.first_slice();
        let parts = self.accepted.range(&first..).take_while(|(part, _)| {
            (part.kind, &part.namespace) == (first.kind, &first.namespace)
                && part.name.starts_with(&*first.name)
        });
        let mut slices = Vec::new();
        for (_, raw) in parts {
            let update = decoded(raw)?;
            generation = generation.max(update.generation);
            slices.extend(update.body.and_then(|body| match body {
                Body::EndpointSlice(slice) => Some(slice),
                _ => None,
            }));
        }
        let body = Some(Body::Service(gantry_proto::joined(service, slices.iter())));
        kind.read(id, pb::Update { generation, body, ..pb::Update::default() }).map(Some)
    }

    /// The object as it was accepted before. By uid, or by name where the uid did not arrive either.
    fn keep(&mut self, kind: &Kind, id: &Identity, before: &Self) {
        let any = id.uid.is_empty();
        let named = before.accepted.range(id.named()..).take_while(|(known, _)| known.named() == id.named());
        for (known, raw) in named.filter(|(known, _)| any || !kind.by_uid || known.uid == id.uid) {
            // Accepted before, it is understood again.
            if let Ok(update) = pb::Update::decode(raw.clone()) {
                let _ = self.put(kind, known, update, raw);
            }
        }
    }

    fn refuse(&mut self, id: &Identity, generation: u64, raw: &Bytes, why: Why) {
        let refused = Refused { uid: id.uid.clone(), generation, raw: Bytes::copy_from_slice(raw), why };
        Arc::make_mut(&mut self.refused).insert(id.named(), refused);
        self.note_held();
    }

    /// Nothing of that name waits any longer. A removal is of one uid.
    fn understood(&mut self, id: &Identity, removed: bool) {
        let Some(refused) = self.refused.get(&id.named()) else { return };
        if removed && !refused.uid.is_empty() && !id.uid.is_empty() && refused.uid != id.uid {
            return;
        }
        Arc::make_mut(&mut self.refused).remove(&id.named());
        self.note_held();
    }

    /// Pods that are wanted in a way that is not understood.
    fn note_held(&mut self) {
        let pods = self.refused.iter().filter(|(id, _)| id.kind == pb::ObjectKind::Pod as i32);
        let held: BTreeSet<PodUid> = pods.map(|(_, refused)| PodUid::new(Arc::clone(&refused.uid))).collect();
        if held != self.desired.held {
            Arc::make_mut(&mut self.desired).held = held;
        }
    }

    /// Objects whose latest update is not understood.
    pub(super) fn failed(&self) -> Vec<FailedObject> {
        let told = |(id, refused): (&Identity, &Refused)| {
            let Why::NotUnderstood(message) = &refused.why else { return None };
            Some(FailedObject {
                kind: self.kind(id.kind)?.told,
                namespace: id.namespace.to_string(),
                name: id.name.to_string(),
                generation: refused.generation,
                message: message.clone(),
            })
        };
        self.refused.iter().filter_map(told).collect()
    }

    /// Kinds of which updates are kept that this agent does not know, as they are on the wire.
    pub(super) fn unknown_kinds(&self) -> BTreeSet<i32> {
        let unknown = self.refused.iter().filter(|(_, refused)| matches!(refused.why, Why::UnknownKind));
        unknown.map(|(id, _)| id.kind).collect()
    }

    /// Appends what a section of the ledger has: updates as they came, each with its length before it.
    pub(super) fn encode(&self, section: Section, out: &mut Vec<u8>) {
        let of = |id: &Identity| self.kind(id.kind).map_or(Section::Table, |kind| kind.section) == section;
        for (_, raw) in self.accepted.iter().filter(|(id, _)| of(id)) {
            prost::encoding::encode_varint(raw.len() as u64, out);
            out.extend_from_slice(raw);
        }
        for (_, refused) in self.refused.iter().filter(|(id, _)| of(id)) {
            // A Vec grows as needed: encoding into it cannot fail.
            let _ = Mark { refused: Some(refused.raw.clone()) }.encode_length_delimited(out);
        }
    }

    /// Adds what [`Objects::encode`] wrote. True when this agent knows kinds, or understands updates, that the one which
    /// wrote it did not, or the other way about.
    ///
    /// An error means that nothing of it may be used: what was accepted must be understood, or half of the pods would
    /// look like a wish to be rid of the others.
    pub(super) fn decode(&mut self, mut content: Bytes) -> Result<bool, ConvertError> {
        let (mut refused, mut differs) = (Vec::new(), false);
        while content.has_remaining() {
            let raw = prost::decode_length_delimiter(&mut content)
                .ok()
                .filter(|length| *length <= content.len())
                .map(|length| content.split_to(length))
                .ok_or(ConvertError::Ledger)?;
            match Mark::decode(raw.clone()).map_err(|_| ConvertError::Ledger)?.refused {
                Some(raw) => refused.push(raw),
                None => match self.take(&raw, decoded(&raw)?, None) {
                    (_, Taken::Done) => {}
                    (_, Taken::UnknownKind { .. }) => differs = true,
                    (_, Taken::NotUnderstood { error, .. }) => return Err(error),
                },
            }
        }
        // After what was accepted, which they would replace.
        for raw in refused {
            differs |= matches!(self.take(&raw, decoded(&raw)?, None), (_, Taken::Done));
        }
        self.join();
        Ok(differs)
    }
}

fn decoded(raw: &Bytes) -> Result<pb::Update, ConvertError> {
    pb::Update::decode(raw.clone()).map_err(|_| ConvertError::Ledger)
}

fn key(kind: &Kind, id: &Identity) -> Identity {
    if kind.by_uid { id.clone() } else { id.named() }
}
