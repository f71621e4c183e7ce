//! A primary without a witness, whose machine somebody else made: what the bench measures.

use std::path::Path;
use std::sync::Arc;

use snapshot::disk::OverlayDisk;
use snapshot::disklog::{Asked, Owner};

use crate::epoch::EpochMachine;
use crate::error::ProtectError;
use crate::events::Events;
use crate::guardian::{Guardian, GuardianConfig};
use crate::local::LocalStore;
use crate::local::backing::{LocalLog, LocalOptions};
use crate::log::{DiskLog, Place, Setup, Wanted, new_life};
use crate::registrant::Registrant;
use crate::witness::WitnessName;
use recoverable::Survives;

/// What protection needs before its machine takes the disks.
#[derive(Debug)]
pub struct Unwitnessed {
    vm_name: String,
    log: DiskLog,
}

impl Unwitnessed {
    /// For the VM `vm_name` with these disks, whose files are in `dir`.
    pub fn prepare(vm_name: &str, disks: &[OverlayDisk], dir: &Path) -> Result<Self, ProtectError> {
        let wanted = Wanted { chosen: None, state_dir: dir, must_survive_power: false };
        let place = Place::of(disks.iter().map(OverlayDisk::path), wanted)?;
        let owner = Owner { name: vm_name.into(), life: new_life() };
        let log =
            DiskLog::open(disks, Setup { place, owner, asked: Asked::Start, is_reserved: false, is_filled: false })?;
        Ok(Self { vm_name: vm_name.into(), log })
    }

    /// Protects `machine`, which was not started; with `state_dir` its epochs are committed there.
    pub fn guard(
        self,
        machine: EpochMachine,
        config: GuardianConfig,
        state_dir: Option<&Path>,
    ) -> Result<Arc<Guardian>, ProtectError> {
        let registrant = Arc::new(Registrant::open(&self.vm_name, &WitnessName::NONE)?);
        // The product's default: what the medium asks for, and no promise.
        let options =
            LocalOptions { log: LocalLog::default(), required: Survives::ProcessDeath, images: Survives::ProcessDeath };
        let ram_bytes = machine.ram().bytes();
        let store = state_dir.map(|dir| LocalStore::create(dir, ram_bytes, options)).transpose()?;
        Ok(Guardian::start(machine, config, self.log, registrant, Arc::new(Events::new(None)), store)?)
    }
}
