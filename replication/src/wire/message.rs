//! The bodies of the frames, decoded and checked.

use std::borrow::Borrow;

use super::body::{Body, BodyError, BodyReader, BodyWriter};
use super::exchange::{Forswear, Forsworn};
use super::{Frame, Kind, Link, encode_frame, write_frame};
use crate::id::{EpochId, Gfn, Term};
use crate::lineage::{ChainHash, EpochMark};
use crate::output::{Input, Output};
use crate::state::{Difference, StateDelta};
use crate::view::{Greeting, Incarnation, Known, Location, Nonce, Place, PlaceKind, RecordHash, RegisterId};

/// Longest opaque configuration in a Hello.
const CONFIG_MAX: usize = 64 << 10;
/// Most disks, networks, memory ranges or processors of a machine.
const MACHINE_PARTS_MAX: usize = 256;
/// Largest memory, in pages: 64 TiB.
const RAM_PAGES_MAX: u64 = 1 << 34;

/// A range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// Its first page.
    pub first: Gfn,
    /// Its pages.
    pub pages: u64,
}

/// A disk of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Its size in bytes.
    pub len: u64,
    /// The guest cannot write it; it is not replicated.
    pub readonly: bool,
}

/// What the backup must be able to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineInfo {
    /// Guest memory, ascending and without overlap.
    pub ram: Vec<RamRange>,
    /// Processors.
    pub vcpus: u16,
    /// Disks, in the order of their numbers.
    pub disks: Vec<DiskInfo>,
    /// Network devices.
    pub nets: u16,
    /// What the two drivers agree on and this crate does not look into; at most 64 KiB.
    pub config: Vec<u8>,
}

impl MachineInfo {
    /// Bytes of guest memory.
    pub fn ram_bytes(&self) -> u64 {
        self.ram.iter().map(|range| range.pages << 12).sum()
    }

    /// Whether `gfn` is guest memory.
    pub fn has_page(&self, gfn: Gfn) -> bool {
        self.ram.iter().any(|range| gfn.0 >= range.first.0 && gfn.0 - range.first.0 < range.pages)
    }

    /// Whether `len` bytes at `offset` are on disk `disk`.
    pub fn has_disk_range(&self, disk: u16, offset: u64, len: u64) -> bool {
        let end = offset.checked_add(len);
        self.disks.get(usize::from(disk)).is_some_and(|info| end.is_some_and(|end| end <= info.len))
    }

    /// The same, and the disk can be written.
    pub fn has_writable(&self, disk: u16, offset: u64, len: u64) -> bool {
        self.has_disk_range(disk, offset, len) && !self.disks[usize::from(disk)].readonly
    }
}

/// The first frame of a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the primary knows of the VM's register; none: it has no witness.
    pub register: Option<Greeting>,
    /// The program and version that writes, for people.
    pub writer: String,
    /// The VM's name.
    pub vm_name: String,
    /// An epoch counts as complete only when its disk writes are in a synced log of the backup.
    pub durable: bool,
    /// The machine.
    pub machine: MachineInfo,
}

/// The answer yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloAck {
    /// The program and version that writes, for people.
    pub writer: String,
    /// Where the backup is, for the register; none: it has no witness.
    pub place: Option<Place>,
    /// What the backup left at the witness for the primary to find.
    pub nonce: Option<Nonce>,
    /// The last epoch of a whole copy of the guest that it has kept, and that this session will be written over.
    pub holds: Option<EpochMark>,
}

/// Why a Hello is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum RefuseCode {
    /// The backup still holds a session that is not settled; try again later.
    Busy = 1,
    /// Another VM's name.
    WrongVm = 2,
    /// The machine does not fit: disks, memory, devices.
    Machine = 3,
    /// The primary's term is older than one that the backup has seen: it was replaced.
    StaleTerm = 4,
    /// The backup runs the guest itself.
    NotABackup = 5,
    /// Anything else; the text says what.
    Other = 6,
    /// The backup does not see the witness that the primary sees, or that one names another primary.
    Witness = 7,
    /// The backup knows another register of the same generation: two were made of one, by operators who did not know of each other.
    Rival = 8,
}

