//! The Internet checksum (RFC 1071). Rewrites in the kernel go through its own helpers, which know about
//! offloads; this is for packets that the datapath makes itself.

/// Adds `bytes` (an even number of them) to a running sum.
#[inline(always)]
pub fn add<const N: usize>(mut sum: u32, bytes: &[u8; N]) -> u32 {
    let mut at = 0;
    while at + 1 < N {
        sum += (bytes[at] as u32) << 8 | bytes[at + 1] as u32;
        at += 2;
    }
    sum
}

/// Folds a sum into the checksum field's value.
#[inline(always)]
pub fn finish(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(finish(sum), !0xddf2);
    }

    proptest! {
        #[test]
        fn a_packet_with_its_checksum_sums_to_zero(mut bytes: [u8; 20]) {
            bytes[10] = 0;
            bytes[11] = 0;
            let checksum = finish(add(0, &bytes)).to_be_bytes();
            bytes[10..12].copy_from_slice(&checksum);
            prop_assert_eq!(finish(add(0, &bytes)), 0);
        }
    }
}
