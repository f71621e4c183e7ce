//! A virtqueue as the devices see it: popped chains are complete, bounded and inside guest memory.
//!
//! This wraps the split ring of `virtio-queue` and adds what a hostile driver makes necessary: the rings are checked
//! against guest memory before each use, a chain is walked to its end before a device sees it, and whatever cannot be
//! believed is a [`QueueError`] instead of a silently shorter chain.
//!
//! Invariant: between two `handle_*` calls of the transport no used entry waits for the decision whether to interrupt
//! ([`VirtQueue::take_interrupt`] is called at the end of each). The ring's `num_added`, which its saved form lacks, is
//! therefore of no account whenever a state is saved, and nothing is lost by leaving it out. This file counts them itself, because
//! the ring cannot add several at once.

#[cfg(test)]
mod tests;

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, GuestAddress, GuestMemory, Permissions};

use super::turn::Turn;

/// Most descriptors in one chain, indirect ones included.
pub const CHAIN_LEN_MAX: usize = 256;

/// Flag of the available ring: the driver looks by itself. Without VIRTIO_F_RING_EVENT_IDX.
const NO_INTERRUPT: u16 = 1;

/// A ring or chain that cannot be believed; the device needs a reset. Guest nonsense, never ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// A ring does not lie in guest memory.
    Ring,
    /// The available index is further ahead than the queue is long.
    AvailIndex,
    /// A head index is not below the queue size.
    Head,
    /// A chain is empty, loops, ends early, or is longer than [`CHAIN_LEN_MAX`].
    Chain,
    /// A buffer does not lie in guest memory.
    Buffer,
    /// A readable buffer follows a writable one.
    Order,
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest physical address.
    pub addr: GuestAddress,
    /// Bytes.
    pub len: u32,
}

/// A popped descriptor chain. All buffers were inside guest memory when it was popped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Index that goes back to the driver in the used ring.
    pub head: u16,
    /// What the device may read, in order.
    pub readable: Vec<Buffer>,
    /// What the device may write, in order.
    pub writable: Vec<Buffer>,
}

impl Chain {
    /// Bytes that the device may read.
    #[must_use]
    pub fn readable_len(&self) -> u64 {
        total(&self.readable)
    }

    /// Bytes that the device may write.
    #[must_use]
    pub fn writable_len(&self) -> u64 {
        total(&self.writable)
    }

    /// Fills `data` from the readable bytes that start at `offset`; false if there are not enough.
    pub fn read<M: GuestMemory>(&self, memory: &M, offset: u64, data: &mut [u8]) -> bool {
        let mut done = 0;
        let complete = pieces(&self.readable, offset, data.len(), |addr, len| {
            let ok = vm_memory::Bytes::read_slice(memory, &mut data[done..done + len], addr).is_ok();
            done += len;
            ok
        });
        complete && done == data.len()
    }

    /// Writes `data` to the writable bytes that start at `offset`; false if there are not enough.
    pub fn write<M: GuestMemory>(&self, memory: &M, offset: u64, data: &[u8]) -> bool {
        let mut done = 0;
        let complete = pieces(&self.writable, offset, data.len(), |addr, len| {
            let ok = vm_memory::Bytes::write_slice(memory, &data[done..done + len], addr).is_ok();
            done += len;
            ok
        });
        complete && done == data.len()
    }
}

fn total(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.len)).sum()
}

/// Calls `each` with the contiguous pieces of `len` bytes at `offset`, until it says false or the bytes end.
fn pieces(
    buffers: &[Buffer],
    mut offset: u64,
    mut len: usize,
    mut each: impl FnMut(GuestAddress, usize) -> bool,
) -> bool {
    for buffer in buffers {
        if len == 0 {
            break;
        }
        let size = u64::from(buffer.len);
        if offset >= size {
            offset -= size;
            continue;
        }
        let take = (size - offset).min(len as u64) as usize;
        let Some(addr) = buffer.addr.checked_add(offset) else { return false };
        if !each(addr, take) {
            return false;
        }
        offset = 0;
        len -= take;
    }
    true
}

