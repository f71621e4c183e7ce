//! A pipeline with executors that do what they are told and note it.

use std::time::Duration;

use super::*;
use crate::backup::BackupState;
use crate::id::{ClaimResult, Gfn, Term, VmId};
use crate::lineage::EpochMark;
use crate::lineage::tests::line_of;
use crate::page::{PAGE_SIZE, PageEncoder};
use crate::ship::EpochWriter;
use crate::wire::{
    DiskInfo, DiskOffer, EpochBegin, Frame, FrameDecoder, Goodbye, GoodbyeReason, Heartbeat, Link, Message, RamRange,
    ResyncDisk,
};

mod loop_lane;
mod order;

const MS: u64 = 1_000_000;
const SESSION: SessionId = SessionId([1; 16]);
const OTHER: SessionId = SessionId([2; 16]);

fn config() -> PipelineConfig {
    PipelineConfig {
        core: BackupConfig {
            vm_name: "vm0".into(),
            writer: "test".into(),
            heartbeat: Duration::from_millis(10),
            detect: Duration::from_millis(50),
            disconnect_grace: Duration::from_millis(5),
            claim_retry: Duration::from_millis(20),
            staged_bytes_beyond_ram: 1 << 20,
            ack_bytes_max: 1 << 20,
        },
        storage: StorageLimits {
            room_retry: Duration::from_millis(3),
            unsynced_bytes_max: 1000,
            filling_bytes_max: 2000,
        },
        is_half_filled: false,
        upkeep: Duration::from_millis(40),
    }
}

fn machine() -> MachineInfo {
    MachineInfo {
        ram: vec![RamRange { first: Gfn(0), pages: 4 }],
        vcpus: 1,
        disks: vec![DiskInfo { len: 1 << 20, readonly: false }],
        nets: 0,
        config: Vec::new(),
    }
}

/// What an epoch of a test brings.
#[derive(Clone, Copy, Default)]
struct Brings {
    base: bool,
    disk: bool,
    page: bool,
}

const NOTHING: Brings = Brings { base: false, disk: false, page: false };
const BASE: Brings = Brings { base: true, disk: true, page: false };
const DISK: Brings = Brings { disk: true, ..NOTHING };

/// A pipeline and the time of its host.
struct Host {
    pipeline: BackupPipeline,
    now: Time,
    session: SessionId,
    /// What the loop did.
    did: Vec<String>,
}

impl Host {
    fn new() -> Self {
        Self { pipeline: BackupPipeline::new(config()), now: Time(0), session: SESSION, did: Vec::new() }
    }

    /// A primary was accepted; nothing came yet.
    fn syncing(durable: bool) -> Self {
        let mut host = Self::new();
        host.greet(SESSION, durable);
        host.answer(Answer::Introduced(Ok(Introduction::default())));
        assert_eq!(host.take_did(), ["examine", "make memory"]);
        assert!(matches!(host.sent()[..], [Message::HelloAck { .. }]));
        host.notes();
        host
    }

    /// Base 7 is complete and applied.
    fn protected(durable: bool) -> Self {
        let mut host = Self::syncing(durable);
        host.epoch(7, BASE);
        host.store();
        assert_eq!((host.acked(), host.applied()), (7, 7));
        host.take_did();
        host.sent();
        host.notes();
        host
    }

    fn greet(&mut self, session: SessionId, durable: bool) {
        self.session = session;
        self.pipeline.handle_connected(self.now);
        self.give(&Message::Hello(Hello {
            register: None,
            writer: "p".into(),
            vm_name: "vm0".into(),
            durable,
            machine: machine(),
        }));
    }

    fn link(&self) -> Link {
        Link { vm: VmId::of_name("vm0"), session: self.session, term: Term(4) }
    }

    fn give(&mut self, message: &Message) {
        self.frames(&message.to_frame(&self.link(), EpochId(0)));
    }

    fn frames(&mut self, bytes: &[u8]) {
        for frame in frames(bytes) {
            self.pipeline.handle_frame(self.now, frame);
            self.run_loop();
        }
    }

    /// The same, and the loop does not begin what follows.
    fn commit_while_busy(&mut self, upto: u64) {
        let beat = Message::Heartbeat(Heartbeat {
            released: EpochId(upto),
            complete: EpochId(upto),
            committed: EpochId(upto),
        });
        let frame = frames(&beat.to_frame(&self.link(), EpochId(0))).remove(0);
        self.pipeline.handle_frame(self.now, frame);
    }

    fn chunk(&mut self, bytes: usize) {
        self.give(&Message::ResyncDisk(ResyncDisk { disk: 0, offset: 0, data: vec![1; bytes] }));
    }

    fn offer(&mut self) {
        let offer = DiskOffer { disk: 0, first_chunk: 0, chunk_bytes: 1 << 20, hashes: vec![[0; 16]] };
        self.give(&Message::DiskOffer(offer));
    }

    /// Which epoch of that number the primary sends.
    fn mark(&self, number: u64) -> EpochMark {
        line_of(self.link().term, number, |number| vec![number as u8])
    }

