//! Network policy: the layouts of its maps, the words in them, and the verdict about one packet's peer and port.
//!
//! What flows in is a pod's set for one direction, the peer's address, and protocol and port of the destination; what
//! comes out names the rule that allows it, or why nothing does. Maps are reached through [`Policies`] alone.
//!
//! An address has a class: the exact one of a peer, else that of the longest prefix that some policy names, else that of
//! the world. Rules of a set are looked up by class and port. Policies only ever allow, so that the first hit decides and
//! the order of the look-ups matters to nothing but the name of the rule. Whatever is missing, torn or another's denies:
//! nothing here ever allows because something was not found.
//!
//! The maps and what they lead to:
//!
//! | map | kind | key | value |
//! |---|---|---|---|
//! | peers | hash, insert- and delete-only, for each family | [`PeerKey`] | [`Tagged`] index of a peer's word |
//! | peer words | mapped array, shared | that index | [`Tagged`] by the [`PeerKey`]: class; one store changes it |
//! | world | trie, for each family | prefix of an address | class |
//! | rules | hash, insert- and delete-only, shared | [`RuleKey`] | [`Tagged`] rule |
//! | ranges | trie, shared | [`RangeKey`], a prefix of its port | rule |
//! | sets | mapped array, shared | set | [`SetHead`] |
//! | classes | mapped array, shared; no program reads it | class | digest of what the class stands for |
//!
//! A value of a trie carries no tag, since who reads it does not know the prefix that was found. It needs none: the
//! kernel replaces an entry of a trie whole, and frees the old one when no program can see it any more.

use crate::{
    family::{Family, V4},
    tag::{Digest, Tagged, mix},
};

/// [`RuleKey::class`] of rules for every peer; no address has it.
pub const ANY_CLASS: u32 = 0;
/// Class of every address that is neither a peer nor in a prefix.
pub const WORLD_CLASS: u32 = 1;
/// The first class that may stand for something.
pub const FIRST_CLASS: u32 = 2;

/// The set of a pod that no policy isolates in a direction.
pub const NO_SET: u32 = 0;
/// The set of a pod whose policies are not known yet: nothing passes.
pub const UNKNOWN_SET: u32 = (1 << SET_BITS) - 1;
/// Bits of a set in a pod's word.
pub const SET_BITS: u32 = 24;

/// [`SetHead`]: rules for one class and one port.
pub const CLASS_PORT: u32 = 1;
/// [`SetHead`]: rules for one class and every port of a protocol.
pub const CLASS_PROTO: u32 = 2;
/// [`SetHead`]: rules for one class and everything.
pub const CLASS_ALL: u32 = 4;
/// [`SetHead`]: rules for one class and a range of ports.
pub const CLASS_RANGE: u32 = 8;
/// [`SetHead`]: rules for every peer and one port.
pub const ANY_PORT: u32 = 16;
/// [`SetHead`]: rules for every peer and every port of a protocol.
pub const ANY_PROTO: u32 = 32;
/// [`SetHead`]: a rule for every peer and everything.
pub const ANY_ALL: u32 = 64;
/// [`SetHead`]: rules for every peer and a range of ports.
pub const ANY_RANGE: u32 = 128;
/// [`SetHead`]: all policies of the set are in audit mode: what they would deny passes, and is told.
pub const AUDIT: u32 = 256;

/// The bits of [`SetHead`] for which the peer's class must be known.
const CLASSES: u32 = CLASS_PORT | CLASS_PROTO | CLASS_ALL | CLASS_RANGE;

/// An address that has a class of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey<A = V4> {
    /// The address.
    pub addr_be: A,
}

impl<A: Family> Digest for PeerKey<A> {
    #[inline(always)]
    fn digest(&self) -> (u64, u32) {
        (self.addr_be.mix(0), 0)
    }
}

/// What a set allows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleKey {
    /// Whose rule it is.
    pub set: u32,
    /// The peers, or [`ANY_CLASS`].
    pub class: u32,
    /// Destination port; 0 is every port.
    pub port_be: u16,
    /// Protocol; 0 is every protocol, then with every port.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

