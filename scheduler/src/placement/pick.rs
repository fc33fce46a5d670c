//! The decision: which node a pod goes to, or why it goes nowhere. Of many nodes it looks at some, as upstream: enough
//! that fit, from where the last look ended. What it learned of a shape it remembers for the next equal pod.

use std::{collections::HashMap, sync::Arc};

use super::{
    class::Class,
    outcome::{Find, Unplaced},
    pod::PodView,
    snapshot::Snapshot,
};

/// Shapes that are remembered: pods come in runs of equals.
const CLASSES: usize = 16;
/// So many nodes that fit are always looked for.
const FEWEST: usize = 100;
/// The smallest share of nodes that is looked for, in percent.
const LEAST_SHARE: usize = 5;

/// Which nodes are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// As many as upstream's default: all below 100, from half to a twentieth of them above.
    Adaptive,
    /// All of them.
    Off,
}

impl Sampling {
    /// So many nodes that fit are enough, of so many.
    pub(super) fn enough(self, nodes: usize) -> usize {
        if self == Self::Off || nodes < FEWEST {
            return nodes;
        }
        let share = 50_usize.saturating_sub(nodes / 125).max(LEAST_SHARE);
        (nodes * share / 100).max(FEWEST)
    }
}

/// Decides, and remembers what the next decision can use.
pub struct Placer {
    sampling: Sampling,
    /// By the address of the shape, which the class keeps alive.
    classes: HashMap<usize, Class>,
    decisions: u64,
    turn: usize,
    cursor: usize,
}

impl Placer {
    /// One that remembers nothing. Of equally good nodes it takes the first from `turn` on in the order of nodes, and
    /// then the next, so that equals take turns.
    pub fn new(sampling: Sampling, turn: usize) -> Self {
        Self { sampling, classes: HashMap::new(), decisions: 0, turn, cursor: 0 }
    }

    /// Decides where a pod goes. It does not count there yet: [`Snapshot::set_pod`] is the caller's.
    ///
    /// # Errors
    /// Why no node would have it.
    pub fn decide(&mut self, snapshot: &mut Snapshot, pod: &PodView) -> Result<Arc<str>, Arc<Unplaced>> {
        let shape = &pod.shape;
        if snapshot.node_count() == 0 {
            return Err(Arc::default());
        }
        snapshot.sort();
        snapshot.index.forget_old();
        self.decisions += 1;
        let key = Arc::as_ptr(shape) as usize;
        if !self.classes.get_mut(&key).is_some_and(|class| class.update(snapshot)) {
            self.make_room(&key);
            let class = Class::new(snapshot, shape);
            self.classes.insert(key, class);
        }
        let mut find = Find {
            enough: self.sampling.enough(snapshot.node_count()),
            turn: self.turn,
            cursor: self.cursor,
        };
        let Some(class) = self.classes.get_mut(&key) else { return Err(Arc::default()) };
        class.used = self.decisions;
        let chosen = class.choose(snapshot, &mut find);
        self.cursor = find.cursor;
        let number = chosen?;
        self.turn = snapshot.position(number) + 1;
        match snapshot.node(number) {
            Some(node) => Ok(node.name.clone()),
            None => Err(Arc::default()),
        }
    }

    fn make_room(&mut self, key: &usize) {
        self.classes.remove(key);
        let oldest = self.classes.iter().min_by_key(|(_, class)| class.used).map(|(key, _)| *key);
        if let Some(oldest) = oldest.filter(|_| self.classes.len() >= CLASSES) {
            self.classes.remove(&oldest);
        }
    }
}
