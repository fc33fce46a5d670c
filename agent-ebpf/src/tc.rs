//! The packet programs. One program serves all pods.

use agent_ebpf_common::{
    family::{Family, V4, V6},
    path::{self, Verdict},
};
use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::bpf_redirect,
    macros::classifier,
    programs::TcContext,
};

use crate::{maps::KernelMaps, packet::Skb};

/// The type of an ARP frame.
const ARP: u16 = 0x0806;

#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    let wire = Skb(&ctx);
    let verdict = if is::<V4>(&ctx) {
        path::from_pod::<V4, _, _>(&wire, &KernelMaps)
    } else if is::<V6>(&ctx) {
        path::plain_from_pod::<V6, _, _>(&wire, &KernelMaps)
    } else if has_type(&ctx, ARP) {
        path::arp_from_pod(&wire, &KernelMaps)
    } else {
        path::other_from_pod(&KernelMaps)
    };
    act(&ctx, verdict)
}

#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    if is::<V4>(&ctx) { act(&ctx, path::to_pod::<V4, _, _>(&Skb(&ctx), &KernelMaps)) } else { TC_ACT_UNSPEC }
}

#[classifier]
pub(crate) fn uplink_in(ctx: TcContext) -> i32 {
    if is::<V4>(&ctx) {
        act(&ctx, path::uplink_in::<V4, _, _>(&Skb(&ctx), &KernelMaps))
    } else {
        TC_ACT_UNSPEC
    }
}

#[classifier]
pub(crate) fn uplink_out(ctx: TcContext) -> i32 {
    if is::<V4>(&ctx) {
        act(&ctx, path::uplink_out::<V4, _, _>(&Skb(&ctx), &KernelMaps))
    } else {
        TC_ACT_UNSPEC
    }
}

#[inline(always)]
fn is<A: Family>(ctx: &TcContext) -> bool {
    has_type(ctx, A::ETHERTYPE)
}

#[inline(always)]
fn has_type(ctx: &TcContext, ethertype: u16) -> bool {
    // SAFETY: a context field.
    unsafe { (*ctx.skb.skb).protocol == u32::from(ethertype.to_be()) }
}

#[inline(always)]
fn act(ctx: &TcContext, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT as i32,
        // SAFETY: the context is the program's own; the helper takes plain numbers.
        Verdict::Back => unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 },
    }
}