impl Digest for RuleKey {
    #[inline(always)]
    fn digest(&self) -> (u64, u32) {
        let rest = (self.port_be as u32) << 16 | (self.proto as u32) << 8 | self.pad as u32;
        (mix(0, (self.set as u64) << 32 | self.class as u64), rest)
    }
}

/// What a set allows for a range of ports that is a prefix: a trie over all of this, in this order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RangeKey {
    /// Whose rule it is.
    pub set: u32,
    /// The peers, or [`ANY_CLASS`].
    pub class: u32,
    /// Protocol.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
    /// Destination port.
    pub port_be: u16,
}

impl RangeKey {
    /// Bits before those of the port.
    pub const PORT_AT: u32 = 80;
    /// Bits of the whole.
    pub const BITS: u32 = 96;
}

/// What a set is.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetHead {
    /// [`Tagged`] by the set's number: which kinds of rules there are to be looked up, and whether it only audits.
    pub word: u64,
    /// Digest of what the set means. No program looks at it; who takes the maps over finds there which set is which.
    pub content: u64,
}

impl SetHead {
    /// A head of `set`.
    #[inline(always)]
    pub fn new(set: u32, bits: u32, content: u64) -> Self {
        Self { word: Tagged::new(&set, bits).0, content }
    }

    /// Its bits, when it is `set`'s.
    #[inline(always)]
    pub fn bits(self, set: u32) -> Option<u32> {
        Tagged(self.word).of(&set)
    }
}

/// A pod's policy in one word, so that one store replaces both directions: set of what comes in 24 bits, of what goes
/// out 24, revision 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyWord {
    /// Set for what comes in, or [`NO_SET`], or [`UNKNOWN_SET`].
    pub ingress: u32,
    /// The same for what goes out.
    pub egress: u32,
    /// Flows that were allowed at another revision are asked about again. Never 0 for a pod that is isolated.
    pub revision: u16,
}

impl PolicyWord {
    /// No policy isolates the pod.
    pub const OPEN: Self = Self { ingress: NO_SET, egress: NO_SET, revision: 0 };
    /// Nobody knows yet whether one does.
    pub const UNKNOWN: Self = Self { ingress: UNKNOWN_SET, egress: UNKNOWN_SET, revision: 0 };

    /// To a word; [`Self::OPEN`] is 0.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.ingress as u64 & UNKNOWN_SET as u64) << 40
            | (self.egress as u64 & UNKNOWN_SET as u64) << 16
            | self.revision as u64
    }

    /// From a word.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            ingress: (word >> 40) as u32,
            egress: (word >> 16) as u32 & UNKNOWN_SET,
            revision: word as u16,
        }
    }

    /// Whether flows of the pod must be asked about in one direction at least.
    #[inline(always)]
    pub const fn isolates(self) -> bool {
        self.ingress != NO_SET || self.egress != NO_SET
    }
}

/// The maps a verdict reads. All methods are single look-ups.
pub trait Policies<A = V4> {
    /// The index behind an address, when the value is its own.
    fn peer(&self, key: &PeerKey<A>) -> Option<u32>;
    /// A peer's word.
    fn peer_word(&self, index: u32) -> Option<Tagged>;
    /// The class of the longest prefix with the address.
    fn world(&self, addr_be: A) -> Option<u32>;
    /// A set's head.
    fn set(&self, set: u32) -> Option<SetHead>;
    /// The rule behind a key, when the value is its own.
    fn rule(&self, key: &RuleKey) -> Option<u32>;
    /// The rule of the longest prefix with the port.
    fn range(&self, key: &RangeKey) -> Option<u32>;
}

/// Why nothing allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The pod is isolated, and no rule allows this.
    NotAllowed,
    /// It is not known yet which policies the pod has.
    NotKnown,
    /// The set is missing, or its head is not its own: a bug, counted so that tests see it.
    NoSet,
}

/// What policy says of one direction of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// No policy isolates the pod in this direction.
    Open,
    /// This rule allows it.
    Allowed(u32),
    /// No rule allows it, and all policies that isolate the pod only audit: it passes, and is told.
    Audited,
    /// It does not pass.
    Denied(Denial),
}

