//! What is news in an acknowledgement: objects that a node could not take up, kinds that its agent does not know. Each is
//! told once, although every acknowledgement repeats it. Pure.

use std::collections::BTreeSet;

use gantry_proto::node::v1 as pb;

/// The condition of a node whose agent was sent what it does not know.
pub(super) const OUTDATED: &str = "AgentOutdated";

/// What the acknowledgements of a session have said.
#[derive(Debug, Default)]
pub(super) struct Acks {
    failing: BTreeSet<(i32, String, String, String)>,
    unknown: BTreeSet<i32>,
}

/// What one of them says that those before did not.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Objects that are not as they should be.
    pub(super) failed: Vec<pb::Failed>,
    /// The names of kinds that the agent does not know.
    pub(super) unknown: Option<String>,
}

impl Acks {
    /// What is news in it.
    pub(super) fn take(&mut self, ack: &pb::Ack) -> News {
        let key = |f: &pb::Failed| (f.kind, f.namespace.clone(), f.name.clone(), f.message.clone());
        let failed =
            ack.failed.iter().filter(|failed| !self.failing.contains(&key(failed))).cloned().collect();
        self.failing = ack.failed.iter().map(key).collect();
        let now: BTreeSet<i32> = ack.unknown_kinds.iter().copied().collect();
        let unknown = (!now.is_subset(&self.unknown)).then(|| names(&now));
        self.unknown = now;
        News { failed, unknown }
    }
}

/// Kinds by their names, those without one by their numbers.
fn names(kinds: &BTreeSet<i32>) -> String {
    let name = |kind: &i32| {
        pb::ObjectKind::try_from(*kind)
            .map_or_else(|_| format!("kind {kind}"), |kind| kind.as_str_name().to_owned())
    };
    kinds.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The node's condition by what its agent does not know.
pub(super) fn condition(unknown: &BTreeSet<i32>, release: &str) -> pb::NodeCondition {
    let (status, reason, message) = if unknown.is_empty() {
        ("False", "AllKindsKnown", "gantry-agent knows everything that it was sent".to_owned())
    } else {
        ("True", "UnknownKinds", lacking(&names(unknown), release))
    };
    pb::NodeCondition {
        r#type: OUTDATED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
    }
}

/// What to tell people of it.
pub(super) fn lacking(names: &str, release: &str) -> String {
    format!(
        "gantry-agent {release} does not know {names}: it keeps what it was sent, which takes effect when the agent is \
         upgraded"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_ack_repeats_is_told_once() {
        let failed = |name: &str, message: &str| pb::Failed {
            kind: pb::ObjectKind::Service.into(),
            name: name.into(),
            message: message.into(),
            ..Default::default()
        };
        let mut acks = Acks::default();
        let mut told = |failed: &[pb::Failed], unknown_kinds: &[i32]| {
            let ack = pb::Ack {
                failed: failed.to_vec(),
                unknown_kinds: unknown_kinds.to_vec(),
                ..Default::default()
            };
            let News { failed, unknown } = acks.take(&ack);
            (failed.into_iter().map(|f| f.name).collect::<Vec<_>>(), unknown)
        };
        let a = failed("a", "full");
        assert_eq!(told(std::slice::from_ref(&a), &[99]), (vec!["a".to_owned()], Some("kind 99".to_owned())));
        assert_eq!(told(&[a.clone(), failed("b", "full")], &[99]), (vec!["b".to_owned()], None));
        assert_eq!(
            told(&[failed("a", "other")], &[99, 4]),
            (vec!["a".to_owned()], Some("SERVICE, kind 99".to_owned()))
        );
        assert_eq!(told(&[], &[99]), (Vec::new(), None));
        assert_eq!(told(&[a], &[]), (vec!["a".to_owned()], None), "again, after it was well");
        assert_eq!(told(&[], &[99]).1, Some("kind 99".to_owned()));
    }

    #[test]
    fn the_condition_names_what_is_not_known() {
        let outdated = condition(&[99].into(), "0.1.0");
        assert_eq!((outdated.status.as_str(), outdated.reason.as_str()), ("True", "UnknownKinds"));
        assert!(
            outdated.message.starts_with("gantry-agent 0.1.0 does not know kind 99"),
            "{}",
            outdated.message
        );
        assert_eq!(condition(&BTreeSet::new(), "0.1.0").status, "False");
    }
}
