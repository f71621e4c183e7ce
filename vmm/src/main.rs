//! The `outlast` binary.

use std::panic;
use std::process::{self, ExitCode};

use machine::allocations::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    machine::memory::keep_freed_heap();
    // A panic is a bug of ours, in a thread that others rely on. Those that are left would tell the backup that all is
    // well, and nobody would continue the guest: the process ends, and the backup takes over.
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        process::abort();
    }));
    vmm::cli::main(&vmm::run::Outlast)
}
