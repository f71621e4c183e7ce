//! The journal on the disk of the guest `disk-journal`, read by the guest itself.
//!
//! Started on an image, it says `last=` for the last record, and `CORRUPT` if a record before it is missing or broken.

use std::path::Path;

use crate::place::disk;
use crate::{Guest, Place, Vm, console};

/// The last record that the guest finds on `image`, which nobody uses.
#[track_caller]
pub fn last_on(place: &Place, image: &Path) -> u64 {
    let reader = Guest { disk_bytes: None, ..Guest::disk_journal().with("limit=1") };
    let dir = format!("reader-of-{}", image.file_stem().and_then(|stem| stem.to_str()).expect("a plain name"));
    let mut vm = place.alone(&dir, &reader).with("--disk", disk(image)).start();
    assert_eq!(vm.wait(), 0, "{}", vm.log());
    let said = console::check(&reader, &vm.console()).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
    assert!(said.done, "{}", vm.console());
    said.last - 1
}

/// The last record that `vm` showed to be on its disk.
pub fn acked(vm: &Vm) -> u64 {
    console::latest(&Guest::disk_journal(), &vm.console()).unwrap_or(0)
}