/// Saved form of a virtqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Most descriptors that the device offers.
    pub max_size: u16,
    /// Descriptors that the driver chose.
    pub size: u16,
    /// The driver finished its configuration.
    pub ready: bool,
    /// VIRTIO_F_RING_EVENT_IDX was agreed.
    pub event_idx: bool,
    /// Next entry of the available ring to be looked at.
    pub next_avail: u16,
    /// Next entry of the used ring to be written.
    pub next_used: u16,
    /// Guest physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest physical address of the available ring.
    pub avail_ring: u64,
    /// Guest physical address of the used ring.
    pub used_ring: u64,
}

/// A virtqueue of a device.
#[derive(Debug)]
pub struct VirtQueue {
    ring: Queue,
    /// Used entries that were added since the last `take_interrupt`.
    added: u16,
    /// A turn was over before the ring was empty; the queue must be served again without the driver's kick.
    unfinished: bool,
    /// `serve_while` stopped at a chain that is to be served later.
    waiting: bool,
}

/// What came of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainOutcome {
    /// The driver has it back.
    Done,
    /// It is too early: the host cannot take what the chain brings.
    NotNow,
    /// The turn was over in the middle of it.
    InPart,
}

impl VirtQueue {
    /// A queue of at most `max_size` descriptors. Panics if that is not a power of two between 1 and 32768.
    #[must_use]
    pub fn new(max_size: u16) -> Self {
        let ring = Queue::new(max_size).expect("queue sizes are constants of the device");
        Self { ring, added: 0, unfinished: false, waiting: false }
    }

    /// Takes the next chain that the driver made available.
    pub fn pop<M: GuestMemory>(&mut self, memory: &M) -> Result<Option<Chain>, QueueError> {
        self.check_rings(memory)?;
        let size = self.ring.size();
        let mut avail = self.ring.iter(memory).map_err(|_| QueueError::AvailIndex)?;
        let Some(chain) = avail.next() else { return Ok(None) };
        let head = chain.head_index();
        if head >= size {
            return Err(QueueError::Head);
        }
        walk(head, chain, memory).map(Some)
    }

    /// Puts back the `count` chains that were popped last.
    pub fn undo_pops(&mut self, count: usize) {
        (0..count).for_each(|_| self.ring.go_to_previous_position());
    }

    /// Gives a chain back to the driver, with the bytes that the device wrote.
    pub fn add_used<M: GuestMemory>(&mut self, memory: &M, head: u16, len: u32) -> Result<(), QueueError> {
        self.add_used_together(memory, &[(head, len)])
    }

    /// Gives chains back to the driver, each with the bytes that the device wrote. It sees all of them at once: of buffers that
    /// belong together another vCPU must not find the first without the last.
    pub fn add_used_together<M: GuestMemory>(&mut self, memory: &M, used: &[(u16, u32)]) -> Result<(), QueueError> {
        let size = self.ring.size();
        if used.iter().any(|(head, _)| *head >= size) {
            return Err(QueueError::Head);
        }
        assert!(used.len() <= usize::from(size), "a driver has made no more available");
        self.check_rings(memory)?;
        let Some(((head, len), before)) = used.split_last() else { return Ok(()) };
        for (head, len) in before {
            self.write_used(memory, *head, *len)?;
            self.ring.set_next_used(self.ring.next_used().wrapping_add(1));
        }
        // Only this one moves the index that the driver reads.
        self.ring.add_used(memory, *head, *len).map_err(|_| QueueError::Ring)?;
        self.added += used.len() as u16;
        Ok(())
    }

