//! What the tests of both families share: packets made and read by the book, maps of plain memory, and the macro that
//! has a test in each family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::family::{Family, V4, V6};

pub(crate) mod frames;
pub(crate) mod memory;

/// A family as the reference has it.
pub(crate) trait Book: Family + Ord {
    fn of(address: IpAddr) -> Self;
    /// The `number`th address of its own documentation range.
    fn example(number: u16) -> IpAddr;
}

impl Book for V4 {
    fn of(address: IpAddr) -> Self {
        let IpAddr::V4(address) = address else { panic!("{address}") };
        Self::from_ne_bytes(address.octets())
    }

    fn example(number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(198, 18, high, low))
    }
}

impl Book for V6 {
    fn of(address: IpAddr) -> Self {
        let IpAddr::V6(address) = address else { panic!("{address}") };
        let octets = address.octets();
        std::array::from_fn(|word| u32::from_ne_bytes(std::array::from_fn(|byte| octets[word * 4 + byte])))
    }

    fn example(number: u16) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, number, 1, 2, 3, number))
    }
}

/// Runs functions that are generic over the family as a test in each.
macro_rules! in_both_families {
    ($($test:ident),* $(,)?) => {
        mod v4 {
            $( #[test] fn $test() { super::$test::<crate::family::V4>(); } )*
        }
        mod v6 {
            $( #[test] fn $test() { super::$test::<crate::family::V6>(); } )*
        }
    };
}
pub(crate) use in_both_families;