impl RefuseCode {
    /// All of them.
    pub const ALL: [RefuseCode; 8] = [
        RefuseCode::Busy,
        RefuseCode::WrongVm,
        RefuseCode::Machine,
        RefuseCode::StaleTerm,
        RefuseCode::NotABackup,
        RefuseCode::Other,
        RefuseCode::Witness,
        RefuseCode::Rival,
    ];
}

/// The answer no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// Why, for the program.
    pub code: RefuseCode,
    /// Why, for people.
    pub text: String,
}

/// A piece of a disk, before the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResyncDisk {
    /// Which disk.
    pub disk: u16,
    /// Where, in bytes.
    pub offset: u64,
    /// What.
    pub data: Vec<u8>,
}

/// Hashes of consecutive chunks of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOffer {
    /// Which disk.
    pub disk: u16,
    /// Number of the first chunk.
    pub first_chunk: u64,
    /// Bytes of a chunk; the disk's last one may be shorter.
    pub chunk_bytes: u32,
    /// One hash for each chunk.
    pub hashes: Vec<[u8; 16]>,
}

/// Which of the offered chunks the backup needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskWant {
    /// Which disk.
    pub disk: u16,
    /// Number of the first chunk.
    pub first_chunk: u64,
    /// One for each chunk offered.
    pub wanted: Vec<bool>,
}

/// A write of the guest to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskWrite {
    /// Which disk.
    pub disk: u16,
    /// Where, in bytes.
    pub offset: u64,
    /// What.
    pub data: Vec<u8>,
}

/// A write of the guest to a disk whose bytes are in its memory: as the page is at the end of the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskCopy {
    /// Which disk.
    pub disk: u16,
    /// Where, in bytes.
    pub offset: u64,
    /// Which page.
    pub gfn: Gfn,
    /// Where in the page.
    pub at: u16,
    /// How many bytes, at least one.
    pub len: u16,
}

impl DiskCopy {
    /// Bytes of one in a frame.
    pub(crate) const WIRE_LEN: usize = 2 + 8 + 8 + 2 + 2;

    pub(crate) fn encode(&self, body: &mut BodyWriter) {
        body.u16(self.disk).u64(self.offset).u64(self.gfn.0).u16(self.at).u16(self.len);
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<DiskCopy, BodyError> {
        let (disk, offset, gfn) = (body.u16("disk number")?, body.u64("disk offset")?, Gfn(body.u64("gfn")?));
        Ok(DiskCopy { disk, offset, gfn, at: body.u16("offset in the page")?, len: body.u16("length of the copy")? })
    }
}

/// An epoch begins on the wire. It may be sent as soon as the epoch runs, so that its inputs are logged early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochBegin {
    /// The base: with what the resync brought, this epoch makes the backup whole. The chain hash of the epoch before it.
    pub base: Option<ChainHash>,
    /// The primary's `released` pointer.
    pub released: EpochId,
}

/// What an epoch must add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochEnd {
    /// Inputs in the event log.
    pub inputs: u64,
    /// Pages.
    pub pages: u64,
    /// Bytes of state.
    pub state_bytes: u64,
    /// Disk writes.
    pub disk_writes: u64,
    /// Outputs.
    pub outputs: u64,
    /// Over the kinds and body checksums of all frames of the epoch, in order.
    pub checksum: u64,
    /// The hash over the epoch and all before it.
    pub chain: ChainHash,
}

/// All up to here is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The last such epoch.
    pub complete: EpochId,
    /// The hash over it and all before it.
    pub chain: ChainHash,
}

/// Alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The last epoch the sender knows to be released.
    pub released: EpochId,
    /// The last epoch the sender knows to be complete on the backup.
    pub complete: EpochId,
    /// The last epoch the sender knows to be committed. Its output may not have left yet.
    pub committed: EpochId,
}

/// Why a session ends cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GoodbyeReason {
    /// The guest powered off or was stopped: nobody runs it any more.
    GuestEnded = 1,
    /// The primary continues without this backup.
    Unprotected = 2,
    /// The backup leaves.
    BackupStops = 3,
    /// The guest was handed over to the backup, and runs there.
    Continued = 4,
}

/// The primary hands its guest over: it stands still, and all of its output has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Its last epoch.
    pub last: EpochId,
    /// The chain hash of that: which epoch of this number it is.
    pub chain: ChainHash,
}

/// The clean end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// Why, for the program.
    pub reason: GoodbyeReason,
    /// Why, for people.
    pub text: String,
}

