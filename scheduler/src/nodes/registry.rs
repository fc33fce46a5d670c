//! The sessions that are open: at most one per node.
//!
//! A second session of one name displaces the first when it comes from the same agent (it reconnected) or from
//! the same boot of the same machine (the agent was restarted; its lock file keeps two from running). From
//! another boot it is taken only when the first has been silent for as long as a lease: a machine that was
//! restarted gets in, and a second machine that was given the name of a living one does not.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use gantry_proto::node::v1 as pb;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::projection::NodeName;

/// Which agent opened a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agent {
    pub(super) boot_id: String,
    pub(super) instance: String,
}

/// One open session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) node: NodeName,
    agent: Agent,
    opened: Instant,
    /// Milliseconds after `opened` of the agent's last message.
    heard: AtomicU64,
    /// Durable on the node.
    accepted: AtomicU64,
    /// In force on the node.
    programmed: AtomicU64,
    /// Kinds that its agent was sent and does not know; `None` until it acknowledged something.
    unknown: Mutex<Option<BTreeSet<i32>>>,
    /// For messages that do not come from the projection.
    pub(super) outbound: mpsc::Sender<pb::SchedulerMessage>,
    /// Cancelled when another session takes its place.
    pub(super) displaced: CancellationToken,
}

impl Session {
    /// The agent said something.
    pub(super) fn hear(&self) {
        let after = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(after, Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        self.opened.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }

    /// The agent said which kinds it does not know.
    pub(super) fn lacks(&self, kinds: BTreeSet<i32>) {
        // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
        *self.unknown.lock().unwrap_or_else(PoisonError::into_inner) = Some(kinds);
    }

    /// Kinds that the agent does not know, once it has acknowledged something.
    pub(super) fn unknown(&self) -> Option<BTreeSet<i32>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The agent acknowledged.
    pub(super) fn acknowledge(&self, accepted: u64, programmed: u64) {
        self.accepted.fetch_max(accepted, Ordering::Relaxed);
        self.programmed.fetch_max(programmed, Ordering::Relaxed);
    }
}

/// How far a node with a session has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) node: NodeName,
    /// The generation that is durable there.
    pub(super) accepted: u64,
    /// The generation that is in force there.
    pub(super) programmed: u64,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<NodeName, Arc<Session>>,
    /// The agent that was registered last under each name, for as long as this process runs.
    registered: HashMap<NodeName, Agent>,
}

/// All open sessions. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry(Arc<Mutex<State>>);

impl Registry {
    /// Opens a session, or says why not.
    pub(super) fn open(
        &self,
        node: &str,
        agent: Agent,
        outbound: mpsc::Sender<pb::SchedulerMessage>,
        lease: Duration,
    ) -> Result<Open, String> {
        let node: NodeName = node.into();
        let mut state = self.lock();
        let sessions = &mut state.sessions;
        if let Some(old) = sessions.get(&node) {
            let silent = old.silent_for();
            if old.agent.boot_id != agent.boot_id && silent < lease {
                return Err(format!(
                    "another machine serves node {node} and was heard {} s ago: give this one another name, \
                     or stop the agent there and wait {} s",
                    silent.as_secs(),
                    lease.as_secs()
                ));
            }
            old.displaced.cancel();
        }
        let session = Arc::new(Session {
            node: node.clone(),
            agent,
            opened: Instant::now(),
            heard: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            programmed: AtomicU64::new(0),
            unknown: Mutex::new(None),
            outbound,
            displaced: CancellationToken::new(),
        });
        sessions.insert(node, session.clone());
        Ok(Open { registry: self.clone(), session })
    }

    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of a node.
    pub(super) fn get(&self, node: &str) -> Option<Arc<Session>> {
        self.lock().sessions.get(node).cloned()
    }

    /// Whether this very process of the agent has registered the node before. One that has does not make the Node
    /// again when somebody deleted it; the next one, after a restart of the agent, does.
    pub(super) fn knows(&self, session: &Session) -> bool {
        self.lock().registered.get(&session.node) == Some(&session.agent)
    }

    /// The node is registered, by the agent of this session.
    pub(super) fn registered(&self, session: &Session) {
        self.lock().registered.insert(session.node.clone(), session.agent.clone());
    }

    /// How far each connected node has come.
    pub(super) fn progress(&self) -> Vec<Progress> {
        let progress = |session: &Arc<Session>| Progress {
            node: session.node.clone(),
            accepted: session.accepted.load(Ordering::Relaxed),
            programmed: session.programmed.load(Ordering::Relaxed),
        };
        self.lock().sessions.values().map(progress).collect()
    }

    fn close(&self, session: &Arc<Session>) {
        let sessions = &mut self.lock().sessions;
        if sessions.get(&session.node).is_some_and(|s| Arc::ptr_eq(s, session)) {
            sessions.remove(&session.node);
        }
    }
}

/// An open session; closes when dropped.
#[derive(Debug)]
pub(super) struct Open {
    registry: Registry,
    pub(super) session: Arc<Session>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.registry.close(&self.session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(boot: &str, instance: &str) -> Agent {
        Agent { boot_id: boot.to_owned(), instance: instance.to_owned() }
    }

    fn open(registry: &Registry, agent: Agent, lease: Duration) -> Result<Open, String> {
        registry.open("n", agent, mpsc::channel(1).0, lease)
    }

    #[test]
    fn a_restarted_agent_displaces_and_another_machine_waits() {
        let (registry, lease) = (Registry::default(), Duration::from_secs(40));
        let first = open(&registry, agent("boot-1", "a"), lease).unwrap();
        let restarted = open(&registry, agent("boot-1", "b"), lease).unwrap();
        assert!(first.session.displaced.is_cancelled());
        let refusal = open(&registry, agent("boot-2", "c"), lease).unwrap_err();
        assert!(refusal.contains("another machine serves node n"), "{refusal}");
        assert!(!restarted.session.displaced.is_cancelled());
        // Silent for longer than the lease: a machine that came back.
        let rebooted = open(&registry, agent("boot-2", "c"), Duration::ZERO).unwrap();
        assert!(restarted.session.displaced.is_cancelled());
        // The end of a displaced session does not close its successor.
        drop((first, restarted));
        assert!(registry.get("n").is_some_and(|s| Arc::ptr_eq(&s, &rebooted.session)));
        drop(rebooted);
        assert!(registry.get("n").is_none());
    }

    #[test]
    fn progress_is_what_a_node_acknowledged() {
        let registry = Registry::default();
        let open = open(&registry, agent("b", "i"), Duration::ZERO).unwrap();
        open.session.acknowledge(7, 5);
        let expected = Progress { node: "n".into(), accepted: 7, programmed: 5 };
        assert_eq!(registry.progress(), [expected]);
    }
}