impl Verdict {
    /// Whether it passes.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        !matches!(self, Self::Denied(_))
    }
}

/// Where something goes, as rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Protocol of the IP layer.
    pub proto: u8,
    /// Destination port; 0 when the protocol has none or nobody knows it, and then only rules without ports apply.
    pub port_be: u16,
}

/// The class of an address.
#[inline(always)]
pub fn class<A: Family, P: Policies<A>>(policies: &P, addr_be: A) -> u32 {
    let key = PeerKey { addr_be };
    // A word that is not the address's own belongs to another peer: this one was removed a moment ago.
    if let Some(index) = policies.peer(&key)
        && let Some(word) = policies.peer_word(index)
        && let Some(class) = word.of(&key)
    {
        return class;
    }
    policies.world(addr_be).unwrap_or(WORLD_CLASS)
}

/// Whether the pod with `set` in this direction may exchange packets to `target` with the peer at `addr_be`.
#[inline(always)]
pub fn verdict<A: Family, P: Policies<A>>(policies: &P, set: u32, addr_be: A, target: Target) -> Verdict {
    if set == NO_SET {
        return Verdict::Open;
    }
    if set == UNKNOWN_SET {
        return Verdict::Denied(Denial::NotKnown);
    }
    let Some(bits) = policies.set(set).and_then(|head| head.bits(set)) else {
        return Verdict::Denied(Denial::NoSet);
    };
    if bits & CLASSES != 0 {
        let class = class(policies, addr_be);
        if let Some(rule) = ladder(policies, set, class, bits & CLASSES, target) {
            return Verdict::Allowed(rule);
        }
    }
    // The bits for every peer stand four higher, in the same order.
    if let Some(rule) = ladder(policies, set, ANY_CLASS, bits >> 4 & CLASSES, target) {
        return Verdict::Allowed(rule);
    }
    if bits & AUDIT != 0 { Verdict::Audited } else { Verdict::Denied(Denial::NotAllowed) }
}

/// The rules of a set for one class, from those for one port to those for everything.
#[inline(always)]
fn ladder<A, P: Policies<A>>(policies: &P, set: u32, class: u32, bits: u32, target: Target) -> Option<u32> {
    let Target { proto, port_be } = target;
    let key = |port_be, proto| RuleKey { set, class, port_be, proto, pad: 0 };
    if bits & CLASS_PORT != 0
        && port_be != 0
        && let Some(rule) = policies.rule(&key(port_be, proto))
    {
        return Some(rule);
    }
    if bits & CLASS_PROTO != 0
        && let Some(rule) = policies.rule(&key(0, proto))
    {
        return Some(rule);
    }
    if bits & CLASS_ALL != 0
        && let Some(rule) = policies.rule(&key(0, 0))
    {
        return Some(rule);
    }
    if bits & CLASS_RANGE != 0 && port_be != 0 {
        return policies.range(&RangeKey { set, class, proto, pad: 0, port_be });
    }
    None
}

// A size equal to the sum of the fields means that there is no implicit padding.
const _: () = {
    assert!(size_of::<RuleKey>() == 12);
    assert!(size_of::<RangeKey>() == 12);
    assert!(size_of::<SetHead>() == 16);
    assert!(size_of::<PeerKey<V4>>() == 4);
    assert!(size_of::<PeerKey<crate::family::V6>>() == 16);
    assert!(core::mem::offset_of!(RangeKey, port_be) * 8 == RangeKey::PORT_AT as usize);
    assert!(size_of::<RangeKey>() * 8 == RangeKey::BITS as usize);
};

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya's marker for types that may cross the kernel boundary is unsafe")]
    use super::{PeerKey, RangeKey, RuleKey, SetHead};
    use crate::family::{V4, V6};

    macro_rules! pod {
        ($($type:ty),* $(,)?) => { $(
            // SAFETY: repr(C), no implicit padding (asserted above), every bit pattern valid.
            unsafe impl aya::Pod for $type {}
        )* };
    }
    pod!(PeerKey<V4>, PeerKey<V6>, RuleKey, RangeKey, SetHead);
}

#[cfg(test)]
mod tests;
