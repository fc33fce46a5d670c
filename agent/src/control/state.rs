//! The desired state as it comes in: updates into a working copy, into the ledger, and out to the reconcilers.
//!
//! Pods and what they refer to are durable before anyone sees them; the service table is shown at once and
//! written soon after. Until a snapshot is complete nothing of it is shown: half a snapshot would stop the pods
//! of the other half.
//!
//! A start resumes where the ledger ends only when this agent understands of it just what the one understood that wrote
//! it; after any other it says that it has accepted nothing, and is sent everything again.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use gantry_proto::node::v1 as pb;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    convert::{ConvertError, KINDS, Kind},
    ledger::{Draft, Ledger, LedgerError, Section},
    objects::{Objects, Taken},
};
use crate::model::{Chain, ClusterNetwork, Desired, FailedObject};

/// What a section of the ledger holds: 2, updates as they came, of services and their slices apart; 1, of services with
/// their endpoints alone. Before there was a number, the objects as an agent had understood them.
///
/// An agent of before had the whole of a service from each change; one that resumed behind it would be sent slices, and
/// have nothing to put them into.
const SCHEMA: u32 = 2;

/// What precedes a section's objects.
#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(default)]
    schema: u32,
    epoch: u64,
    generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network: Option<ClusterNetwork>,
}

/// A section as it was read.
struct Read {
    header: Header,
    /// All that was sent is in it, and understood as it was then.
    whole: bool,
}

/// How far something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) epoch: u64,
    pub(super) generation: u64,
}

impl Mark {
    fn of(desired: &Desired) -> Self {
        Self { epoch: desired.epoch, generation: desired.generation }
    }

    /// Generations of another epoch say nothing in this one.
    pub(super) fn within(self, epoch: u64) -> u64 {
        if self.epoch == epoch { self.generation } else { 0 }
    }
}

/// The scheduler goes on where this agent has not been.
#[derive(Debug, thiserror::Error)]
#[error("it goes on after generation {} of epoch {}, and not in epoch {epoch}", .at.generation, .at.epoch)]
pub struct ResumeError {
    at: Mark,
    epoch: u64,
}

/// The desired state of one agent.
pub(super) struct State {
    ledger: Arc<Ledger>,
    kinds: &'static [Kind],
    current: Objects,
    /// A snapshot that is coming in.
    staging: Option<Objects>,
    network: Option<ClusterNetwork>,
    work_dirty: bool,
    table_dirty: bool,
    shown: bool,
    durable: Mark,
    desired: watch::Sender<Arc<Desired>>,
    networks: watch::Sender<Option<ClusterNetwork>>,
}

impl State {
    /// What the ledger has.
    pub(super) fn load(ledger: Arc<Ledger>) -> Result<Self, LedgerError> {
        Self::knowing(&KINDS, ledger)
    }

    fn knowing(kinds: &'static [Kind], ledger: Arc<Ledger>) -> Result<Self, LedgerError> {
        let mut current = Objects::empty(kinds, Desired::default());
        let work = section(&ledger, Section::Work, &mut current)?;
        let table = section(&ledger, Section::Table, &mut current)?;
        let network = work.as_ref().and_then(|work| work.header.network.clone());
        if let (Some(work), Some(table)) = (work, table)
            && work.whole
            && table.whole
            && work.header.epoch == table.header.epoch
        {
            current.reached(work.header.epoch, work.header.generation.min(table.header.generation));
        }
        let desired = current.desired().clone();
        Ok(Self {
            durable: Mark::of(&desired),
            ledger,
            kinds,
            current,
            staging: None,
            work_dirty: false,
            table_dirty: false,
            shown: true,
            desired: watch::Sender::new(desired),
            networks: watch::Sender::new(network.clone()),
            network,
        })
    }

    pub(super) fn desired(&self) -> watch::Receiver<Arc<Desired>> {
        self.desired.subscribe()
    }

    pub(super) fn networks(&self) -> watch::Receiver<Option<ClusterNetwork>> {
        self.networks.subscribe()
    }

    /// Where a session is to go on.
    pub(super) fn accepted(&self) -> Mark {
        Mark::of(self.current.desired())
    }

    /// What would survive a power cut.
    pub(super) fn durable(&self) -> Mark {
        self.durable
    }

    pub(super) fn table_dirty(&self) -> bool {
        self.table_dirty
    }

    /// A session begins: with a snapshot in `epoch`, or where the last one ended.
    pub(super) fn begin(&mut self, epoch: u64, snapshot: bool) -> Result<(), ResumeError> {
        self.staging = None;
        if snapshot {
            // A snapshot tells of all services, be it that there are none.
            let desired = Desired { epoch, table: Some(Arc::default()), ..Desired::default() };
            self.staging = Some(Objects::empty(self.kinds, desired));
        } else if self.accepted().epoch != epoch || epoch == 0 {
            return Err(ResumeError { at: self.accepted(), epoch });
        }
        Ok(())
    }

    /// Objects whose last update was not understood.
    pub(super) fn failed(&self) -> Vec<FailedObject> {
        self.current.failed()
    }

