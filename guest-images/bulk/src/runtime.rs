//! The runtime of the bare guests (../../bare/runtime), as seen from Rust.

use core::ffi::{CStr, c_char};
use core::panic::PanicInfo;

mod asm {
    use core::ffi::c_char;

    // Their registers are those of the C calling convention, and what they clobber is the caller's by it.
    unsafe extern "C" {
        pub(super) fn param(key: *const c_char, default: u64) -> u64;
        pub(super) fn param_ipv4(key: *const c_char, default: u64) -> u64;
        pub(super) fn put_string(text: *const c_char);
        pub(super) fn put_line(name: *const c_char, value: u64);
        pub(super) fn power_off() -> !;
    }
}

fn pointer(text: &CStr) -> *const c_char {
    text.as_ptr()
}

/// The number behind `key`, which ends with `=`.
pub(crate) fn param(key: &CStr, default: u64) -> u64 {
    // SAFETY: the key is text that ends with NUL; the function only reads it and the command line.
    unsafe { asm::param(pointer(key), default) }
}

/// The address behind `key`, its first byte the highest.
pub(crate) fn param_ipv4(key: &CStr, default: u32) -> u32 {
    // SAFETY: as for `param`.
    unsafe { asm::param_ipv4(pointer(key), u64::from(default)) as u32 }
}

/// A line `name` and 16 hexadecimal digits.
pub(crate) fn put_line(name: &CStr, value: u64) {
    // SAFETY: the name is text that ends with NUL; the function writes to the serial port.
    unsafe { asm::put_line(pointer(name), value) }
}

/// The end, after a line that says why.
pub(crate) fn fail(name: &CStr, value: u64) -> ! {
    put_line(name, value);
    // SAFETY: it writes to ports and stays there.
    unsafe { asm::power_off() }
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    let line = info.location().map_or(0, |location| {
        for byte in location.file().bytes() {
            let text = [byte as c_char, 0];
            // SAFETY: two bytes, the second NUL.
            unsafe { asm::put_string(text.as_ptr()) }
        }
        location.line()
    });
    fail(c" ERROR panic line=", u64::from(line))
}