    fn epoch(&mut self, number: u64, Brings { base, disk, page }: Brings) {
        let mut out = Vec::new();
        let chain_of = |number| self.mark(number).chain;
        let begin = EpochBegin {
            base: base.then(|| chain_of(number - 1)),
            released: EpochId(if base { number - 1 } else { 0 }),
        };
        let mut writer = EpochWriter::begin(self.link(), EpochId(number), begin, &mut out);
        writer.inputs(&[], &mut out);
        writer.state(&[number as u8], &mut out);
        if page {
            let mut encoder = PageEncoder::new();
            encoder.push(Gfn(1), &[number as u8; PAGE_SIZE], None);
            encoder.take_batch(|body, pages| writer.pages(body, pages, &mut out));
        }
        if disk {
            writer.disk_write(0, number * 512, &[number as u8; 512], &mut out);
        }
        writer.end(chain_of(number), &mut out);
        self.frames(&out);
    }

    /// The loop does its steps.
    fn run_loop(&mut self) {
        while let Some(step) = self.pipeline.poll_loop_step() {
            self.did.push(match &step {
                LoopStep::Examine(_) => "examine".into(),
                LoopStep::MakeMemory { .. } => "make memory".into(),
                LoopStep::ApplyBatch(_) => "batch".into(),
                LoopStep::ReadMemory { epoch, .. } => format!("read {epoch}"),
                LoopStep::ApplyPages(epoch) => format!("pages {}", epoch.mark.count),
                LoopStep::Forget { void, .. } => format!("forget {}", void.is_some()),
                LoopStep::Disconnect => "disconnect".into(),
                LoopStep::Leave(Leaving::TakeOver { over, .. }) => format!("run {}", over.fork.count),
                LoopStep::Leave(Leaving::Ended(_)) => "end".into(),
                LoopStep::Leave(Leaving::Failed) => "fail".into(),
            });
            let done = match step {
                LoopStep::Examine(_) => LoopDone::Examined(Ok(())),
                LoopStep::MakeMemory { .. } => LoopDone::MadeMemory(Ok(())),
                _ => LoopDone::Done,
            };
            self.pipeline.handle_loop_done(self.now, done);
        }
    }

    fn take_did(&mut self) -> Vec<String> {
        std::mem::take(&mut self.did)
    }

    /// The storage's next step, by name.
    fn step(&mut self) -> Option<String> {
        self.pipeline.poll_storage_step(self.now).map(|step| match step {
            StorageStep::Compare(_) => "compare".into(),
            StorageStep::BeginFilling => "begin filling".into(),
            StorageStep::EndFilling => "end filling".into(),
            StorageStep::WriteChunk(_) => "chunk".into(),
            StorageStep::Rehearse(epoch) => format!("rehearse {}", epoch.mark.count),
            StorageStep::Append(epoch) => format!("append {}", epoch.mark.count),
            StorageStep::Apply(epoch) => format!("apply {}", epoch.mark.count),
            StorageStep::SyncImages => "sync".into(),
            StorageStep::TruncateLog => "truncate".into(),
            StorageStep::HandOver => "hand over".into(),
        })
    }

    fn done(&mut self, done: StorageDone) {
        self.pipeline.handle_storage_done(self.now, done);
        self.run_loop();
    }

    /// Storage does all that there is to do, and the primary commits what is acked; gives the steps.
    fn store(&mut self) -> Vec<String> {
        self.store_in(false)
    }

    /// The primary says that it is committed.
    fn commit(&mut self, upto: u64) {
        self.give(&Message::Heartbeat(Heartbeat {
            released: EpochId(upto),
            complete: EpochId(upto),
            committed: EpochId(upto),
        }));
    }

    /// The same with a log that is half full after each append.
    fn store_in(&mut self, is_half_full: bool) -> Vec<String> {
        let mut steps = Vec::new();
        loop {
            while let Some(step) = self.step() {
                let is_append = step.starts_with("append");
                steps.push(step);
                self.done(if is_append { StorageDone::Appended { is_half_full } } else { StorageDone::Done });
            }
            let acked = self.acked();
            if self.state() != BackupState::Protected || self.pipeline.core().pointers().committed().0 >= acked {
                return steps;
            }
            self.commit(acked);
        }
    }

    fn answer(&mut self, answer: Answer) {
        assert!(self.pipeline.poll_question().is_some(), "nothing is asked");
        self.pipeline.handle_answer(self.now, answer);
        self.run_loop();
    }

    fn wait(&mut self, millis: u64) {
        self.now = Time(self.now.0 + millis * MS);
        self.pipeline.handle_timeout(self.now);
        self.run_loop();
    }

    fn disconnect(&mut self) {
        self.pipeline.handle_disconnected(self.now);
        self.run_loop();
    }

    /// The primary is lost; the witness is asked and says so.
    fn lose(&mut self, result: ClaimResult) {
        self.disconnect();
        self.wait(6);
        self.answer(Answer::Claimed(result));
    }

    fn sent(&mut self) -> Vec<Message> {
        let bytes: Vec<u8> = std::iter::from_fn(|| self.pipeline.poll_transmit()).flatten().collect();
        frames(&bytes).into_iter().map(|frame| frame.into_message().expect("it is whole")).collect()
    }

    fn notes(&mut self) -> Vec<Note> {
        std::iter::from_fn(|| self.pipeline.poll_note()).collect()
    }

    fn acked(&self) -> u64 {
        self.pipeline.core().pointers().acked().0
    }

    fn applied(&self) -> u64 {
        self.pipeline.core().pointers().applied().0
    }

    fn state(&self) -> BackupState {
        self.pipeline.core().state()
    }
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = FrameDecoder::new(VmId::of_name("vm0"));
    decoder.handle_bytes(bytes);
    std::iter::from_fn(|| decoder.poll_frame().expect("whole frames")).collect()
}
