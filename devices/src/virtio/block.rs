//! virtio-block over a disk that the host lends.
//!
//! Requests are served one after the other inside `handle_notify`; the disk is an argument ([`BlockBackend`]), so that
//! what the guest wrote belongs to the running epoch and is the epoch's to commit or to throw away. A guest's FLUSH is
//! passed to the backend; what it means is decided there.
//!
//! A backend that has no room now says so: the request is not answered, it and those behind it stay in the ring, and are
//! served when the host says that it is worth a try. The guest sees a disk that takes long.
//!
//! Offered: SEG_MAX, SIZE_MAX, BLK_SIZE, FLUSH, and RO for a read-only disk. Not offered: discard, write zeroes, more
//! than one queue, topology.
//!
//! Bounds: a request carries at most [`REQUEST_BYTES_MAX`] bytes and is copied in pieces of [`COPY_BYTES`]; how many are
//! served at a time is the caller's [`Turn`]. A turn may be over in the middle of a request: it stays in the ring, and goes on
//! there in the next turn. How far it was is not saved: a restored device does it again from its beginning, which comes to the
//! same, since the guest was told nothing.

#[cfg(test)]
pub(crate) mod tests;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk as wire;
use vm_memory::GuestMemory;

use super::queue::{Chain, ChainOutcome, QueueError, VirtQueue};
use super::turn::Turn;
use super::{DeviceState, VirtioDevice, read_config_bytes};
use crate::RestoreError;
use crate::counters::Counters;

/// Bytes of a sector; the unit of all offsets of the protocol.
pub const SECTOR: u64 = 512;
/// Most bytes that one request may carry.
pub const REQUEST_BYTES_MAX: u64 = 16 << 20;
/// Bytes copied at a time between guest memory and the backend.
pub const COPY_BYTES: usize = 64 << 10;
/// Bytes of the identifier that GET_ID gives.
pub const ID_BYTES: usize = wire::VIRTIO_BLK_ID_BYTES as usize;

const QUEUE_SIZE: u16 = 256;
const HEADER_BYTES: u64 = 16;
/// A chain holds a header, the data and a status byte.
const SEG_MAX: u32 = 126;
const SEGMENT_BYTES_MAX: u32 = 64 << 10;

const STATUS_OK: u8 = wire::VIRTIO_BLK_S_OK as u8;
const STATUS_IOERR: u8 = wire::VIRTIO_BLK_S_IOERR as u8;
const STATUS_UNSUPPORTED: u8 = wire::VIRTIO_BLK_S_UNSUPP as u8;

/// A disk that the host lends to the device while it serves requests.
///
/// Offsets and lengths are multiples of [`SECTOR`] and lie within `len_bytes()`.
pub trait BlockBackend {
    /// Bytes of the disk.
    fn len_bytes(&self) -> u64;
    /// Fills `data` from `offset`.
    fn read_at(&mut self, offset: u64, data: &mut [u8]) -> Result<(), BlockError>;
    /// Writes `data` at `offset`.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), BlockError>;
    /// Everything written so far is to survive with the epoch.
    fn flush(&mut self) -> Result<(), BlockError>;
}

/// Why a backend did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// It cannot do it now. The request may be done again from its beginning, whatever part of it was done.
    #[error("block backend: not now")]
    NotNow,
    /// It failed. The guest sees an I/O error; the backend keeps what the operator must know.
    #[error("block backend: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The guest is told this status.
    Status(u8),
    /// The guest is told nothing yet.
    Unfinished(ChainOutcome),
}

/// A request that moves data. In the guest's hands until it is answered: what it says is looked at anew each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Transfer {
    head: u16,
    kind: u32,
    sector: u64,
    len: u64,
}

/// What the machine's owner chose for a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockConfig {
    /// Sectors that the guest sees.
    pub sectors: u64,
    /// The guest may not write.
    pub read_only: bool,
    /// What GET_ID answers; at most [`ID_BYTES`] bytes, padded with zeroes.
    pub id: Vec<u8>,
}

/// Saved form of [`Block`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// The disk as the guest sees it.
    pub config: BlockConfig,
}

impl DeviceState for BlockState {
    const NAME: &'static str = "virtio-block";
    const VERSION: u16 = 1;
}

/// A virtio-block device.
#[derive(Debug)]
pub struct Block {
    config: BlockConfig,
    copy: Vec<u8>,
    /// The request that was not finished, and how many of its bytes are done.
    begun: Option<(Transfer, u64)>,
    counters: Counters,
}

