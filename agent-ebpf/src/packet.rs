//! A packet of the kernel's. All access goes through helpers, which see through non-linear buffers and keep checksums
//! right under offloads; nothing here decides anything.

use core::mem::MaybeUninit;

use agent_ebpf_common::wire::{Sum, Wire};
use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};

/// The packet of a run.
pub(crate) struct Skb<'a>(pub(crate) &'a TcContext);

impl Wire for Skb<'_> {
    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: a context field.
        unsafe { (*self.0.skb.skb).ifindex }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes exactly N bytes or fails.
        unsafe {
            let skb = self.0.skb.skb.cast_const().cast();
            let result = bpf_skb_load_bytes(skb, offset, bytes.as_mut_ptr().cast(), N as u32);
            (result == 0).then(|| bytes.assume_init())
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> Option<()> {
        // SAFETY: the helper reads exactly N bytes.
        done(unsafe { bpf_skb_store_bytes(self.0.skb.skb, offset, bytes.as_ptr().cast(), N as u32, 0) })
    }

    #[inline(always)]
    fn amend_header(&self, at: u32, from: u32, to: u32) -> Option<()> {
        // SAFETY: the context is the program's own; the helper takes plain numbers.
        done(unsafe { bpf_l3_csum_replace(self.0.skb.skb, at, from as u64, to as u64, 4) })
    }

    #[inline(always)]
    fn amend_half(&self, sum: Sum, from: u16, to: u16) -> Option<()> {
        // SAFETY: as above.
        done(unsafe { bpf_l4_csum_replace(self.0.skb.skb, sum.at, from as u64, to as u64, flags(sum) | 2) })
    }

    #[inline(always)]
    fn amend_word(&self, sum: Sum, from: u32, to: u32) -> Option<()> {
        // SAFETY: as above.
        done(unsafe { bpf_l4_csum_replace(self.0.skb.skb, sum.at, from as u64, to as u64, flags(sum) | 4) })
    }

    #[inline(always)]
    fn amend_wide(&self, sum: Sum, from: &[u32; 4], to: &[u32; 4]) -> Option<()> {
        // SAFETY: the helpers read 16 bytes of each; without a size the second takes the difference as it is.
        unsafe {
            let difference = bpf_csum_diff(from.as_ptr().cast_mut(), 16, to.as_ptr().cast_mut(), 16, 0);
            done(bpf_l4_csum_replace(self.0.skb.skb, sum.at, 0, difference as u64, flags(sum)))
        }
    }

    #[inline(always)]
    fn resize(&self, length: u32) -> Option<()> {
        // SAFETY: the context is the program's own; no pointers into the packet are held.
        done(unsafe { bpf_skb_change_tail(self.0.skb.skb, length, 0) })
    }
}

#[inline(always)]
fn flags(sum: Sum) -> u64 {
    let pseudo = if sum.pseudo { BPF_F_PSEUDO_HDR } else { 0 };
    let optional = if sum.optional { BPF_F_MARK_MANGLED_0 } else { 0 };
    (pseudo | optional) as u64
}

/// What a helper says of itself.
#[inline(always)]
fn done(result: i64) -> Option<()> {
    (result == 0).then_some(())
}
