//! When a dirty page is copied: the one interface behind which that is decided.
//!
//! By *stop-and-copy* all pages of an epoch are copied in its pause. By *copy-on-write* memory is protected in the pause
//! and copied while the guest runs, each page before it is overwritten. *Auto* does what gives the shorter pause, block by
//! block and epoch by epoch (`chooser.rs`). All give a [`CapturedPages`], which yields each page as it was at the boundary.
//!
//! What it is not: it does not know which pages are dirty, nor what becomes of their contents.

mod batch;
mod chooser;
mod copy_on_write;
mod stop_and_copy;
mod worker;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use batch::Batch;
use copy_on_write::CopyOnWrite;
use machine::memory::uffd::Uffd;
use machine::memory::{Page, Ram};
use machine::stats::Stats;
use stop_and_copy::StopAndCopy;

/// Pages of a block: what a huge page of the host has.
const BLOCK_PAGES: u64 = 512;

/// When the pages that an epoch wrote are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureMode {
    /// Whichever was measured to give the shorter pause, chosen at each boundary.
    Auto,
    /// In the pause.
    #[default]
    StopAndCopy,
    /// While the guest runs, each page before it is overwritten. Long pauses become short; the guest does less work.
    CopyOnWrite,
}

impl CaptureMode {
    /// As it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::StopAndCopy => "stop-and-copy",
            Self::CopyOnWrite => "copy-on-write",
        }
    }
}

/// Captures the pages of an epoch at its boundary, with all vCPUs stopped.
///
/// Dropping it finishes what it has begun: what it gave stays readable, and no write to guest memory waits any more.
pub trait Capture: Send {
    /// Takes responsibility for giving the content that `gfns` have now, whatever the guest does afterwards. They are
    /// ascending.
    fn capture(&mut self, ram: &Ram, gfns: Vec<u64>) -> CapturedPages;

    /// The guest runs again: what was put off in the pause may begin.
    fn guest_runs(&mut self);
}

/// The pages of a sealed epoch: numbers and contents. An epoch without any has no batch.
#[derive(Debug)]
pub struct CapturedPages(Option<Arc<Batch>>);

impl CapturedPages {
    /// Those of an epoch in which nothing was written.
    pub fn none() -> Self {
        Self(None)
    }

    /// How many pages.
    pub fn len(&self) -> usize {
        self.gfns().len()
    }

    /// No page was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pages' numbers, ascending.
    pub fn gfns(&self) -> &[u64] {
        self.0.as_ref().map_or(&[], |batch| batch.gfns())
    }

    /// Each page's number and content at the boundary. Waits for those that are still being copied.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Page)> {
        self.0.iter().flat_map(|batch| batch.iter())
    }
}

/// A capture that needs nothing of the host.
pub fn stop_and_copy(stats: &Arc<Stats>) -> Box<dyn Capture> {
    Box::new(StopAndCopy::new(stats))
}

/// Starts a capture for `mode`. Where the host has no userfaultfd for this process, pages are copied in the pause: then
/// why comes too.
pub fn start(mode: CaptureMode, ram: &Ram, stats: &Arc<Stats>) -> (Box<dyn Capture>, Option<String>) {
    if mode == CaptureMode::StopAndCopy {
        return (stop_and_copy(stats), None);
    }
    match Uffd::open().and_then(|uffd| CopyOnWrite::start(uffd, mode, ram, stats)) {
        Ok(capture) => (Box::new(capture), None),
        Err(error) => (stop_and_copy(stats), Some(format!("no userfaultfd: {error}"))),
    }
}
