//! Whom a backup lets fill it, and what it is filled with before the base: chunks of disks.

use std::path::Path;

use replication::SessionId;
use replication::wire::{DiskOffer, DiskWant, Hello, RefuseCode};
use serde_json::json;
use snapshot::disk::CHUNK_BYTES;

use super::Standby;
use super::storage::{DiskFacts, Done, Order};
use crate::exit::Failure;
use crate::kvm::Vm;
use crate::kvm::cpuid::compare;
use crate::machine::MachineError;
use crate::machine::state::{MachineState, Shape};
use crate::memory::Ram;
use crate::protect::lease::Introduction;
use crate::protect::preflight::Preflight;

impl Standby {
    pub(super) fn greet(&mut self, hello: Box<Hello>) {
        let preflight = match self.check(&hello) {
            Ok(preflight) => preflight,
            Err(text) => return self.refuse(RefuseCode::Machine, &text),
        };
        if self.is_asking {
            return self.refuse(RefuseCode::Witness, "the backup's witness has not answered about an earlier primary");
        }
        let session = self.core.session_id().expect("a backup that is greeted has a session");
        self.ask_witness(move |lease| {
            // Here, where nobody keeps time: KVM makes a virtual processor for it.
            let introduction = check_cpu(&preflight)
                .map_err(|text| (RefuseCode::Machine, text))
                .and_then(|()| lease.introduce(hello.register.as_ref()).map_err(|text| (RefuseCode::Witness, text)));
            Done::Introduced { session, hello, introduction }
        });
    }

    /// The witness knows the primary, or does not. One that is gone meanwhile waits for no answer.
    pub(super) fn introduced(
        &mut self,
        session: SessionId,
        hello: &Hello,
        introduction: Result<Introduction, (RefuseCode, String)>,
    ) {
        if self.core.session_id() != Some(session) {
            return;
        }
        let met = introduction.and_then(|introduction| {
            let unfit = |text| (RefuseCode::Machine, text);
            let bytes = self.check(hello).map_err(unfit)?.shape.memory_bytes.get();
            Ok((Ram::new(bytes).map_err(|error| unfit(error.to_string()))?, introduction))
        });
        match met {
            Ok((ram, introduction)) => {
                self.durable = hello.durable;
                self.greeted = Some(hello.machine.clone());
                self.epochs_applied = 0;
                (self.trouble, self.discarded) = (None, None);
                self.vigil.handle_joined(session, hello.register.as_ref());
                self.core.handle_accept(self.clock.now(), introduction.place, introduction.nonce);
                self.ram = Some(ram);
                self.events.note("resync-started", json!({ "primary": hello.writer }));
            }
            Err((code, text)) => self.refuse(code, &text),
        }
    }

    fn refuse(&mut self, code: RefuseCode, text: &str) {
        self.note_trouble("refused", text);
        self.core.handle_refuse(self.clock.now(), code, text);
    }

    /// Whether the machine of `hello` can run here, but for its processor.
    fn check(&self, hello: &Hello) -> Result<Preflight, String> {
        if let Some((_, why)) = self.unfit.as_ref().filter(|(machine, _)| *machine == hello.machine) {
            return Err(why.clone());
        }
        if let Some(path) = self.storage.full() {
            // What waits for room is of an earlier session; a new one would wait behind it, with the guest's output.
            return Err(format!("the backup has no room for {}: make some there", path.display()));
        }
        let preflight = Preflight::of(&hello.machine)?;
        let shape = &preflight.shape;
        if usize::from(shape.nets) != self.config.nets {
            return Err(format!(
                "the guest has {} network cards and the backup {}; give it as many --net",
                shape.nets, self.config.nets
            ));
        }
        self.check_disks(hello)?;
        Ok(preflight)
    }

