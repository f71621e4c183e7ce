//! What every program that runs a machine does first.

use std::{panic, process};

/// Prepares this process: memory that is freed stays with it, and a panic ends it.
///
/// A panic is a bug of ours, in a thread that others rely on. Those that are left would tell the backup that all is well, and
/// nobody would continue the guest: the process ends, and the backup takes over.
pub fn begin() {
    machine::memory::keep_freed_heap();
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        process::abort();
    }));
}
