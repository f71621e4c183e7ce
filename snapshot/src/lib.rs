//! What the state of a virtual machine is, and how it is made durable.
//!
//! Four kinds of state live here, each in one module: machine state as tagged [`section`]s, the [`disk`] image with its
//! uncommitted writes beside it, the redo log of those writes ([`disklog`]), and the whole machine as a [`checkpoint`]
//! directory. [`statedir`] is the directory of one VM, where the last of its epochs lies. [`pages`] is the set of dirty pages that all of them are driven by. How their files are made and opened, so that
//! nobody else reads them, is decided in [`private`]; [`durable`] replaces a small file as a whole, and [`within`] holds a number that
//! comes from a file to its bounds.
//!
//! This crate knows files and bytes. It knows no KVM, no device, no socket, no thread and no clock: epochs come in as
//! plain numbers, and nothing happens here unless the caller asks for it.
//!
//! Every byte layout is described in `docs/STATE.md` and held by golden files under `tests/golden`.

pub mod checkpoint;
mod chunk;
pub mod disk;
pub mod disklog;
pub mod durable;
mod lock;
pub mod pages;
pub mod private;
pub mod section;
pub mod statedir;
pub mod within;
pub mod writeset;
