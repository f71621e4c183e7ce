//! Chips and virtio devices as state machines over guest memory.
//!
//! What this crate is not: it knows no KVM, no sockets, no files, no threads and no clock. Guest memory, the disk
//! behind a block device, the source of entropy and the time of day are arguments. Hence every device runs in a unit
//! test, and the same inputs give the same outputs on every host, which is what a takeover rests on.
//!
//! # The grammar
//!
//! | call | meaning |
//! |---|---|
//! | `handle_read(offset, &mut data, ..)` | the guest reads a register |
//! | `handle_write(offset, &data, ..)` | the guest writes a register |
//! | `handle_notify(queue, &memory, &mut host, &mut turn)` | the guest kicked a virtqueue |
//! | `handle_input(&bytes)`, `handle_frame(&frame, &memory, &mut turn)` | the world gives something to the guest |
//! | `poll_effects(&mut act)` | what a chip wants done: an interrupt, output, the end of the machine |
//! | `poll_output()` | what the guest gave to the world, in the order it was produced |
//! | `poll_interrupt()` | did a rising edge of the interrupt line happen since the last call |
//! | `save()` | the whole state as plain data; reads only |
//! | `restore(state)` | a fresh device from untrusted state; emits nothing |
//!
//! A chip implements [`chip::Chip`], a virtio device [`virtio::VirtioDevice`]; each is one file with its place, its registers, its part of
//! the ACPI tables and its saved form, which is a section of its own.
//!
//! A device never writes to the world. The caller drains `poll_output` after each `handle_*`, tags what it got with the
//! running epoch and holds it until that epoch commits.
//!
//! # Who is trusted
//!
//! Nobody: the guest writes any value to any register and any bytes to its rings, and a state may come from a peer or a
//! file. Nonsense from the guest is answered as the specification says, counted in [`counters::Counters`], and never
//! panics; nonsense in a state is a [`RestoreError`].
#![forbid(unsafe_code)]

pub mod acpi;
pub mod bus;
pub mod chip;
pub mod cmos;
pub mod counters;
pub mod generation;
pub mod i8042;
pub mod layout;
pub mod pc;
pub mod power;
pub mod pvpanic;
mod restore;
pub mod serial;
pub mod virtio;
pub mod watchdog;

pub use restore::{RestoreError, SectionRefused};

#[cfg(test)]
mod golden;
#[cfg(test)]
mod laws;
