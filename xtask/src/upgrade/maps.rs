//! Whether the datapath's maps outlive the agents of an upgrade. The directory that they are pinned in is named by the
//! digest of their layout and by their sizes: where the name stays the maps stay, and with them every flow; where it
//! changes, new agents begin with empty ones.
//!
//! In: the pins of every node. Out: what they say. Never: a look into a map.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context, Result, ensure};

use super::NODES;
use crate::{cluster::Cluster, sh::sh};

/// The directories of maps, by node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Maps(BTreeMap<String, Vec<String>>);

impl Maps {
    /// Those that are pinned now. Each node has its own mount namespace, and its bpffs there.
    pub(super) fn of(cluster: &Cluster) -> Result<Self> {
        let mut maps = BTreeMap::new();
        for node in (1..=NODES).map(|i| cluster.layout.node(i)) {
            let inside = format!("--mount={}", node.mntns.display());
            let listed = sh("nsenter").arg(inside).args(["ls", "-1"]).arg(node.run.join("bpf")).text();
            let listed = listed.with_context(|| format!("cannot list the pins of {}", node.name))?;
            let names = directories(&listed);
            ensure!(!names.is_empty(), "no maps are pinned on {}: {listed:?}", node.name);
            maps.insert(node.name, names);
        }
        Ok(Self(maps))
    }

    /// What becomes of open connections when these are those of before and `now` those that are there.
    pub(super) fn fate(&self, now: &Self) -> Fate {
        let changed = |(node, before): (&String, &Vec<String>)| {
            let now = now.0.get(node).filter(|now| *now != before)?;
            Some(format!("{} became {} on {node}", before.join(" "), now.join(" ")))
        };
        let changes: Vec<String> = self.0.iter().filter_map(changed).collect();
        if changes.is_empty() { Fate::Kept } else { Fate::MayBreak(changes.join(", ")) }
    }
}

/// The directories of maps among the pins: `v`, the digest of their layout, and their sizes.
fn directories(listed: &str) -> Vec<String> {
    let is_one = |name: &&str| {
        let digest = name.strip_prefix('v').and_then(|rest| rest.split_once('-')).map(|(digest, _)| digest);
        digest.is_some_and(|digest| digest.len() == 8 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    listed.lines().filter(is_one).map(str::to_owned).collect()
}

/// What becomes of open connections whose packets are translated one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The maps are those of before: none may break.
    Kept,
    /// They are others, as is said: each flow chooses a backend again (ADR 19), which may break it once on each node.
    MayBreak(String),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("none may break: the datapath's maps are those of before"),
            Self::MayBreak(how) => write!(f, "some may break: the datapath's maps are others, {how}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(first: &str, second: &str) -> Maps {
        let of = |listed: &str| directories(listed);
        Maps([("node-1".to_owned(), of(first)), ("node-2".to_owned(), of(second))].into())
    }

    #[test]
    fn connections_may_break_where_the_layout_is_another_and_nowhere_else() {
        let before = "links\nprograms\nv6f00d1e5-65536-131072-65536-131072-4096";
        let after = "links\nv00c0ffee-65536-131072-65536-131072-4096";
        assert_eq!(directories(before), ["v6f00d1e5-65536-131072-65536-131072-4096"]);
        assert_eq!(directories("links\nv1\nversions-1\n"), [""; 0]);
        let then = maps(before, before);
        assert_eq!(then.fate(&maps(before, before)), Fate::Kept);
        let told = then.fate(&maps(before, after)).to_string();
        assert!(
            told.starts_with("some may break") && told.contains("v6f00d1e5") && told.contains("v00c0ffee")
        );
        assert!(told.ends_with(" on node-2") && !told.contains("node-1"), "{told}");
    }
}
