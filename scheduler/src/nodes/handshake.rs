//! Whether two versions of the protocol can talk: the same major, minors at most one apart. Pure.

use gantry_proto::node::v1 as pb;

use super::projection::Form;

/// What this scheduler speaks.
pub(crate) const PROTOCOL: pb::Version = pb::Version { major: 1, minor: 1 };

/// Since when agents put services and their slices together themselves.
const SLICES: u32 = 1;

/// In which form an agent of this version, which was not refused, is told services.
pub(crate) fn form(agent: Option<pb::Version>) -> Form {
    if agent.is_some_and(|agent| agent.minor >= SLICES) { Form::Apart } else { Form::Whole }
}

/// `None` when the two can talk; else what to tell the agent's operator.
pub(crate) fn refusal(ours: pb::Version, agent: Option<pb::Version>, agent_release: &str) -> Option<String> {
    let Some(theirs) = agent else {
        return Some(
            "the agent did not say which protocol version it speaks: upgrade gantry-agent".to_owned(),
        );
    };
    if theirs.major == ours.major && theirs.minor.abs_diff(ours.minor) <= 1 {
        return None;
    }
    let older_agent = (theirs.major, theirs.minor) < (ours.major, ours.minor);
    let advice = if older_agent {
        "upgrade gantry-agent on this node, one minor version at a time"
    } else {
        "upgrade gantry-scheduler before the agents"
    };
    Some(format!(
        "gantry-agent {agent_release} speaks node protocol {}.{}, this scheduler speaks {}.{}; versions may \
         differ by one minor: {advice}",
        theirs.major, theirs.minor, ours.major, ours.minor
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn v(major: u32, minor: u32) -> pb::Version {
        pb::Version { major, minor }
    }

    #[test]
    fn neighbours_talk_and_others_are_told_what_to_do() {
        let ours = v(1, 5);
        for minor in 4..=6 {
            assert_eq!(refusal(ours, Some(v(1, minor)), "x"), None);
        }
        assert!(refusal(ours, Some(v(1, 3)), "0.1").is_some_and(|t| t.contains("upgrade gantry-agent")));
        assert!(refusal(ours, Some(v(1, 7)), "0.9").is_some_and(|t| t.contains("upgrade gantry-scheduler")));
        assert!(refusal(ours, Some(v(2, 5)), "2.0").is_some_and(|t| t.contains("upgrade gantry-scheduler")));
        assert!(refusal(ours, None, "").is_some());
    }

    #[test]
    fn an_agent_of_before_is_told_whole_services() {
        assert_eq!(form(Some(v(1, 0))), Form::Whole);
        assert_eq!(form(Some(v(1, 1))), Form::Apart);
        assert_eq!(form(Some(v(1, 2))), Form::Apart);
    }
}
