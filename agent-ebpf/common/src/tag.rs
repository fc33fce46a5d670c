//! Tags against recycled elements. The kernel gives a deleted element of a hash map to the next key at once, while a
//! program that looked it up a moment ago still reads its value. So every value says whose it is, and readers compare.
//!
//! A [`Tagged`] word carries 32 bits of value and as many of check, made from the key and the value: a mixture of an
//! old and a new word does not pass either.

/// The golden ratio's fraction: odd, with its bits well spread.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// One step of a digest, whose low half counts. In 64 bits: programs for the oldest machine have no narrower arithmetic.
#[inline(always)]
pub const fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(ODD);
    hash ^ hash >> 32
}

/// A key of a map whose values are [`Tagged`].
pub trait Digest {
    /// What tells keys apart: a digest of most of it, and the rest.
    fn digest(&self) -> (u64, u32);
}

/// A network namespace's cookie.
impl Digest for u64 {
    #[inline(always)]
    fn digest(&self) -> (u64, u32) {
        (mix(0, *self), 0)
    }
}

/// An interface's index.
impl Digest for u32 {
    #[inline(always)]
    fn digest(&self) -> (u64, u32) {
        (0, *self)
    }
}

/// A value and whose it is, read and written as one word.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tagged(pub u64);

impl Tagged {
    /// `value` of `key`.
    #[inline(always)]
    pub fn new<K: Digest>(key: &K, value: u32) -> Self {
        Self((check(key, value) as u64) << 32 | value as u64)
    }

    /// The value, when it is `key`'s.
    #[inline(always)]
    pub fn of<K: Digest>(self, key: &K) -> Option<u32> {
        (check(key, self.value()) == (self.0 >> 32) as u32).then_some(self.value())
    }

    /// The value, whoever's it is: for who wrote it.
    #[inline(always)]
    pub const fn value(self) -> u32 {
        self.0 as u32
    }
}

#[inline(always)]
fn check<K: Digest>(key: &K, value: u32) -> u32 {
    let (hash, rest) = key.digest();
    mix(hash, (rest as u64) << 32 | value as u64) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        abi::{FragmentKey, FrontendKey},
        family::V6,
    };

    prop_compose! {
        fn frontend()(addr_be: u32, port_be: u16, proto: u8, scope in 0..2_u8) -> FrontendKey {
            FrontendKey { addr_be, port_be, proto, scope }
        }
    }

    prop_compose! {
        fn frontend6()(addr_be: V6, port_be: u16, proto: u8, scope in 0..2_u8) -> FrontendKey<V6> {
            FrontendKey { addr_be, port_be, proto, scope }
        }
    }

    proptest! {
        #[test]
        fn a_value_is_its_keys_alone(key in frontend(), other in frontend(), value: u32) {
            prop_assert_eq!(Tagged::new(&key, value).of(&key), Some(value));
            prop_assume!(key != other);
            prop_assert_eq!(Tagged::new(&other, value).of(&key), None);
        }

        #[test]
        fn neighbours_are_told_apart(key in frontend(), flip in 0..64_u32, value: u32) {
            // Services differ in a bit or two of address, port, protocol or scope.
            let near = match flip {
                0..32 => FrontendKey { addr_be: key.addr_be ^ 1 << flip, ..key },
                32..48 => FrontendKey { port_be: key.port_be ^ 1 << (flip - 32), ..key },
                48..56 => FrontendKey { proto: key.proto ^ 1 << (flip - 48), ..key },
                _ => FrontendKey { scope: key.scope ^ 1 << (flip - 56), ..key },
            };
            prop_assert_eq!(Tagged::new(&near, value).of(&key), None);
        }

        #[test]
        fn neighbours_in_ipv6_are_told_apart(key in frontend6(), one in 0..128_usize, two in 0..128_usize, value: u32) {
            let mut near = key;
            near.addr_be[one / 32] ^= 1 << (one % 32);
            prop_assert_eq!(Tagged::new(&near, value).of(&key), None);
            // Two bits, wherever they are.
            near.addr_be[two / 32] ^= 1 << (two % 32);
            prop_assert_eq!(Tagged::new(&near, value).of(&key).is_some(), one == two);
        }

        /// Bits that change in two places do not make up for each other.
        #[test]
        fn addresses_and_ports_are_not_mistaken_for_each_other(key in frontend(), change in 1..u16::MAX, value: u32) {
            for shift in [0, 8, 16] {
                let addr_be = key.addr_be ^ u32::from(change) << shift;
                let other = FrontendKey { addr_be, port_be: key.port_be ^ change, ..key };
                prop_assert_eq!(Tagged::new(&other, value).of(&key), None);
                let torn = Tagged::new(&FrontendKey { addr_be, ..key }, value ^ u32::from(change) << shift);
                prop_assert_eq!(torn.of(&key), None);
            }
        }

        /// The kernel copies a value in pieces if it likes: half an old word and half a new one are nobody's.
        #[test]
        fn a_mixture_of_two_values_is_nobodys(key in frontend(), other in frontend(), old: u32, new: u32) {
            prop_assume!(key != other && old != new);
            let (was, is) = (Tagged::new(&key, old).0, Tagged::new(&other, new).0);
            let low = u64::from(u32::MAX);
            for torn in [was & !low | is & low, is & !low | was & low] {
                prop_assert_eq!(Tagged(torn).of(&key), None);
            }
        }

        #[test]
        fn fragments_and_namespaces_are_told_apart(a: u64, b: u64, id: u16, other: u16, value: u32) {
            prop_assume!(a != b && id != other);
            prop_assert_eq!(Tagged::new(&a, value).of(&a), Some(value));
            prop_assert_eq!(Tagged::new(&b, value).of(&a), None);
            let key = FragmentKey { src_be: a as u32, dst_be: b as u32, id: id.into(), proto: 17, leg: 0, pad: 0 };
            prop_assert_eq!(Tagged::new(&FragmentKey { id: other.into(), ..key }, value).of(&key), None);
        }
    }
}
