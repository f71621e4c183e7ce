//! Assembly: the frames of an epoch put together again, checked as they come.
//!
//! Nothing that is assembled can fail to apply: page batches are decoded once, disk writes are inside their disks, counts
//! and checksum are those of the sender. What waits is bounded; more is an error of the peer.

use std::sync::Arc;

use crate::id::{EpochId, SessionId, Term};
use crate::lineage::{ChainHash, EpochMark, StateDigest};
use crate::output::{Input, Output};
use crate::page::{PAGE_SIZE, PageBatch};
use crate::peer::PeerError;
use crate::ship::EpochDigest;
use crate::wire::{DiskCopy, DiskWrite, EpochBegin, EpochEnd, Frame, Kind, MachineInfo, Message, StateDelta};

/// What an item costs here besides its bytes, so that empty ones are bounded too.
const ITEM_OVERHEAD: usize = 64;

/// An epoch that was received whole, verified, and can be applied without failing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssembledEpoch {
    /// The session that brought it.
    pub session: SessionId,
    /// Which it is.
    pub mark: EpochMark,
    /// The base of the session.
    pub base: bool,
    /// Inputs it consumed, in order.
    pub inputs: Vec<Input>,
    /// Pages, to be applied in order.
    pub pages: Vec<PageBatch>,
    /// State of the machine at its end.
    pub state: Arc<Vec<u8>>,
    /// Disk writes, to be applied in order.
    pub disk_writes: Vec<DiskWrite>,
    /// Disk writes whose bytes are in guest memory as it is after this epoch; [`crate::Backup::handle_memory`] makes disk writes
    /// of them.
    pub disk_copies: Vec<DiskCopy>,
    /// Its output, in production order.
    pub outputs: Arc<Vec<Output>>,
    /// What it occupies here, about.
    pub staged_bytes: usize,
}

/// The epoch whose frames are arriving.
#[derive(Debug)]
struct OpenEpoch {
    epoch: EpochId,
    begin: EpochBegin,
    log_closed: bool,
    inputs: Vec<Input>,
    pages: Vec<PageBatch>,
    state: Vec<u8>,
    disk_writes: Vec<DiskWrite>,
    disk_copies: Vec<DiskCopy>,
    outputs: Vec<Output>,
    arrived: EpochEnd,
    digest: EpochDigest,
    staged_bytes: usize,
}

/// Puts the frames of one session's epochs together, one epoch after the other.
#[derive(Debug)]
pub(crate) struct Assembly {
    session: SessionId,
    branch: Term,
    machine: MachineInfo,
    staged_bytes_max: usize,
    /// The last epoch that was whole, or what the primary says of the one before its base.
    last: Option<EpochMark>,
    open: Option<OpenEpoch>,
    /// At the end of the last epoch that was whole.
    state: Arc<Vec<u8>>,
}

/// What a frame of an epoch led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Assembled {
    /// The epoch begins.
    Begun(EpochId, EpochBegin),
    /// More is to come.
    Part,
    /// The epoch is whole.
    Whole(Box<AssembledEpoch>),
}

impl Assembly {
    pub(crate) fn new(session: SessionId, branch: Term, machine: MachineInfo, staged_bytes_max: usize) -> Self {
        Assembly { session, branch, machine, staged_bytes_max, last: None, open: None, state: Arc::default() }
    }

    pub(crate) fn machine(&self) -> &MachineInfo {
        &self.machine
    }

    /// An epoch's frames are arriving.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The inputs of an epoch that began and did not end: nobody has its effects, so they are delivered again.
    pub(crate) fn inputs_of_open(&self) -> Vec<Input> {
        self.open.as_ref().map(|open| open.inputs.clone()).unwrap_or_default()
    }

    /// Takes a frame of an epoch. `waiting`: bytes of earlier epochs that wait here too.
    pub(crate) fn handle_frame(&mut self, frame: Frame, waiting: usize) -> Result<Assembled, PeerError> {
        let Frame { kind, epoch, body_checksum, .. } = frame;
        let message = frame.into_message().map_err(|source| PeerError::Body { kind, source })?;
        if let Message::EpochBegin(begin) = message {
            return self.begin(epoch, begin, body_checksum);
        }
        let Some(open) = &mut self.open else {
            return Err(PeerError::Unexpected { kind, state: "no epoch is open" });
        };
        if open.epoch != epoch {
            return Err(PeerError::WrongEpoch { kind, expected: open.epoch, theirs: epoch });
        }
        if let Message::EpochEnd(end) = message {
            return self.end(end);
        }
        open.digest.add(kind, body_checksum);
        open.take(message, &self.machine, &self.state)?;
        if open.staged_bytes + waiting > self.staged_bytes_max {
            return Err(PeerError::TooMuchStaged { limit: self.staged_bytes_max });
        }
        Ok(Assembled::Part)
    }

