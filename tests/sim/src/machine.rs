//! The machine of a primary: the toy guest, its disk, what it said and what came for it. It knows of epochs as much as a
//! machine must: which one runs, what was written in it, and whether it has any.

use std::collections::VecDeque;
use std::sync::Arc;

use replication::pipeline::primary::GuestMode;
use replication::{EpochId, Input, Output, OutputQueue};

use crate::disk::{Disk, SectorWrite};
use crate::env::Env;
use crate::guest::{Guest, Said};
use crate::plan::Break;
use crate::storage::Files;

/// Epochs of a machine that were sealed, until nobody needs them.
pub struct Sealed {
    /// Its number.
    pub epoch: EpochId,
    /// It is a base.
    pub base: bool,
    /// The guest at its end.
    pub guest: Guest,
    /// The pages that it has, a bit for each.
    pub pages: u64,
    /// What it wrote to the disk.
    pub sectors: Vec<SectorWrite>,
    /// What the guest consumed.
    pub inputs: Vec<Input>,
    /// What the guest said.
    pub outputs: Vec<Arc<Output>>,
}

/// A guest and what belongs to it.
pub struct Machine {
    host: usize,
    /// The guest.
    pub guest: Guest,
    /// Its disk.
    pub disk: Disk,
    /// How it writes.
    pub mode: GuestMode,
    /// The running epoch.
    pub running: EpochId,
    /// It stands still.
    pub is_held: bool,
    /// A snapshot keeps it stopped until then.
    pub snapshot_until: u64,
    /// Sectors written past the log while a filling notes them.
    pub mirrored: Vec<SectorWrite>,
    inbox: Vec<u64>,
    consumed: Vec<Input>,
    queue: OutputQueue,
    sealed: VecDeque<Sealed>,
}

impl Machine {
    /// A guest that is about to run epoch `running`, with what it is to get.
    pub fn new(
        host: usize,
        guest: Guest,
        files: Files,
        mode: GuestMode,
        running: EpochId,
        inbox: Vec<u64>,
        hold_bytes_max: usize,
    ) -> Self {
        Machine {
            host,
            guest,
            disk: Disk::new(files),
            mode,
            running,
            is_held: false,
            snapshot_until: 0,
            mirrored: Vec::new(),
            inbox,
            consumed: Vec::new(),
            queue: OutputQueue::new(hold_bytes_max),
            sealed: VecDeque::new(),
        }
    }

    /// Whether somebody else has stopped it: who wants to must wait.
    pub fn is_busy(&self, now: u64) -> bool {
        self.is_held || self.snapshot_until > now
    }

    /// A request came.
    pub fn handle_request(&mut self, request: u64) {
        if self.inbox.len() < 8 {
            self.inbox.push(request);
        }
    }

    /// The guest gets what came, and runs: as long as there is room for what it says, and its image takes writes.
    pub fn run(&mut self, env: &mut Env) {
        if self.guest.is_paused {
            return;
        }
        if self.mode != GuestMode::Epochs && (self.disk.files.is_syncing(env.now) || env.is_full(self.host)) {
            return;
        }
        while self.has_room() && !self.inbox.is_empty() {
            let request = self.inbox.remove(0);
            self.consumed.push(input_of(request));
            self.step(request, env);
        }
        if env.rng.percent(30) && self.has_room() {
            self.step(0, env);
        }
    }

    fn has_room(&self) -> bool {
        self.mode != GuestMode::Epochs || self.queue.has_room(Said::BYTES)
    }

    fn step(&mut self, request: u64, env: &mut Env) {
        let before = self.guest.chain;
        let (said, (sector, data)) = self.guest.step(request, env.rng.u64());
        env.oracle.produced(before, &said);
        let (host, epoch) = (self.host, self.running);
        env.whisper(|| format!("host {host} epoch {epoch}: output {} for request {request}", said.position));
        if self.mode == GuestMode::Epochs {
            self.disk.write(sector, data);
            let output = Output { device: 1, kind: 0, bytes: said.encode() };
            return self.queue.hold(epoch, output).expect("it does not run without room");
        }
        self.disk.write_directly(sector, data);
        if self.mode == GuestMode::Mirrored && env.plan.broken != Some(Break::MirrorForgotten) {
            self.mirrored.push((sector, data));
        }
        env.emit(host, said);
    }

    /// Ends the running epoch; its pages are those written in it and `also`.
    pub fn seal(&mut self, base: bool, also: u64) -> &mut Sealed {
        let epoch = self.running;
        let pages = self.guest.take_dirty() | also;
        let sectors = self.disk.seal(epoch);
        let outputs = self.queue.of_epoch(epoch).cloned().collect();
        let inputs = std::mem::take(&mut self.consumed);
        self.sealed.push_back(Sealed { epoch, base, guest: self.guest.clone(), pages, sectors, inputs, outputs });
        self.running = epoch.next();
        self.sealed.back_mut().expect("pushed two lines above")
    }

    /// Ends the running epoch without keeping it; whether it wrote to the disk.
    pub fn settle(&mut self) -> (EpochId, bool) {
        let epoch = self.running;
        let writes = self.disk.seal(epoch);
        self.guest.take_dirty();
        self.consumed.clear();
        self.running = epoch.next();
        (epoch, !writes.is_empty())
    }

    /// An epoch that was sealed.
    ///
    /// # Panics
    /// If nobody needed it any more.
    pub fn sealed(&self, epoch: EpochId) -> &Sealed {
        self.sealed.iter().find(|sealed| sealed.epoch == epoch).expect("a sealed epoch is kept until it is through")
    }

    /// Nobody needs the epochs up to `upto` any more.
    pub fn forget(&mut self, upto: EpochId) {
        while self.sealed.pop_front_if(|sealed| sealed.epoch <= upto).is_some() {}
    }

    /// Output of epochs after `left` up to `epoch`.
    pub fn held(&self, left: EpochId, epoch: EpochId) -> Vec<Output> {
        let epochs = (left.0 + 1..=epoch.0).map(EpochId);
        epochs.flat_map(|epoch| self.queue.of_epoch(epoch)).map(|output| (**output).clone()).collect()
    }

    /// Lets out what epochs up to `upto` said.
    pub fn release(&mut self, upto: EpochId, env: &mut Env) {
        for output in self.queue.release(upto) {
            env.emit(self.host, Said::decode(&output.bytes));
        }
    }
}

fn input_of(request: u64) -> Input {
    Input { device: 1, bytes: request.to_le_bytes().to_vec() }
}

/// The request that an input was.
pub fn request_of(input: &Input) -> u64 {
    input.bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}
