//! Ports that no socket of the node may be given by chance: those that the datapath puts in place of a source port, and
//! the NodePorts. A connection of the node's own from one of them would get answers that are for a pod, or lose its own,
//! which the kernel's usual range for such connections only prevents until somebody widens it.
//!
//! In: what should be reserved. Out: `ip_local_reserved_ports` of the network namespace that this thread is in, with
//! what an administrator put there left as it is; and a note of what was added, so that exactly that can be given back.
//! Never: a socket that asks for such a port by its number is refused.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use agent_ebpf_common::abi::SNAT_PORTS;

use super::{NetError, namespaces::write_file};
use crate::durable::{self, Against};

/// The kernel's list. Of the network namespace of the thread that opens it.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// A set of ports: ranges in order, with a gap between each two. Written as the kernel writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ports(Vec<(u16, u16)>);

impl Ports {
    fn of(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        ranges.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    fn and(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied())
    }

    fn without(&self, other: &Self) -> Self {
        let mut left = self.0.clone();
        for &(first, last) in &other.0 {
            let outside = |(from, to): (u16, u16)| {
                let before = first.checked_sub(1).map(|end| (from, to.min(end)));
                let after = last.checked_add(1).map(|start| (from.max(start), to));
                before.into_iter().chain(after).filter(|(from, to)| from <= to)
            };
            left = left.into_iter().flat_map(outside).collect();
        }
        Self::of(left)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

impl FromStr for Ports {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let range = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Ok((first.parse()?, last.parse()?))
        };
        let ranges = text.trim().split(',').filter(|range| !range.is_empty()).map(range);
        let ranges = ranges.collect::<Result<Vec<_>, std::num::ParseIntError>>();
        Ok(Self::of(ranges.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?))
    }
}

/// The list, and the note of what was added to it.
#[derive(Debug)]
pub(super) struct Reserved {
    list: PathBuf,
    /// Emptied by a reboot, as the list is.
    note: PathBuf,
}

impl Reserved {
    pub(super) fn new(note: PathBuf) -> Self {
        Self { list: RESERVED.into(), note }
    }

    /// Adds what is missing. Costs one read where nothing is.
    pub(super) fn ensure(&self, node_ports: (u16, u16)) -> Result<(), NetError> {
        let wanted = Ports::of([SNAT_PORTS, node_ports]);
        let there = self.there()?;
        let missing = wanted.without(&there);
        if missing.is_empty() {
            return Ok(());
        }
        let ours = self.ours(&there)?.and(&missing);
        // The note first: what stands in the list is never without one.
        let noted = durable::replace(&self.note, ours.to_string().as_bytes(), Against::Crash);
        noted.map_err(failed("write", &self.note))?;
        self.write(&there.and(&missing))
    }

    /// Takes out what `ensure` added, for when the datapath is gone.
    pub(super) fn give_back(&self) -> Result<(), NetError> {
        let there = self.there()?;
        let ours = self.ours(&there)?;
        if !ours.is_empty() {
            self.write(&there.without(&ours))?;
        }
        match fs::remove_file(&self.note) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(failed("remove", &self.note)),
        }
    }

    /// What of the list was added here. A list without all that was noted is one that somebody wrote anew: it is all theirs.
    fn ours(&self, there: &Ports) -> Result<Ports, NetError> {
        let noted = self.noted()?;
        Ok(if noted.without(there).is_empty() { noted } else { Ports::default() })
    }

    fn there(&self) -> Result<Ports, NetError> {
        let text = fs::read_to_string(&self.list).and_then(|text| text.parse());
        text.map_err(failed("read", &self.list))
    }

    fn noted(&self) -> Result<Ports, NetError> {
        match fs::read_to_string(&self.note) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ports::default()),
            text => text.and_then(|text| text.parse()).map_err(failed("read", &self.note)),
        }
    }

    fn write(&self, ports: &Ports) -> Result<(), NetError> {
        // An empty write changes nothing; a line end alone is an empty set.
        write_file(&self.list, &format!("{ports}\n")).map_err(failed("write", &self.list))
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetError + use<> {
    let path = path.to_owned();
    move |source| NetError::State { operation, path, source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn members(ports: &Ports) -> BTreeSet<u16> {
        ports.0.iter().flat_map(|&(first, last)| first..=last).collect()
    }

    fn ports() -> impl Strategy<Value = Ports> {
        // Both ends of the numbers, where sums run over.
        let port = prop_oneof![0..20_u16, 65_515..=65_535_u16];
        proptest::collection::vec((port.clone(), port), 0..6).prop_map(Ports::of)
    }

    proptest! {
        #[test]
        fn sets_of_ports_are_sets(a in ports(), b in ports()) {
            let (x, y) = (members(&a), members(&b));
            prop_assert_eq!(members(&a.and(&b)), &x | &y);
            prop_assert_eq!(members(&a.without(&b)), &x - &y);
            for pair in a.0.windows(2) {
                prop_assert!(pair[0].1 + 1 < pair[1].0, "{:?}", a);
            }
            prop_assert_eq!(a.to_string().parse::<Ports>().unwrap(), a);
        }
    }

    fn reserved(dir: &Path, list: &str) -> Reserved {
        let list_file = dir.join("list");
        fs::write(&list_file, list).unwrap();
        Reserved { list: list_file, note: dir.join("note") }
    }

    #[test]
    fn a_list_that_was_written_anew_is_not_ours_to_shorten() {
        let dir = tempfile::tempdir().unwrap();
        let ports = reserved(dir.path(), "\n");
        ports.ensure((30000, 32767)).unwrap();
        fs::write(&ports.list, "9090,32767\n").unwrap();
        ports.give_back().unwrap();
        ports.give_back().unwrap();
        assert_eq!(ports.there().unwrap().to_string(), "9090,32767");
        assert!(!ports.note.exists());
    }

    #[test]
    fn what_the_kernel_does_not_write_is_an_error_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = reserved(dir.path(), "1-x\n").ensure((30000, 32767)).unwrap_err();
        let error = crate::model::chain(&error);
        assert!(
            error.contains("cannot read") && error.contains("list") && error.contains("invalid digit"),
            "{error}"
        );
    }
}