    fn begin(&mut self, epoch: EpochId, begin: EpochBegin, body_checksum: u64) -> Result<Assembled, PeerError> {
        let kind = Kind::EpochBegin;
        if self.open.is_some() {
            return Err(PeerError::Unexpected { kind, state: "another epoch is open" });
        }
        if begin.base.is_some() != self.last.is_none() || epoch == EpochId(0) {
            return Err(PeerError::Unexpected { kind, state: "a base is the first epoch of a session, and only that" });
        }
        let before = |chain| EpochMark { branch: self.branch, count: epoch.prev(), chain };
        self.last = self.last.or(begin.base.map(before));
        let expected = self.last.map_or(epoch, |last| last.count.next());
        if epoch != expected {
            return Err(PeerError::WrongEpoch { kind, expected, theirs: epoch });
        }
        self.open = Some(OpenEpoch::new(epoch, begin, body_checksum));
        Ok(Assembled::Begun(epoch, begin))
    }

    fn end(&mut self, end: EpochEnd) -> Result<Assembled, PeerError> {
        let open = self.open.take().expect("the caller looked");
        let last = self.last.expect("an open epoch is a base or continues another");
        let mark = match open.check_end(end).and_then(|()| open.identify(last, end.chain)) {
            Ok(mark) => mark,
            Err(error) => {
                // Its inputs were logged; they stay for a takeover.
                self.open = Some(open);
                return Err(error);
            }
        };
        self.last = Some(mark);
        let whole = open.finish(self.session, mark);
        self.state = Arc::clone(&whole.state);
        Ok(Assembled::Whole(Box::new(whole)))
    }
}

impl OpenEpoch {
    fn new(epoch: EpochId, begin: EpochBegin, body_checksum: u64) -> Self {
        let mut digest = EpochDigest::new(epoch);
        digest.add(Kind::EpochBegin, body_checksum);
        OpenEpoch {
            epoch,
            begin,
            log_closed: false,
            inputs: Vec::new(),
            pages: Vec::new(),
            state: Vec::new(),
            disk_writes: Vec::new(),
            disk_copies: Vec::new(),
            outputs: Vec::new(),
            arrived: EpochEnd::default(),
            digest,
            staged_bytes: ITEM_OVERHEAD,
        }
    }

    /// `before`: the state at the end of the epoch before, empty if there was none.
    fn take(&mut self, message: Message, machine: &MachineInfo, before: &[u8]) -> Result<(), PeerError> {
        let kind = message.kind();
        if kind == Kind::EventLog && self.log_closed {
            return Err(PeerError::Unexpected { kind, state: "the epoch's log is closed" });
        }
        self.log_closed |= kind != Kind::EventLog;
        match message {
            Message::EventLog(inputs) => self.take_inputs(inputs),
            Message::Pages(body) => self.take_pages(PageBatch::validate(body, machine, true)?),
            Message::State(part) => self.take_state(&part),
            Message::StateDelta(delta) => return self.take_state_delta(&delta, before),
            Message::DiskWrites(writes) => return self.take_disk_writes(writes, machine),
            Message::DiskCopies(copies) => return self.take_disk_copies(&copies, machine),
            Message::Outputs(outputs) => self.take_outputs(outputs),
            _ => return Err(PeerError::Unexpected { kind, state: "an epoch is open" }),
        }
        Ok(())
    }

    fn take_inputs(&mut self, inputs: Vec<Input>) {
        self.arrived.inputs += inputs.len() as u64;
        self.staged_bytes += inputs.iter().map(|input| input.bytes.len() + ITEM_OVERHEAD).sum::<usize>();
        self.inputs.extend(inputs);
    }

    fn take_pages(&mut self, batch: PageBatch) {
        self.arrived.pages += batch.page_count();
        self.staged_bytes += batch.byte_len() + ITEM_OVERHEAD;
        self.pages.push(batch);
    }

    fn take_state(&mut self, part: &[u8]) {
        self.arrived.state_bytes += part.len() as u64;
        self.staged_bytes += part.len();
        self.state.extend_from_slice(part);
    }

    fn take_state_delta(&mut self, delta: &StateDelta, before: &[u8]) -> Result<(), PeerError> {
        let kind = Kind::StateDelta;
        if !self.state.is_empty() {
            return Err(PeerError::Unexpected { kind, state: "the epoch has a state" });
        }
        let state = "the state of the epoch before is another";
        let whole = delta.apply(before).ok_or(PeerError::Unexpected { kind, state })?;
        self.take_state(&whole);
        Ok(())
    }