impl Block {
    /// A disk as `config` says. Panics if the id is longer than [`ID_BYTES`].
    #[must_use]
    pub fn new(config: BlockConfig) -> Self {
        assert!(config.id.len() <= ID_BYTES, "a disk id has at most {ID_BYTES} bytes");
        Self { config, copy: Vec::new(), begun: None, counters: Counters::default() }
    }

    /// The disk as the guest sees it.
    pub fn config(&self) -> &BlockConfig {
        &self.config
    }

    /// Serves one request as far as `turn` lasts; gives the bytes written to the guest, or what keeps it from its end.
    fn serve<M: GuestMemory>(
        &mut self,
        chain: &Chain,
        memory: &M,
        disk: &mut dyn BlockBackend,
        turn: &mut Turn<'_>,
    ) -> Result<Result<u32, ChainOutcome>, QueueError> {
        // A chain without a place for the status cannot be answered.
        let status_at = chain.writable_len().checked_sub(1).ok_or(QueueError::Chain)?;
        let (status, data_len) = match self.request(chain, status_at, memory, disk, turn) {
            Ok(len) => (STATUS_OK, len),
            Err(Refusal::Status(status)) => (status, 0),
            Err(Refusal::Unfinished(served)) => return Ok(Err(served)),
        };
        if !chain.write(memory, status_at, &[status]) {
            return Err(QueueError::Buffer);
        }
        self.counters.completed += 1;
        // After an error nothing is promised about the data; only the status byte counts as written.
        Ok(Ok(u32::try_from(data_len).expect("bounded by REQUEST_BYTES_MAX") + 1))
    }

    /// Does one request; gives the bytes written to the guest.
    fn request<M: GuestMemory>(
        &mut self,
        chain: &Chain,
        writable: u64,
        memory: &M,
        disk: &mut dyn BlockBackend,
        turn: &mut Turn<'_>,
    ) -> Result<u64, Refusal> {
        let mut header = [0; HEADER_BYTES as usize];
        if !chain.read(memory, 0, &mut header) {
            return Err(self.bad(STATUS_IOERR));
        }
        let kind = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
        let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
        let readable = chain.readable_len() - HEADER_BYTES;
        match kind {
            wire::VIRTIO_BLK_T_IN => {
                let transfer = Transfer { head: chain.head, kind, sector, len: writable };
                self.transfer(transfer, disk, turn, |disk, offset, at, piece| {
                    disk.read_at(offset, piece)?;
                    Ok(chain.write(memory, at, piece))
                })
            }
            wire::VIRTIO_BLK_T_OUT => {
                let transfer = Transfer { head: chain.head, kind, sector, len: readable };
                let written = self.transfer(transfer, disk, turn, |disk, offset, at, piece| {
                    Ok(chain.read(memory, HEADER_BYTES + at, piece) && disk.write_at(offset, piece).map(|()| true)?)
                });
                written.map(|_| 0)
            }
            wire::VIRTIO_BLK_T_FLUSH => disk.flush().map(|()| 0).map_err(|error| self.refused(&error)),
            wire::VIRTIO_BLK_T_GET_ID => self.get_id(chain, writable, memory),
            _ => Err(self.bad(STATUS_UNSUPPORTED)),
        }
    }

    /// Moves the data of a request piece by piece, from where it was left; gives its length. `each` gets the offset on the disk
    /// and in the data, and says whether the guest's buffers could be used.
    fn transfer(
        &mut self,
        transfer: Transfer,
        disk: &mut dyn BlockBackend,
        turn: &mut Turn<'_>,
        mut each: impl FnMut(&mut dyn BlockBackend, u64, u64, &mut [u8]) -> Result<bool, BlockError>,
    ) -> Result<u64, Refusal> {
        let begun = self.begun.take().filter(|(begun, _)| *begun == transfer);
        let Transfer { kind, sector, len, .. } = transfer;
        let start = self.range(sector, len, disk)?;
        if kind == wire::VIRTIO_BLK_T_OUT && self.config.read_only {
            return Err(self.bad(STATUS_IOERR));
        }
        let mut copy = std::mem::take(&mut self.copy);
        copy.resize(COPY_BYTES, 0);
        let first = begun.map_or(0, |(_, done)| done);
        let mut done = first;
        let result = loop {
            if done == len {
                break Ok(len);
            }
            if done > first && !turn.goes_on() {
                break Err(Refusal::Unfinished(ChainOutcome::InPart));
            }
            let size = (len - done).min(COPY_BYTES as u64);
            match each(disk, start + done, done, &mut copy[..size as usize]) {
                Ok(true) => done += size,
                Ok(false) => break Err(self.bad(STATUS_IOERR)),
                Err(error) => break Err(self.refused(&error)),
            }
            turn.spend(size);
        };
        self.copy = copy;
        if let Err(Refusal::Unfinished(_)) = result {
            self.begun = Some((transfer, done));
        }
        result
    }