    /// Kinds of which updates are kept that this agent does not know.
    pub(super) fn unknown_kinds(&self) -> BTreeSet<i32> {
        self.current.unknown_kinds()
    }

    /// The cluster's ranges, from the hello.
    pub(super) fn set_network(&mut self, network: ClusterNetwork) {
        if self.network.as_ref() != Some(&network) {
            self.network = Some(network);
            self.work_dirty = true;
            self.shown = false;
        }
    }

    /// Takes one update, as it came. Those of a generation that is there already are left out.
    pub(super) fn apply(&mut self, raw: &Bytes) -> Result<Taken, ConvertError> {
        let update = pb::Update::decode(raw.clone()).map_err(ConvertError::Update)?;
        if let Some(staging) = &mut self.staging {
            return Ok(staging.take(raw, update, Some(&self.current)).1);
        }
        let (generation, at) = (update.generation, self.accepted());
        if generation <= at.generation {
            tracing::warn!(generation, have = at.generation, "stale update ignored");
            return Ok(Taken::Done);
        }
        let (section, taken) = self.current.take(raw, update, None);
        self.current.reached(at.epoch, generation);
        match section {
            Section::Work => self.work_dirty = true,
            Section::Table => self.table_dirty = true,
        }
        self.shown = false;
        Ok(taken)
    }

    /// The snapshot is complete: it replaces everything.
    pub(super) fn end_snapshot(&mut self, generation: u64) {
        if let Some(mut complete) = self.staging.take() {
            complete.reached(complete.desired().epoch, generation);
            complete.join();
            self.current = complete;
            (self.work_dirty, self.table_dirty, self.shown) = (true, true, false);
        }
    }

    /// Makes what came in durable and shows it.
    pub(super) async fn commit(&mut self) {
        if self.staging.is_some() || self.shown {
            return;
        }
        self.current.join();
        if self.work_dirty {
            self.work_dirty = !self.store(Section::Work).await;
        }
        self.note_durable();
        self.shown = true;
        self.networks.send_if_modified(|shown| {
            let changed = *shown != self.network;
            shown.clone_from(&self.network);
            changed
        });
        self.desired.send_replace(self.current.desired().clone());
    }

    /// Writes the service table, if it changed.
    pub(super) async fn flush_table(&mut self) {
        if self.table_dirty {
            self.table_dirty = !self.store(Section::Table).await;
            self.note_durable();
        }
    }

    fn note_durable(&mut self) {
        if !self.work_dirty && !self.table_dirty {
            self.durable = self.accepted();
        }
    }

    /// Whether the section is durable now. A disk that refuses must not keep pods from starting: it is said
    /// loudly, and tried again with the next change.
    async fn store(&self, section: Section) -> bool {
        let (ledger, objects, network) = (self.ledger.clone(), self.current.clone(), self.network.clone());
        let written = tokio::task::spawn_blocking(move || {
            let network = network.filter(|_| section == Section::Work);
            let Mark { epoch, generation } = Mark::of(objects.desired());
            let header = Header { schema: SCHEMA, epoch, generation, network };
            let mut draft = Draft::new();
            frame(&header, draft.content());
            objects.encode(section, draft.content());
            ledger.store(section, draft)
        });
        match written.await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(error = %Chain(&error), "ledger not written");
                false
            }
            Err(_) => false,
        }
    }
}

fn frame(header: &Header, out: &mut Vec<u8>) {
    // Plain numbers and addresses: always serialise.
    let header = serde_json::to_vec(header).unwrap_or_default();
    let length = u32::try_from(header.len()).unwrap_or(0);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&header);
}

/// Reads a section into `objects`, all of it or nothing: half of the pods would look like a wish to be rid of the
/// others. The scheduler sends a snapshot then.
fn section(ledger: &Ledger, section: Section, objects: &mut Objects) -> Result<Option<Read>, LedgerError> {
    let Some(content) = ledger.load(section)? else { return Ok(None) };
    let mut scratch = objects.clone();
    match parse(section, content.into(), &mut scratch) {
        Ok(read) => {
            *objects = scratch;
            Ok(Some(read))
        }
        Err(error) => {
            tracing::error!(?section, error = %Chain(&error), "ledger not understood");
            Ok(None)
        }
    }
}

fn parse(section: Section, mut content: Bytes, objects: &mut Objects) -> Result<Read, ConvertError> {
    let mut cut = |length| (length <= content.len()).then(|| content.split_to(length));
    let size = cut(4).and_then(|size| <[u8; 4]>::try_from(&*size).ok()).ok_or(ConvertError::Ledger)?;
    let size = usize::try_from(u32::from_le_bytes(size)).map_err(|_| ConvertError::Ledger)?;
    let header = cut(size).ok_or(ConvertError::Ledger)?;
    let header: Header = serde_json::from_slice(&header).map_err(|_| ConvertError::Ledger)?;
    if section == Section::Table {
        objects.know_table();
    }
    let differs = objects.decode(content)?;
    Ok(Read { whole: header.schema == SCHEMA && !differs, header })
}

#[cfg(test)]
mod tests;
