//! What a backup holds of one session: the epoch that arrives, epochs not yet applied, output not yet released.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::assembly::{AssembledEpoch, Assembly};
use crate::id::{EpochId, Gfn};
use crate::lineage::EpochMark;
use crate::output::Output;
use crate::page::{PAGE_SIZE, Page};
use crate::wire::{BODY_SOFT_MAX, DiskCopy, DiskWrite, Hello, Link};

/// One session of the backup.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) link: Link,
    pub(super) assembly: Assembly,
    /// The last of them that is being applied.
    pub(super) applying: EpochId,
    /// Assembled and not yet applied, in order.
    unapplied: VecDeque<Arc<AssembledEpoch>>,
    unapplied_bytes: usize,
    /// Output of whole epochs that the primary is not known to have released, in order.
    held: VecDeque<(EpochId, Arc<Vec<Output>>)>,
    held_bytes: usize,
    /// The base is durable, and was found to run here.
    pub(super) has_base: bool,
    /// The last epoch that was applied: the others that are whole wait.
    applied: Option<EpochMark>,
    /// State of the machine at the end of the last applied epoch.
    pub(super) state: Arc<Vec<u8>>,
    /// What the primary said when the guest ended.
    pub(super) end_text: Option<String>,
    /// Who has the guest instead.
    pub(super) holder: Option<String>,
    /// The primary hands the guest over.
    pub(super) is_handed_over: bool,
}

impl Session {
    pub(super) fn new(link: Link, hello: &Hello, staged_bytes_beyond_ram: usize) -> Self {
        let ram_bytes = usize::try_from(hello.machine.ram_bytes()).unwrap_or(usize::MAX);
        let staged_bytes_max = staged_bytes_beyond_ram.saturating_add(ram_bytes);
        Session {
            link,
            assembly: Assembly::new(link.session, link.term, hello.machine.clone(), staged_bytes_max),
            applying: EpochId(0),
            unapplied: VecDeque::new(),
            unapplied_bytes: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            has_base: false,
            applied: None,
            state: Arc::default(),
            end_text: None,
            holder: None,
            is_handed_over: false,
        }
    }

    /// Bytes that wait here, besides the epoch that arrives.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.unapplied_bytes + self.held_bytes
    }

    /// Bytes that could be applied, and are not.
    pub(super) fn unapplied_bytes(&self, committed: EpochId) -> usize {
        let could = self.unapplied.iter().take_while(|waiting| waiting.mark.count <= committed);
        could.map(|waiting| waiting.staged_bytes).sum()
    }

    /// The next epoch to apply up to `upto`.
    pub(super) fn next_to_apply(&mut self, upto: EpochId) -> Option<Arc<AssembledEpoch>> {
        let next = self.unapplied.iter().find(|waiting| waiting.mark.count > self.applying)?;
        if next.mark.count > upto {
            return None;
        }
        self.applying = next.mark.count;
        Some(Arc::clone(next))
    }

    pub(super) fn push(&mut self, epoch: &Arc<AssembledEpoch>) {
        self.unapplied_bytes += epoch.staged_bytes;
        self.unapplied.push_back(Arc::clone(epoch));
        if !epoch.outputs.is_empty() {
            self.held_bytes += output_bytes(&epoch.outputs);
            self.held.push_back((epoch.mark.count, Arc::clone(&epoch.outputs)));
        }
    }

    /// Which epoch of that number is whole here, if it waits or was applied last.
    pub(super) fn mark_of(&self, epoch: EpochId) -> Option<EpochMark> {
        let waiting = self.unapplied.iter().map(|waiting| waiting.mark);
        self.applied.into_iter().chain(waiting).find(|mark| mark.count == epoch)
    }

    /// An epoch waits here from assembly until it is applied.
    pub(super) fn find(&self, epoch: EpochId) -> Option<Arc<AssembledEpoch>> {
        self.unapplied.iter().find(|waiting| waiting.mark.count == epoch).map(Arc::clone)
    }

    /// Makes disk writes of an epoch's copies; gives the epoch. `read` gives pages as they are here: with all epochs that were
    /// applied, and perhaps some of those that wait. What these change is put over that, in order, once more or for the first
    /// time: either gives the page as it is at the end of the epoch.
    pub(super) fn complete(
        &mut self,
        epoch: EpochId,
        mut read: impl FnMut(Gfn, &mut Page),
    ) -> Option<Arc<AssembledEpoch>> {
        let index = self.unapplied.iter().position(|waiting| waiting.mark.count == epoch)?;
        let whole = Arc::make_mut(&mut self.unapplied[index]);
        let (copies, mut writes) = (std::mem::take(&mut whole.disk_copies), std::mem::take(&mut whole.disk_writes));
        let mut pages: BTreeMap<u64, Box<Page>> = BTreeMap::new();
        for copy in &copies {
            pages.entry(copy.gfn.0).or_insert_with(|| {
                let mut page = Box::new([0; PAGE_SIZE]);
                read(copy.gfn, &mut page);
                page
            });
        }
        for batch in self.unapplied.range(..=index).flat_map(|waiting| &waiting.pages) {
            for update in batch.pages() {
                if let Some(page) = pages.get_mut(&update.gfn.0) {
                    update.apply_to(page);
                }
            }
        }
        for DiskCopy { disk, offset, gfn, at, len } in copies {
            let bytes = &pages[&gfn.0][usize::from(at)..][..usize::from(len)];
            append(&mut writes, disk, offset, bytes);
        }
        Arc::make_mut(&mut self.unapplied[index]).disk_writes = writes;
        self.find(epoch)
    }

    /// Whether it is the next to be applied.
    pub(super) fn is_next(&self, epoch: EpochId) -> bool {
        self.unapplied.front().is_some_and(|first| first.mark.count == epoch)
    }

    pub(super) fn applied(&mut self, epoch: EpochId) {
        let first = self.unapplied.pop_front().expect("an epoch waits here until it is applied");
        assert_eq!(first.mark.count, epoch, "epochs are applied in order");
        self.unapplied_bytes -= first.staged_bytes;
        self.applied = Some(first.mark);
        self.state = Arc::clone(&first.state);
    }

    /// The primary released all up to `upto`: it need not be sent again.
    pub(super) fn released(&mut self, upto: EpochId) {
        while let Some((_, outputs)) = self.held.pop_front_if(|(epoch, _)| *epoch <= upto) {
            self.held_bytes -= output_bytes(&outputs);
        }
    }

    /// What a takeover sends again.
    pub(super) fn take_held(&mut self) -> Vec<Output> {
        self.held_bytes = 0;
        self.held.drain(..).flat_map(|(_, outputs)| Arc::unwrap_or_clone(outputs)).collect()
    }
}

/// Adds a write behind the others; one that continues the last becomes part of it.
fn append(writes: &mut Vec<DiskWrite>, disk: u16, offset: u64, bytes: &[u8]) {
    let continues = |last: &&mut DiskWrite| {
        last.disk == disk && last.offset + last.data.len() as u64 == offset && last.data.len() < BODY_SOFT_MAX
    };
    match writes.last_mut().filter(continues) {
        Some(last) => last.data.extend_from_slice(bytes),
        None => writes.push(DiskWrite { disk, offset, data: bytes.to_vec() }),
    }
}

fn output_bytes(outputs: &[Output]) -> usize {
    outputs.iter().map(|output| output.bytes.len() + 64).sum()
}