    fn check_disks(&self, hello: &Hello) -> Result<(), String> {
        let theirs = &hello.machine.disks;
        let ours = self.storage.disks();
        if theirs.len() != ours.len() {
            return Err(format!(
                "the guest has {} disks and the backup {}; give it as many --disk",
                theirs.len(),
                ours.len()
            ));
        }
        for (info, DiskFacts { path, len, readonly }) in theirs.iter().zip(ours) {
            let path = path.display();
            if info.len != *len {
                return Err(format!(
                    "{path} has {len} bytes and the guest's disk {}; truncate -s {} {path}",
                    info.len, info.len
                ));
            }
            if info.readonly != *readonly {
                return Err(format!("{path} must be read-only on both hosts or on neither"));
            }
        }
        Ok(())
    }

    pub(super) fn compare(&mut self, offer: DiskOffer) {
        // Of a session that is gone already nobody waits for the answer.
        if let Some(session) = self.core.session_id() {
            self.storage.order(Order::Compare { session, offer });
        }
    }

    pub(super) fn compared(&mut self, session: SessionId, want: DiskWant) {
        if self.core.session_id() == Some(session) {
            self.core.handle_disk_compared(self.clock.now(), want);
        }
    }

    /// What is here of the session is worth nothing. The primary would fill this backup with the same guest again.
    pub(super) fn refuse_base(&mut self, session: SessionId, failure: &Failure) {
        let text = format!("the guest cannot run here: {}; fix that and start this backup again", failure.message);
        if self.core.session_id() == Some(session) {
            self.unfit = self.greeted.take().map(|machine| (machine, text.clone()));
            self.note_trouble("refused", &text);
        }
        self.core.handle_base_refused(self.clock.now(), session, &text);
    }

    pub(super) fn differs(&mut self, session: SessionId, text: &str) {
        if self.core.session_id() == Some(session) {
            self.note_trouble("refused", text);
            self.core.handle_refuse(self.clock.now(), RefuseCode::Machine, text);
        }
    }
}

/// Whether this host's processor and KVM can keep what the guest was promised.
fn check_cpu(Preflight { shape: _, cpuid, feature_msrs }: &Preflight) -> Result<(), String> {
    let vm = Vm::new().map_err(|error| error.to_string())?;
    let fresh = vm.create_vcpu(0, 1, cpuid).map(|vcpu| vcpu.feature_msrs()).map_err(|error| error.to_string());
    // What KVM itself refuses is named only where the comparison finds nothing.
    let lacks = vm.host().lacks(cpuid, feature_msrs, fresh.as_deref().unwrap_or(feature_msrs));
    for lack in &lacks {
        tracing::warn!(%lack, "this host cannot keep what the guest was promised");
    }
    compare::refusal(&lacks).map_or(fresh.map(drop), Err)
}

/// Loads a state into a VM that never runs: what cannot be read, and what this host's KVM refuses (another rate of the time
/// stamp counter, a register), is found before the base is acked, not when the primary is dead.
pub(super) fn rehearse(state: &[u8], ram: &Ram, machine: &Shape) -> Result<(), MachineError> {
    let MachineState { shape, cpuid, chips, vcpus, board: _, watchdog: _, slots: _, paused: _ } =
        MachineState::decode(state)?;
    machine.check(&shape)?;
    let vm = Vm::new()?;
    ram.regions().iter().try_for_each(|region| vm.set_region(region, false))?;
    let count = u32::from(shape.vcpus);
    let made = (0..count).map(|id| vm.create_vcpu(id, count, &cpuid)).collect::<Result<Vec<_>, _>>()?;
    Ok(vm.restore(&made.iter().collect::<Vec<_>>(), &chips, &vcpus)?)
}

/// The remedy comes first: a long path may be cut on the way to the primary.
pub(super) fn readonly_differs(index: u16, path: &Path, chunk: u64) -> String {
    format!(
        "copy disk {index} from the primary: it is read-only, so it is not replicated, and here it differs in the MiB at {} ({})",
        chunk * CHUNK_BYTES,
        path.display()
    )
}
