//! Whom a backup lets fill it, and what it is filled with before the base: chunks of disks.

use replication::wire::{DiskOffer, DiskWant, Hello, RefuseCode, ResyncDisk};
use serde_json::json;
use snapshot::disk::{CHUNK_BYTES, OverlayDisk};
use snapshot::writeset::WriteSet;

use super::{RAM_BYTES_MAX, Standby};
use crate::exit::Failure;
use crate::kvm::Vm;
use crate::machine::MachineError;
use crate::machine::state::MachineState;
use crate::memory::Ram;
use crate::protect::preflight::Preflight;

impl Standby {
    pub(super) fn greet(&mut self, hello: &Hello) {
        let met = match self.check(hello) {
            Ok(bytes) => self.lease.introduce(hello.register.as_ref()).map(|introduction| (bytes, introduction)),
            Err(text) => return self.refuse(RefuseCode::Machine, &text),
        };
        let now = self.clock.now();
        match met.and_then(|(bytes, introduction)| Ok((Ram::new(bytes).map_err(|e| e.to_string())?, introduction))) {
            Ok((ram, introduction)) => {
                self.ram = Some(ram);
                self.durable = hello.durable;
                self.epochs_applied = 0;
                self.trouble = None;
                self.core.handle_accept(now, introduction.place, introduction.nonce);
                self.events.note("resync-started", json!({ "primary": hello.writer }));
            }
            Err(text) => self.refuse(RefuseCode::Witness, &text),
        }
    }

    fn refuse(&mut self, code: RefuseCode, text: &str) {
        self.note_trouble("refused", text);
        self.core.handle_refuse(self.clock.now(), code, text);
    }

    /// Whether the machine of `hello` can run here; gives its bytes of RAM.
    fn check(&self, hello: &Hello) -> Result<u64, String> {
        let preflight = Preflight::of(&hello.machine)?;
        let shape = &preflight.shape;
        if shape.memory_bytes > RAM_BYTES_MAX {
            return Err(format!("{} MiB of memory are more than a backup takes", shape.memory_bytes >> 20));
        }
        if usize::from(shape.nets) != self.config.nets {
            return Err(format!(
                "the guest has {} network cards and the backup {}; give it as many --net",
                shape.nets, self.config.nets
            ));
        }
        self.check_disks(hello)?;
        let missing = preflight.cpuid.missing_on(self.host.host_cpuid());
        match missing.is_empty() {
            true => Ok(shape.memory_bytes),
            false => Err(format!("this host's CPU lacks features of the guest ({})", missing.join(", "))),
        }
    }

    fn check_disks(&self, hello: &Hello) -> Result<(), String> {
        let theirs = &hello.machine.disks;
        if theirs.len() != self.disks.len() {
            return Err(format!(
                "the guest has {} disks and the backup {}; give it as many --disk",
                theirs.len(),
                self.disks.len()
            ));
        }
        for (info, disk) in theirs.iter().zip(&self.disks) {
            if info.len != disk.len_bytes() {
                let path = disk.path().display();
                return Err(format!(
                    "{path} has {} bytes and the guest's disk {}; truncate -s {} {path}",
                    disk.len_bytes(),
                    info.len,
                    info.len
                ));
            }
            if info.readonly != disk.is_readonly() {
                return Err(format!("{} must be read-only on both hosts or on neither", disk.path().display()));
            }
        }
        Ok(())
    }

    pub(super) fn compare(&mut self, offer: &DiskOffer) -> Result<(), Failure> {
        let disk = &self.disks[usize::from(offer.disk)];
        let mut wanted = Vec::with_capacity(offer.hashes.len());
        for (i, theirs) in offer.hashes.iter().enumerate() {
            let chunk = offer.first_chunk + i as u64;
            let same =
                u64::from(offer.chunk_bytes) == CHUNK_BYTES && disk.image().chunk_hash(chunk)?.to_le_bytes() == *theirs;
            if !same && disk.is_readonly() {
                let text = readonly_differs(offer.disk, disk, chunk);
                self.note_trouble("refused", &text);
                self.core.handle_refuse(self.clock.now(), RefuseCode::Machine, &text);
                return Ok(());
            }
            wanted.push(!same);
        }
        let want = DiskWant { disk: offer.disk, first_chunk: offer.first_chunk, wanted };
        self.core.handle_disk_compared(self.clock.now(), want);
        Ok(())
    }

    pub(super) fn write_chunk(&mut self, chunk: &ResyncDisk) -> Result<(), Failure> {
        let mut set = WriteSet::new();
        set.write(chunk.offset, &chunk.data);
        Ok(self.disks[usize::from(chunk.disk)].image().apply(&set)?)
    }

    /// Loads a state into a VM that never runs: what this host's KVM refuses (another rate of the time stamp counter, a
    /// register) is found before the base is acked, not when the primary is dead.
    pub(super) fn rehearse(&self, state: &[u8]) -> Result<(), MachineError> {
        let MachineState { shape, cpuid, chips, vcpus, board: _, watchdog: _, slots: _, paused: _ } =
            MachineState::decode(state)?;
        let ram = self.ram.as_ref().expect("a session that was accepted has its memory");
        let vm = Vm::new()?;
        ram.regions().iter().try_for_each(|region| vm.set_region(region, false))?;
        let count = u32::from(shape.vcpus);
        let made = (0..count).map(|id| vm.create_vcpu(id, count, &cpuid)).collect::<Result<Vec<_>, _>>()?;
        vm.restore_chips(&chips)?;
        Ok(made.iter().zip(&vcpus).try_for_each(|(vcpu, state)| vcpu.restore(state))?)
    }
}

/// The remedy comes first: a long path may be cut on the way to the primary.
fn readonly_differs(index: u16, disk: &OverlayDisk, chunk: u64) -> String {
    format!(
        "copy disk {index} from the primary: it is read-only, so it is not replicated, and here it differs in the MiB at {} ({})",
        chunk * CHUNK_BYTES,
        disk.path().display()
    )
}
