//! When a machine runs short: the thresholds, and the node conditions that say whether one is crossed. What is free
//! comes from `Host`. Never acts on it: the scheduler keeps new pods away.

use std::path::Path;

use super::Host;
use crate::model::NodeCondition;

/// How little may be free of something: an amount of it, or a share of all there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// In its own unit: bytes, processes.
    Amount(u64),
    /// From 0 to 1.
    Share(f64),
}

impl Threshold {
    /// Whether `free` of `all` is less than it.
    fn crossed(self, free: u64, all: u64) -> bool {
        match self {
            Self::Amount(least) => free < least,
            Self::Share(least) => share(free, all) < least,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than a double has")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// What must be free of each. The default is what the kubelet evicts at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Memory, in bytes.
    pub memory: Threshold,
    /// The file system of the state directory, in bytes.
    pub disk: Threshold,
    /// Process ids.
    pub pids: Threshold,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            memory: Threshold::Amount(100 << 20),
            disk: Threshold::Share(0.1),
            pids: Threshold::Share(0.05),
        }
    }
}

impl Thresholds {
    /// The pressure conditions that upstream's nodes have, from what is free now. What cannot be read is not short.
    pub fn conditions(&self, host: &Host, state_dir: &Path) -> Vec<NodeCondition> {
        let short = |what: Option<(u64, u64)>, least: Threshold| {
            what.is_some_and(|(all, free)| least.crossed(free, all))
        };
        vec![
            condition(
                "MemoryPressure",
                short(host.memory(), self.memory),
                ["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"],
                "memory",
            ),
            condition(
                "DiskPressure",
                short(Host::disk(state_dir), self.disk),
                ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"],
                "disk space",
            ),
            condition(
                "PIDPressure",
                short(host.pids(), self.pids),
                ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"],
                "PID",
            ),
        ]
    }
}

fn condition(kind: &str, pressed: bool, reasons: [&str; 2], what: &str) -> NodeCondition {
    let state = if pressed { "insufficient" } else { "sufficient" };
    NodeCondition {
        kind: kind.to_owned(),
        status: if pressed { "True" } else { "False" }.to_owned(),
        reason: reasons[usize::from(!pressed)].to_owned(),
        message: format!("the node has {state} {what} available"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_the_threshold_is_pressure_and_the_threshold_itself_is_not() {
        assert!(Threshold::Amount(10).crossed(9, 1000) && !Threshold::Amount(10).crossed(10, 1000));
        assert!(Threshold::Share(0.1).crossed(99, 1000) && !Threshold::Share(0.1).crossed(100, 1000));
        assert!(!Threshold::Share(0.0).crossed(0, 1000) && !Threshold::Amount(0).crossed(0, 1000));
    }

    #[test]
    fn a_full_disk_is_under_pressure_only_below_what_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (all, _) = Host::disk(dir.path()).unwrap();
        let disk = |least| {
            let thresholds = Thresholds { disk: least, ..Thresholds::default() };
            let conditions = thresholds.conditions(&Host::new(), dir.path());
            conditions.iter().find(|c| c.kind == "DiskPressure").unwrap().status.clone()
        };
        assert_eq!(
            (disk(Threshold::Amount(all + 1)), disk(Threshold::Amount(0))),
            ("True".into(), "False".into())
        );
    }
}
