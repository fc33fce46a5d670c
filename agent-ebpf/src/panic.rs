//! The programs cannot panic: the verifier would refuse the loop below, so that it loads proves it.

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