impl StateDelta {
    fn encode(&self, body: &mut BodyWriter) {
        body.u32(self.len).count(self.runs.len());
        for (offset, bytes) in &self.runs {
            body.u32(*offset).bytes(bytes);
        }
    }

    /// The body of a difference that is nowhere but in the two states.
    pub(crate) fn encode_difference(difference: Difference<'_>, body: &mut BodyWriter) {
        body.u32(difference.len() as u32).count(difference.runs().count());
        for (offset, bytes) in difference.runs() {
            body.u32(offset).bytes(bytes);
        }
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<StateDelta, BodyError> {
        let len = body.u32("length of the state")?;
        let count = body.count(8, "runs of the state")?;
        let run =
            |body: &mut BodyReader<'_>| Ok((body.u32("offset of a run")?, body.bytes("bytes of a run")?.to_vec()));
        let runs = (0..count).map(|_| run(body)).collect::<Result<_, BodyError>>()?;
        Ok(StateDelta { len, runs })
    }
}

/// A frame with its body decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is described at its kind and its struct")]
pub enum Message {
    Hello(Hello),
    HelloAck(HelloAck),
    Refuse(Refuse),
    ResyncPages(Vec<u8>),
    ResyncDisk(ResyncDisk),
    DiskOffer(DiskOffer),
    DiskWant(DiskWant),
    EpochBegin(EpochBegin),
    EventLog(Vec<Input>),
    Pages(Vec<u8>),
    State(Vec<u8>),
    DiskWrites(Vec<DiskWrite>),
    Outputs(Vec<Output>),
    EpochEnd(EpochEnd),
    Ack(Ack),
    Heartbeat(Heartbeat),
    Goodbye(Goodbye),
    StateDelta(StateDelta),
    DiskCopies(Vec<DiskCopy>),
    Forswear(Forswear),
    Forsworn(Forsworn),
    Handover(Handover),
}

impl Message {
    /// Decodes a frame's body. Page batches stay bytes; [`crate::page::PageBatch::validate`] looks into them.
    pub fn decode(kind: Kind, body: impl Into<Body>) -> Result<Message, BodyError> {
        let body = body.into();
        // These three own their bytes; the others are read field by field.
        match kind {
            Kind::ResyncPages => return Ok(Message::ResyncPages(body.into_vec())),
            Kind::Pages => return Ok(Message::Pages(body.into_vec())),
            Kind::State => return Ok(Message::State(body.into_vec())),
            _ => {}
        }
        let mut reader = BodyReader::new(&body);
        let message = decode_fields(kind, &mut reader)?;
        reader.finish()?;
        Ok(message)
    }

    /// The kind of frame that carries it.
    pub fn kind(&self) -> Kind {
        match self {
            Message::Hello(_) => Kind::Hello,
            Message::HelloAck(_) => Kind::HelloAck,
            Message::Refuse(_) => Kind::Refuse,
            Message::ResyncPages(_) => Kind::ResyncPages,
            Message::ResyncDisk(_) => Kind::ResyncDisk,
            Message::DiskOffer(_) => Kind::DiskOffer,
            Message::DiskWant(_) => Kind::DiskWant,
            Message::EpochBegin(_) => Kind::EpochBegin,
            Message::EventLog(_) => Kind::EventLog,
            Message::Pages(_) => Kind::Pages,
            Message::State(_) => Kind::State,
            Message::DiskWrites(_) => Kind::DiskWrites,
            Message::Outputs(_) => Kind::Outputs,
            Message::EpochEnd(_) => Kind::EpochEnd,
            Message::Ack(_) => Kind::Ack,
            Message::Heartbeat(_) => Kind::Heartbeat,
            Message::Goodbye(_) => Kind::Goodbye,
            Message::StateDelta(_) => Kind::StateDelta,
            Message::DiskCopies(_) => Kind::DiskCopies,
            Message::Forswear(_) => Kind::Forswear,
            Message::Forsworn(_) => Kind::Forsworn,
            Message::Handover(_) => Kind::Handover,
        }
    }

