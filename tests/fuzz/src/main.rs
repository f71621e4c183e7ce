//! One program with all fuzz targets: the environment says which one runs (`FUZZ_TARGET`). `scripts/fuzz` builds and runs it.
//!
//! A target takes bytes that come from a file, a peer, the API or a guest to where the program takes them. Where plain bytes
//! would die on a checksum, it alters a valid file and repairs the checksums ([`patch`]). It finds: panics, overflows, debug
//! assertions, memory in one piece beyond [`heap::PIECE_BYTES_MAX`], inputs that take longer than libFuzzer's `-timeout`.
#![no_main]

mod config;
mod containers;
mod cores;
mod disk_log;
mod heap;
mod input;
mod kernels;
mod local;
mod patch;
mod pipelines;
mod records;
mod sections;
mod state;
mod virtio;
mod wire;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 14] = [
    ("wire", wire::run),
    ("cores", cores::run),
    ("pipelines", pipelines::run),
    ("sections", sections::run),
    ("checkpoints", sections::run_checkpoint),
    ("logs", disk_log::run),
    ("containers", containers::run),
    ("records", records::run),
    ("local", local::run),
    ("state", state::run),
    ("api", config::run_api),
    ("config", config::run),
    ("kernels", kernels::run),
    ("devices", virtio::run),
];

fn target() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        let known = TARGETS.map(|(name, _)| name).join(" ");
        found.unwrap_or_else(|| panic!("FUZZ_TARGET is {name:?}; there are: {known}")).1
    })
}

fuzz_target!(|data: &[u8]| target()(data));