    fn get_id<M: GuestMemory>(&mut self, chain: &Chain, writable: u64, memory: &M) -> Result<u64, Refusal> {
        let mut id = [0; ID_BYTES];
        id[..self.config.id.len()].copy_from_slice(&self.config.id);
        if writable < ID_BYTES as u64 || !chain.write(memory, 0, &id) {
            return Err(self.bad(STATUS_IOERR));
        }
        Ok(ID_BYTES as u64)
    }

    /// Byte offset of a request whose whole range lies on the disk as the guest sees it.
    fn range(&mut self, sector: u64, len: u64, disk: &dyn BlockBackend) -> Result<u64, Refusal> {
        let end = sector.checked_add(len / SECTOR);
        let fits = len > 0 && len.is_multiple_of(SECTOR) && len <= REQUEST_BYTES_MAX;
        if !fits || end.is_none_or(|end| end > self.config.sectors) {
            return Err(self.bad(STATUS_IOERR));
        }
        let start = sector
            .checked_mul(SECTOR)
            .filter(|start| disk.len_bytes().checked_sub(*start).is_some_and(|rest| rest >= len));
        // The backend is shorter than the guest was told: the host's fault.
        start.ok_or_else(|| self.backend_failed())
    }

    fn bad(&mut self, status: u8) -> Refusal {
        self.counters.bad_requests += 1;
        Refusal::Status(status)
    }

    fn refused(&mut self, error: &BlockError) -> Refusal {
        match error {
            BlockError::NotNow => Refusal::Unfinished(ChainOutcome::NotNow),
            BlockError::Failed(_) => self.backend_failed(),
        }
    }

    fn backend_failed(&mut self) -> Refusal {
        self.counters.backend_errors += 1;
        Refusal::Status(STATUS_IOERR)
    }
}

impl VirtioDevice for Block {
    type Host = dyn BlockBackend;
    type State = BlockState;

    const DEVICE_ID: u32 = virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
    const QUEUE_SIZES: &'static [u16] = &[QUEUE_SIZE];

    fn features(&self) -> u64 {
        let bits = [wire::VIRTIO_BLK_F_SEG_MAX, wire::VIRTIO_BLK_F_SIZE_MAX, wire::VIRTIO_BLK_F_BLK_SIZE];
        let read_only = u64::from(self.config.read_only) << wire::VIRTIO_BLK_F_RO;
        bits.iter().fold(read_only | 1 << wire::VIRTIO_BLK_F_FLUSH, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 24];
        config[..8].copy_from_slice(&self.config.sectors.to_le_bytes());
        config[8..12].copy_from_slice(&SEGMENT_BYTES_MAX.to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..].copy_from_slice(&(SECTOR as u32).to_le_bytes());
        read_config_bytes(&config, offset, data);
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        let Self { config: _, copy: _, begun, counters: _ } = self;
        *begun = None;
    }

    fn handle_notify<M: GuestMemory>(
        &mut self,
        index: usize,
        queues: &mut [VirtQueue],
        memory: &M,
        host: &mut Self::Host,
        turn: &mut Turn<'_>,
    ) -> Result<(), QueueError> {
        queues[index].serve_while(memory, turn, |queue, chain, turn| match self.serve(&chain, memory, host, turn)? {
            Ok(len) => queue.add_used(memory, chain.head, len).map(|()| ChainOutcome::Done),
            Err(served) => Ok(served),
        })
    }

    fn save(&self) -> BlockState {
        let Self { config, copy: _, begun: _, counters: _ } = self;
        BlockState { config: config.clone() }
    }

    fn save_over(&self, state: &mut BlockState) {
        // It never changes.
        if state.config != self.config {
            *state = self.save();
        }
    }

    fn restore(state: BlockState) -> Result<Self, RestoreError> {
        let BlockState { config } = state;
        let (len, max) = (config.id.len(), ID_BYTES);
        if len > max {
            return Err(RestoreError::TooLong { device: Self::NAME, buffer: "id", len, max });
        }
        Ok(Self::new(config))
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }
}