    fn take_disk_writes(&mut self, writes: Vec<DiskWrite>, machine: &MachineInfo) -> Result<(), PeerError> {
        if !self.disk_copies.is_empty() {
            let state = "the epoch's copies, which lie over its disk writes, came before";
            return Err(PeerError::Unexpected { kind: Kind::DiskWrites, state });
        }
        for DiskWrite { disk, offset, data } in &writes {
            check_disk_range(machine, *disk, *offset, data.len())?;
        }
        self.arrived.disk_writes += writes.len() as u64;
        self.staged_bytes += writes.iter().map(|write| write.data.len() + ITEM_OVERHEAD).sum::<usize>();
        self.disk_writes.extend(writes);
        Ok(())
    }

    /// What they will take as disk writes counts now.
    fn take_disk_copies(&mut self, copies: &[DiskCopy], machine: &MachineInfo) -> Result<(), PeerError> {
        for DiskCopy { disk, offset, gfn, at, len } in copies {
            check_disk_range(machine, *disk, *offset, usize::from(*len))?;
            let is_in_page = *len > 0 && usize::from(*at) + usize::from(*len) <= PAGE_SIZE;
            if !is_in_page || !machine.has_page(*gfn) {
                return Err(PeerError::NoSuchCopy { gfn: *gfn, at: *at, len: *len });
            }
            self.staged_bytes += usize::from(*len) + ITEM_OVERHEAD;
        }
        self.arrived.disk_writes += copies.len() as u64;
        self.disk_copies.extend(copies);
        Ok(())
    }

    fn take_outputs(&mut self, outputs: Vec<Output>) {
        self.arrived.outputs += outputs.len() as u64;
        self.staged_bytes += outputs.iter().map(|output| output.bytes.len() + ITEM_OVERHEAD).sum::<usize>();
        self.outputs.extend(outputs);
    }

    fn check_end(&self, end: EpochEnd) -> Result<(), PeerError> {
        let EpochEnd { inputs, pages, state_bytes, disk_writes, outputs, checksum, chain: _ } = self.arrived;
        assert_eq!(checksum, 0, "the checksum of what arrived is in the digest");
        let sums = [
            ("the count of inputs", end.inputs, inputs),
            ("the count of pages", end.pages, pages),
            ("the length of the state", end.state_bytes, state_bytes),
            ("the count of disk writes", end.disk_writes, disk_writes),
            ("the count of outputs", end.outputs, outputs),
            ("the checksum", end.checksum, self.digest.value()),
        ];
        match sums.into_iter().find(|(_, theirs, ours)| theirs != ours) {
            Some((what, theirs, ours)) => Err(PeerError::DoesNotAddUp { epoch: self.epoch, what, theirs, ours }),
            None => Ok(()),
        }
    }

    /// Its identity behind `last`, if the primary says the same.
    fn identify(&self, last: EpochMark, theirs: ChainHash) -> Result<EpochMark, PeerError> {
        let mark = last.next(Some(StateDigest::of(&self.state)));
        if mark.chain == theirs {
            Ok(mark)
        } else {
            Err(PeerError::OtherLine { epoch: self.epoch, ours: mark.chain, theirs })
        }
    }

    fn finish(self, session: SessionId, mark: EpochMark) -> AssembledEpoch {
        let OpenEpoch {
            epoch: _, begin, inputs, pages, state, disk_writes, disk_copies, outputs, staged_bytes, ..
        } = self;
        AssembledEpoch {
            session,
            mark,
            base: begin.base.is_some(),
            inputs,
            pages,
            state: Arc::new(state),
            disk_writes,
            disk_copies,
            outputs: Arc::new(outputs),
            staged_bytes,
        }
    }
}

/// Whether that disk has that range, to compare.
pub(crate) fn check_disk_exists(machine: &MachineInfo, disk: u16, offset: u64, len: usize) -> Result<(), PeerError> {
    let len = len as u64;
    if machine.has_disk_range(disk, offset, len) {
        Ok(())
    } else {
        Err(PeerError::NoSuchDiskRange { disk, offset, len })
    }
}

/// Whether a write may touch that range of that disk.
pub(crate) fn check_disk_range(machine: &MachineInfo, disk: u16, offset: u64, len: usize) -> Result<(), PeerError> {
    let len = len as u64;
    if machine.has_writable(disk, offset, len) { Ok(()) } else { Err(PeerError::NoSuchDiskRange { disk, offset, len }) }
}

#[cfg(test)]
#[path = "assembly_tests.rs"]
mod tests;
