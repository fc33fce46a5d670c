//! The allocator's free memory.

/// Gives what the allocator holds and nobody uses back to the kernel. Worth a call after a start that needed much for
/// a moment; nothing is asked of the caller.
pub(crate) fn release_unused() {
    #[cfg(target_env = "gnu")]
    // SAFETY: thread-safe, takes no pointer and invalidates none: it touches free chunks alone.
    unsafe {
        libc::malloc_trim(0);
    }
}