    /// Writes the next entry of the used ring, where the driver does not look yet.
    fn write_used<M: GuestMemory>(&self, memory: &M, head: u16, len: u32) -> Result<(), QueueError> {
        let place = u64::from(self.ring.next_used() % self.ring.size());
        let addr = GuestAddress(self.ring.used_ring() + 4 + 8 * place);
        let mut entry = [0; 8];
        entry[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        entry[4..].copy_from_slice(&len.to_le_bytes());
        vm_memory::Bytes::write_slice(memory, &entry, addr).map_err(|_| QueueError::Ring)
    }

    /// Asks the driver to kick at the next buffer; true if one came in the meantime.
    ///
    /// Without VIRTIO_F_RING_EVENT_IDX kicks are never switched off, so there is nothing to ask.
    pub fn arm<M: GuestMemory>(&mut self, memory: &M) -> Result<bool, QueueError> {
        if !self.ring.event_idx_enabled() {
            return Ok(false);
        }
        self.check_rings(memory)?;
        self.ring.enable_notification(memory).map_err(|_| QueueError::Ring)
    }

    /// Gives the available chains to `each` until none is left and kicks are armed.
    ///
    /// Another vCPU, or what is served itself, may add chains as fast as they are served. So this stops when `turn` is over
    /// and remembers that it did ([`VirtQueue::take_unfinished`]).
    pub fn serve<M: GuestMemory>(
        &mut self,
        memory: &M,
        turn: &mut Turn<'_>,
        mut each: impl FnMut(&mut Self, Chain) -> Result<(), QueueError>,
    ) -> Result<(), QueueError> {
        self.serve_while(memory, turn, |queue, chain, turn| {
            turn.spend(chain.readable_len() + chain.writable_len());
            each(queue, chain).map(|()| ChainOutcome::Done)
        })
    }

    /// The same, but a chain for which it is too early goes back to where it was, and those behind it wait there too
    /// ([`VirtQueue::take_waiting`]); so does one that is done in part, as if the turn had been over before it. `each` spends of
    /// the turn what it moves.
    pub fn serve_while<M: GuestMemory>(
        &mut self,
        memory: &M,
        turn: &mut Turn<'_>,
        mut each: impl FnMut(&mut Self, Chain, &mut Turn<'_>) -> Result<ChainOutcome, QueueError>,
    ) -> Result<(), QueueError> {
        while turn.begins() {
            match self.pop(memory)? {
                Some(chain) => {
                    let served = each(self, chain, turn)?;
                    if served != ChainOutcome::Done {
                        self.undo_pops(1);
                        self.waiting |= served == ChainOutcome::NotNow;
                        self.unfinished |= served == ChainOutcome::InPart;
                        return Ok(());
                    }
                }
                None if self.arm(memory)? => {}
                None => return Ok(()),
            }
        }
        self.leave_unfinished();
        Ok(())
    }

    /// The ring may hold more, which is to be served in another turn.
    pub(crate) fn leave_unfinished(&mut self) {
        self.unfinished = true;
    }

    /// Whether `serve_while` stopped at a chain for which it was too early since the last call. Nobody kicks for it again.
    pub fn take_waiting(&mut self) -> bool {
        std::mem::take(&mut self.waiting)
    }

    /// Whether a turn was over before the ring was empty since the last call.
    pub fn take_unfinished(&mut self) -> bool {
        std::mem::take(&mut self.unfinished)
    }

    /// Whether the driver wants an interrupt for the used entries added since the last call.
    pub fn take_interrupt<M: GuestMemory>(&mut self, memory: &M) -> Result<bool, QueueError> {
        let added = std::mem::take(&mut self.added);
        if added == 0 {
            return Ok(false);
        }
        self.check_rings(memory)?;
        // The driver writes what it wants to hear of, then looks at the index; here it is the other way about.
        fence(Ordering::SeqCst);
        if !self.ring.event_idx_enabled() {
            let addr = GuestAddress(self.ring.avail_ring());
            let flags = vm_memory::Bytes::load::<u16>(memory, addr, Ordering::Relaxed).map_err(|_| QueueError::Ring)?;
            return Ok(u16::from_le(flags) & NO_INTERRUPT == 0);
        }
        let addr = GuestAddress(self.ring.avail_ring() + 4 + 2 * u64::from(self.ring.size()));
        let wanted = vm_memory::Bytes::load::<u16>(memory, addr, Ordering::Relaxed).map_err(|_| QueueError::Ring)?;
        Ok(self.ring.next_used().wrapping_sub(u16::from_le(wanted)).wrapping_sub(1) < added)
    }

    /// Descriptors that the driver chose.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Most descriptors that the device offers.
    #[must_use]
    pub fn max_size(&self) -> u16 {
        self.ring.max_size()
    }

    /// The driver finished the queue's configuration.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.ring.ready()
    }

    pub(crate) fn set_ready(&mut self, ready: bool) {
        self.ring.set_ready(ready);
    }

    pub(crate) fn event_idx(&self) -> bool {
        self.ring.event_idx_enabled()
    }

    pub(crate) fn set_event_idx(&mut self, enabled: bool) {
        self.ring.set_event_idx(enabled);
    }

    /// False if the size is not a power of two within the maximum.
    pub(crate) fn set_size(&mut self, size: u32) -> bool {
        u16::try_from(size).is_ok_and(|size| self.ring.try_set_size(size).is_ok())
    }

    /// Replaces one half of a ring's address; false if the address is not aligned as the ring needs.
    pub(crate) fn set_address_half(&mut self, ring: Ring, high: bool, value: u32) -> bool {
        let old = match ring {
            Ring::Descriptors => self.ring.desc_table(),
            Ring::Available => self.ring.avail_ring(),
            Ring::Used => self.ring.used_ring(),
        };
        let value = u64::from(value);
        let new = if high { (old & 0xffff_ffff) | (value << 32) } else { (old & !0xffff_ffff) | value };
        let new = GuestAddress(new);
        match ring {
            Ring::Descriptors => self.ring.try_set_desc_table_address(new).is_ok(),
            Ring::Available => self.ring.try_set_avail_ring_address(new).is_ok(),
            Ring::Used => self.ring.try_set_used_ring_address(new).is_ok(),
        }
    }

    pub(crate) fn reset(&mut self) {
        let Self { ring, added, unfinished, waiting } = self;
        ring.reset();
        (*added, *unfinished, *waiting) = (0, false, false);
    }

    /// The rings lie in guest memory. Checked before each use, as their addresses come from the guest.
    fn check_rings<M: GuestMemory>(&self, memory: &M) -> Result<(), QueueError> {
        let size = usize::from(self.ring.size());
        let inside = |addr: u64, len, access| memory.check_range(GuestAddress(addr), len, access);
        let ok = self.ring.ready()
            && inside(self.ring.desc_table(), size * 16, Permissions::Read)
            && self.ring.avail_ring() != 0
            && inside(self.ring.avail_ring(), size * 2 + 6, Permissions::Read)
            && inside(self.ring.used_ring(), size * 8 + 6, Permissions::Write);
        if ok { Ok(()) } else { Err(QueueError::Ring) }
    }

    /// The queue as plain data.
    #[must_use]
    pub fn save(&self) -> QueueState {
        let Self { ring, added, unfinished: _, waiting: _ } = self;
        assert!(
            *added == 0,
            "a queue is saved between two handle_* calls, when every used entry has been decided upon"
        );
        let virtio_queue::QueueState {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled: event_idx,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        } = ring.state();
        QueueState { max_size, size, ready, event_idx, next_avail, next_used, desc_table, avail_ring, used_ring }
    }

    /// A queue of `max_size` descriptors from untrusted data; on refusal the field that is wrong.
    pub fn restore(state: QueueState, max_size: u16) -> Result<Self, &'static str> {
        let QueueState {
            max_size: saved_max,
            size,
            ready,
            event_idx,
            next_avail,
            next_used,
            desc_table,
            avail_ring,
            used_ring,
        } = state;
        if saved_max != max_size {
            return Err("max_size differs from the device's");
        }
        let raw = virtio_queue::QueueState {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled: event_idx,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        };
        let ring = Queue::try_from(raw).map_err(|_| "size or alignment")?;
        Ok(Self { ring, added: 0, unfinished: false, waiting: false })
    }
}