    /// Appends the message as one frame to `out`; gives the checksum of its body.
    ///
    /// # Panics
    /// If the body would exceed [`super::BODY_MAX`]: the sender must split.
    pub fn encode(&self, link: &Link, epoch: EpochId, out: &mut Vec<u8>) -> u64 {
        match self {
            Message::ResyncPages(body) | Message::Pages(body) | Message::State(body) => {
                encode_frame(link, self.kind(), epoch, body, out)
            }
            _ => write_frame(link, self.kind(), epoch, out, |body| self.encode_fields(body)),
        }
    }

    /// The message as one frame.
    pub fn to_frame(&self, link: &Link, epoch: EpochId) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(link, epoch, &mut out);
        out
    }

    fn encode_fields(&self, body: &mut BodyWriter) {
        match self {
            Message::Hello(hello) => hello.encode(body),
            Message::HelloAck(ack) => ack.encode(body),
            Message::Refuse(Refuse { code, text }) => drop(body.u16(*code as u16).text(text)),
            Message::ResyncPages(bytes) | Message::Pages(bytes) | Message::State(bytes) => drop(body.raw(bytes)),
            Message::ResyncDisk(ResyncDisk { disk, offset, data }) => drop(body.u16(*disk).u64(*offset).raw(data)),
            Message::DiskOffer(offer) => offer.encode(body),
            Message::DiskWant(want) => want.encode(body),
            Message::EpochBegin(begin) => begin.encode(body),
            Message::EventLog(inputs) => encode_inputs(inputs, body),
            Message::DiskWrites(writes) => encode_disk_writes(writes, body),
            Message::Outputs(outputs) => encode_outputs(outputs, body),
            Message::EpochEnd(end) => end.encode(body),
            Message::Ack(Ack { complete, chain }) => drop(body.u64(complete.0).raw(&chain.0)),
            Message::Heartbeat(Heartbeat { released, complete, committed }) => {
                body.u64(released.0).u64(complete.0).u64(committed.0);
            }
            Message::Goodbye(Goodbye { reason, text }) => drop(body.u8(*reason as u8).text(text)),
            Message::StateDelta(delta) => delta.encode(body),
            Message::DiskCopies(copies) => {
                body.count(copies.len());
                copies.iter().for_each(|copy| copy.encode(body));
            }
            Message::Forswear(forswear) => forswear.encode(body),
            Message::Forsworn(forsworn) => forsworn.encode(body),
            Message::Handover(Handover { last, chain }) => drop(body.u64(last.0).raw(&chain.0)),
        }
    }
}

impl Frame {
    /// The body decoded; the frame's bytes move into it.
    pub fn into_message(self) -> Result<Message, BodyError> {
        Message::decode(self.kind, self.body)
    }
}

fn decode_fields(kind: Kind, body: &mut BodyReader<'_>) -> Result<Message, BodyError> {
    Ok(match kind {
        Kind::Hello => Message::Hello(Hello::decode(body)?),
        Kind::HelloAck => Message::HelloAck(HelloAck::decode(body)?),
        Kind::Refuse => Message::Refuse(Refuse::decode(body)?),
        Kind::ResyncDisk => Message::ResyncDisk(ResyncDisk::decode(body)?),
        Kind::DiskOffer => Message::DiskOffer(DiskOffer::decode(body)?),
        Kind::DiskWant => Message::DiskWant(DiskWant::decode(body)?),
        Kind::EpochBegin => Message::EpochBegin(EpochBegin::decode(body)?),
        Kind::EventLog => Message::EventLog(decode_inputs(body)?),
        Kind::DiskWrites => Message::DiskWrites(decode_disk_writes(body)?),
        Kind::Outputs => Message::Outputs(decode_outputs(body)?),
        Kind::EpochEnd => Message::EpochEnd(EpochEnd::decode(body)?),
        Kind::Ack => {
            Message::Ack(Ack { complete: body.epoch("acked epoch")?, chain: ChainHash(body.hash("chain hash")?) })
        }
        Kind::Heartbeat => Message::Heartbeat(Heartbeat {
            released: body.epoch("released epoch")?,
            complete: body.epoch("complete epoch")?,
            committed: body.epoch("committed epoch")?,
        }),
        Kind::Goodbye => Message::Goodbye(Goodbye::decode(body)?),
        Kind::StateDelta => Message::StateDelta(StateDelta::decode(body)?),
        Kind::DiskCopies => {
            let count = body.count(DiskCopy::WIRE_LEN, "count of disk copies")?;
            Message::DiskCopies((0..count).map(|_| DiskCopy::decode(body)).collect::<Result<_, BodyError>>()?)
        }
        Kind::Forswear => Message::Forswear(Forswear::decode(body)?),
        Kind::Forsworn => Message::Forsworn(Forsworn::decode(body)?),
        Kind::Handover => {
            Message::Handover(Handover { last: body.epoch("last epoch")?, chain: ChainHash(body.hash("chain hash")?) })
        }
        Kind::ResyncPages | Kind::Pages | Kind::State => unreachable!("these own their bytes; see Message::decode"),
    })
}

