//! The `outlast-faults` binary: `outlast`, and the faults that tests ask for in its environment.

use std::process::ExitCode;

use machine::allocations::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    vmm::process::begin();
    vmm::cli::main(&vmm::run::Outlast)
}