/// Which of a queue's three areas.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ring {
    /// The descriptor table.
    Descriptors,
    /// The ring that the driver writes.
    Available,
    /// The ring that the device writes.
    Used,
}

/// Walks a chain to its end and checks every buffer.
fn walk<M: GuestMemory>(head: u16, chain: virtio_queue::DescriptorChain<&M>, memory: &M) -> Result<Chain, QueueError> {
    let mut out = Chain { head, readable: Vec::new(), writable: Vec::new() };
    let mut ended = false;
    for descriptor in chain.take(CHAIN_LEN_MAX + 1) {
        let buffer = Buffer { addr: descriptor.addr(), len: descriptor.len() };
        let access = if descriptor.is_write_only() { Permissions::Write } else { Permissions::Read };
        if !memory.check_range(buffer.addr, buffer.len as usize, access) {
            return Err(QueueError::Buffer);
        }
        if descriptor.is_write_only() {
            out.writable.push(buffer);
        } else if out.writable.is_empty() {
            out.readable.push(buffer);
        } else {
            return Err(QueueError::Order);
        }
        ended = !descriptor.has_next();
    }
    let len = out.readable.len() + out.writable.len();
    if ended && len <= CHAIN_LEN_MAX { Ok(out) } else { Err(QueueError::Chain) }
}