fn flag(body: &mut BodyReader<'_>, what: &'static str) -> Result<bool, BodyError> {
    match body.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(BodyError::Value { what, value: u64::from(value) }),
    }
}

fn parts(body: &mut BodyReader<'_>, item_min: usize, what: &'static str) -> Result<usize, BodyError> {
    let count = body.count(item_min, what)?;
    if count > MACHINE_PARTS_MAX { Err(BodyError::Value { what, value: count as u64 }) } else { Ok(count) }
}

impl Hello {
    fn encode(&self, body: &mut BodyWriter) {
        let Hello { register, writer, vm_name, durable, machine } = self;
        body.text(writer).text(vm_name).u8(u8::from(*durable));
        encode_greeting(register.as_ref(), body);
        machine.encode(body);
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Hello, BodyError> {
        Ok(Hello {
            writer: body.text("writer")?,
            vm_name: body.text("VM name")?,
            durable: flag(body, "durability")?,
            register: decode_greeting(body)?,
            machine: MachineInfo::decode(body)?,
        })
    }
}

fn encode_greeting(greeting: Option<&Greeting>, body: &mut BodyWriter) {
    body.u8(u8::from(greeting.is_some()));
    if let Some(Greeting { known: Known { register, generation, number, hash }, primary, nonce }) = greeting {
        body.raw(&register.0).u64(*generation).u64(*number).raw(&hash.0).raw(&primary.0).raw(&nonce.0);
    }
}

fn decode_greeting(body: &mut BodyReader<'_>) -> Result<Option<Greeting>, BodyError> {
    if !flag(body, "witness")? {
        return Ok(None);
    }
    let register = RegisterId(body.hash("register")?);
    let (generation, number) = (body.u64("generation")?, body.u64("record")?);
    let known = Known { register, generation, number, hash: RecordHash(body.hash("digest of the record")?) };
    let primary = Incarnation(body.hash("primary")?);
    Ok(Some(Greeting { known, primary, nonce: Nonce(body.hash("nonce")?) }))
}

impl HelloAck {
    fn encode(&self, body: &mut BodyWriter) {
        let HelloAck { writer, place, nonce, holds } = self;
        body.text(writer).u8(u8::from(place.is_some()));
        if let Some(Place { id, kind: _, location: Location { host, machine, boot, lock } }) = place {
            body.raw(&id.0).text(host).text(machine).text(boot).text(lock);
        }
        body.u8(u8::from(nonce.is_some()));
        if let Some(Nonce(nonce)) = nonce {
            body.raw(nonce);
        }
        body.u8(u8::from(holds.is_some()));
        if let Some(EpochMark { branch, count, chain }) = holds {
            body.u64(branch.0).u64(count.0).raw(&chain.0);
        }
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<HelloAck, BodyError> {
        let writer = body.text("writer")?;
        let place = if flag(body, "place")? { Some(decode_place(body)?) } else { None };
        let nonce = if flag(body, "nonce")? { Some(Nonce(body.hash("nonce")?)) } else { None };
        let holds = if flag(body, "copy")? { Some(decode_mark(body)?) } else { None };
        Ok(HelloAck { writer, place, nonce, holds })
    }
}

fn decode_mark(body: &mut BodyReader<'_>) -> Result<EpochMark, BodyError> {
    let (branch, count) = (Term(body.u64("branch")?), body.epoch("epoch")?);
    Ok(EpochMark { branch, count, chain: ChainHash(body.hash("chain hash")?) })
}

/// A backup is a process.
fn decode_place(body: &mut BodyReader<'_>) -> Result<Place, BodyError> {
    let id = Incarnation(body.hash("place")?);
    let (host, machine) = (body.text("host")?, body.text("machine id")?);
    let location = Location { host, machine, boot: body.text("boot id")?, lock: body.text("lock file")? };
    Ok(Place { id, kind: PlaceKind::Process, location })
}

impl MachineInfo {
    fn encode(&self, body: &mut BodyWriter) {
        let MachineInfo { ram, vcpus, disks, nets, config } = self;
        body.u16(*vcpus).u16(*nets).count(ram.len());
        for RamRange { first, pages } in ram {
            body.u64(first.0).u64(*pages);
        }
        body.count(disks.len());
        for DiskInfo { len, readonly } in disks {
            body.u64(*len).u8(u8::from(*readonly));
        }
        body.bytes(config);
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<MachineInfo, BodyError> {
        let vcpus = body.u16("processor count")?;
        let nets = body.u16("network count")?;
        let ranges = parts(body, 16, "memory range count")?;
        let ram = (0..ranges).map(|_| RamRange::decode(body)).collect::<Result<Vec<_>, _>>()?;
        check_ram(&ram)?;
        let disks = parts(body, 9, "disk count")?;
        let disks = (0..disks).map(|_| DiskInfo::decode(body)).collect::<Result<Vec<_>, _>>()?;
        let config = body.bytes("configuration")?;
        if config.len() > CONFIG_MAX {
            return Err(BodyError::Value { what: "configuration length", value: config.len() as u64 });
        }
        Ok(MachineInfo { ram, vcpus, disks, nets, config: config.to_vec() })
    }
}

fn check_ram(ram: &[RamRange]) -> Result<(), BodyError> {
    let mut end = 0;
    for range in ram {
        let next = range.first.0.checked_add(range.pages).filter(|next| *next <= RAM_PAGES_MAX);
        if range.first.0 < end || range.pages == 0 || next.is_none() {
            return Err(BodyError::Value { what: "memory range", value: range.first.0 });
        }
        end = next.expect("refused above");
    }
    Ok(())
}

impl RamRange {
    fn decode(body: &mut BodyReader<'_>) -> Result<RamRange, BodyError> {
        Ok(RamRange { first: Gfn(body.u64("memory range")?), pages: body.u64("memory range")? })
    }
}

impl DiskInfo {
    fn decode(body: &mut BodyReader<'_>) -> Result<DiskInfo, BodyError> {
        Ok(DiskInfo { len: body.u64("disk length")?, readonly: flag(body, "disk read-only flag")? })
    }
}

impl Refuse {
    fn decode(body: &mut BodyReader<'_>) -> Result<Refuse, BodyError> {
        let value = body.u16("refusal code")?;
        let code = RefuseCode::ALL.into_iter().find(|code| *code as u16 == value);
        let code = code.ok_or(BodyError::Value { what: "refusal code", value: u64::from(value) })?;
        Ok(Refuse { code, text: body.text("refusal")? })
    }
}

impl ResyncDisk {
    fn decode(body: &mut BodyReader<'_>) -> Result<ResyncDisk, BodyError> {
        let (disk, offset) = (body.u16("disk number")?, body.u64("disk offset")?);
        let data = body.take(body.left(), "disk data")?.to_vec();
        Ok(ResyncDisk { disk, offset, data })
    }
}

impl DiskOffer {
    fn encode(&self, body: &mut BodyWriter) {
        let DiskOffer { disk, first_chunk, chunk_bytes, hashes } = self;
        body.u16(*disk).u64(*first_chunk).u32(*chunk_bytes).count(hashes.len());
        for hash in hashes {
            body.raw(hash);
        }
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<DiskOffer, BodyError> {
        let (disk, first_chunk) = (body.u16("disk number")?, body.u64("chunk number")?);
        let chunk_bytes = body.u32("chunk size")?;
        if !chunk_bytes.is_power_of_two() || chunk_bytes < 512 {
            return Err(BodyError::Value { what: "chunk size", value: u64::from(chunk_bytes) });
        }
        let count = body.count(16, "hash count")?;
        let hashes = (0..count).map(|_| body.hash("chunk hash")).collect::<Result<Vec<_>, _>>()?;
        Ok(DiskOffer { disk, first_chunk, chunk_bytes, hashes })
    }
}

impl DiskWant {
    fn encode(&self, body: &mut BodyWriter) {
        let DiskWant { disk, first_chunk, wanted } = self;
        body.u16(*disk).u64(*first_chunk).count(wanted.len());
        for wanted in wanted {
            body.u8(u8::from(*wanted));
        }
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<DiskWant, BodyError> {
        let (disk, first_chunk) = (body.u16("disk number")?, body.u64("chunk number")?);
        let count = body.count(1, "chunk count")?;
        let wanted = (0..count).map(|_| flag(body, "chunk flag")).collect::<Result<Vec<_>, _>>()?;
        Ok(DiskWant { disk, first_chunk, wanted })
    }
}

impl EpochBegin {
    fn encode(&self, body: &mut BodyWriter) {
        let EpochBegin { base, released } = self;
        body.u64(released.0).u8(u8::from(base.is_some()));
        if let Some(ChainHash(chain)) = base {
            body.raw(chain);
        }
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<EpochBegin, BodyError> {
        let released = body.epoch("released epoch")?;
        let base = if flag(body, "base flag")? { Some(ChainHash(body.hash("chain hash")?)) } else { None };
        Ok(EpochBegin { base, released })
    }
}

impl EpochEnd {
    fn encode(&self, body: &mut BodyWriter) {
        let EpochEnd { inputs, pages, state_bytes, disk_writes, outputs, checksum, chain } = self;
        body.u64(*inputs).u64(*pages).u64(*state_bytes).u64(*disk_writes).u64(*outputs).u64(*checksum);
        body.raw(&chain.0);
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<EpochEnd, BodyError> {
        Ok(EpochEnd {
            inputs: body.u64("input count")?,
            pages: body.u64("page count")?,
            state_bytes: body.u64("state length")?,
            disk_writes: body.u64("disk write count")?,
            outputs: body.u64("output count")?,
            checksum: body.u64("epoch checksum")?,
            chain: ChainHash(body.hash("chain hash")?),
        })
    }
}

impl Goodbye {
    fn decode(body: &mut BodyReader<'_>) -> Result<Goodbye, BodyError> {
        let reason = match body.u8("goodbye reason")? {
            1 => GoodbyeReason::GuestEnded,
            2 => GoodbyeReason::Unprotected,
            3 => GoodbyeReason::BackupStops,
            4 => GoodbyeReason::Continued,
            value => return Err(BodyError::Value { what: "goodbye reason", value: u64::from(value) }),
        };
        Ok(Goodbye { reason, text: body.text("goodbye")? })
    }
}

/// Appends inputs as the body of an event log.
pub fn encode_inputs(inputs: &[Input], body: &mut BodyWriter) {
    body.count(inputs.len());
    for Input { device, bytes } in inputs {
        body.u16(*device).bytes(bytes);
    }
}

fn decode_inputs(body: &mut BodyReader<'_>) -> Result<Vec<Input>, BodyError> {
    let count = body.count(6, "input count")?;
    (0..count).map(|_| Ok(Input { device: body.u16("device")?, bytes: body.bytes("input")?.to_vec() })).collect()
}

fn encode_disk_writes(writes: &[DiskWrite], body: &mut BodyWriter) {
    body.count(writes.len());
    for DiskWrite { disk, offset, data } in writes {
        body.u16(*disk).u64(*offset).bytes(data);
    }
}

fn decode_disk_writes(body: &mut BodyReader<'_>) -> Result<Vec<DiskWrite>, BodyError> {
    let count = body.count(14, "disk write count")?;
    (0..count)
        .map(|_| {
            let (disk, offset) = (body.u16("disk number")?, body.u64("disk offset")?);
            Ok(DiskWrite { disk, offset, data: body.bytes("disk data")?.to_vec() })
        })
        .collect()
}

/// Appends outputs as the body of an Outputs frame.
pub fn encode_outputs(outputs: &[impl Borrow<Output>], body: &mut BodyWriter) {
    body.count(outputs.len());
    for output in outputs {
        let Output { device, kind, bytes } = output.borrow();
        body.u16(*device).u8(*kind).bytes(bytes);
    }
}

fn decode_outputs(body: &mut BodyReader<'_>) -> Result<Vec<Output>, BodyError> {
    let count = body.count(7, "output count")?;
    (0..count)
        .map(|_| {
            let (device, kind) = (body.u16("device")?, body.u8("output kind")?);
            Ok(Output { device, kind, bytes: body.bytes("output")?.to_vec() })
        })
        .collect()
}
