//! What a VM keeps on this host beside its images: the log of disk writes, and with `--protect local` its epochs in the
//! state directory. Opened as configured, checked to belong together; what it survives is reported.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use recoverable::Survives;
use replication::EpochId;
use snapshot::disk::{Image, OverlayDisk};
use snapshot::disklog::{Asked, LifeId, Owner};
use snapshot::statedir::sealed::Sealed;

use super::files::Files;
use crate::config::{BackupVmConfig, DeviceConfig, LocalConfig, StateConfig, VmConfig};
use crate::exit::Failure;
use protect::local::backing::{LocalOptions, StoreDurability, survival_of_images};
use protect::local::{Binding, BindingError, FILES, LastEpoch, LocalError, LocalStore, RecordError};
use protect::log::{DiskLog, DiskLogError, FoundLog, Place, Setup, Wanted, new_life};
use protect::{CommitDurability, this_boot};

/// Refuses if the state directory has a guest that another start would write over.
pub(super) fn refuse_guest(config: &VmConfig) -> Result<(), Failure> {
    let LocalConfig { log, .. } = config.protection.local;
    refuse_guest_in(&config.state.dir, LocalOptions { log, ..LocalOptions::default() })
}

/// The same for a backup.
pub(super) fn refuse_guest_of_backup(config: &BackupVmConfig) -> Result<(), Failure> {
    refuse_guest_in(&config.state.dir, LocalOptions::default())
}

fn refuse_guest_in(state_dir: &Path, options: LocalOptions) -> Result<(), Failure> {
    Ok(LocalStore::refuse_guest(state_dir, options)?)
}

/// The log of a guest that is about to start, having looked whether what a crash left in it is for these disks. Nothing
/// is changed.
pub(super) fn look_to_start(config: &VmConfig, disks: &[OverlayDisk]) -> Result<(FoundLog, LifeId), Failure> {
    let life = new_life();
    let found = DiskLog::look(disks, setup(config, life, Asked::Start)?, EpochId(u64::MAX))?;
    Ok((found, life))
}

/// The log of a backup's replicas.
pub(super) fn open_log_of_backup(config: &BackupVmConfig, disks: &[OverlayDisk]) -> Result<DiskLog, Failure> {
    let place = place_of(&config.devices, &config.state, true)?;
    let owner = Owner { name: config.name.clone(), life: new_life() };
    Ok(DiskLog::open(disks, Setup { place, owner, asked: Asked::Start, is_reserved: true, is_filled: true })?)
}

/// The log of a guest that is to continue from `last`, having looked whether it and the disks are the guest's, by the binding
/// that was found in its state directory. Nothing is changed.
pub(super) fn look_at_log(
    config: &VmConfig,
    (store, binding): (&LocalStore, &Sealed),
    disks: &[OverlayDisk],
    last: &LastEpoch,
) -> Result<(FoundLog, LifeId), Failure> {
    let binding = store.binding(binding)?;
    if let Some(binding) = &binding {
        binding.check(disks, &this_boot()).map_err(|error| with_remedy(error.into(), config))?;
    }
    // A guest from before disks were bound is bound from here on.
    let (life, asked) = match &binding {
        Some(binding) => (binding.life, binding.asks_of_log(last.line)),
        None => (new_life(), Asked::Start),
    };
    let found = DiskLog::look(disks, setup(config, life, asked)?, last.epoch());
    let remedied = |error: DiskLogError| match error {
        // What it says is enough.
        error @ DiskLogError::HalfFilled { .. } => Failure::from(error),
        error => with_remedy(error.into(), config),
    };
    Ok((found.map_err(remedied)?, life))
}

/// Memory that does not fit its disks cannot be repaired: they are put back, or it is given up.
fn with_remedy(failure: Failure, config: &VmConfig) -> Failure {
    let [state, ram, undo, redo, disks] = FILES;
    failure.with_hint(format!(
        "the guest's memory would continue with disks of another moment: put the image and its log back as they were when the \
         guest crashed; or give the guest up by removing {state}, {ram}, {undo}, {redo} and {disks} in {}, and start it again",
        config.state.dir.display()
    ))
}

fn setup(config: &VmConfig, life: LifeId, asked: Asked) -> Result<Setup, Failure> {
    let is_protected = config.protection.is_protected();
    let must_survive_power = is_protected && config.epochs.commit_durability == CommitDurability::Disk;
    let place = place_of(&config.devices, &config.state, must_survive_power)?;
    let owner = Owner { name: config.name.clone(), life };
    Ok(Setup { place, owner, asked, is_reserved: is_protected, is_filled: false })
}

fn place_of(
    devices: &DeviceConfig,
    StateConfig { dir, disk_log }: &StateConfig,
    must_survive_power: bool,
) -> Result<Option<Place>, Failure> {
    let wanted = Wanted { chosen: disk_log.as_deref(), state_dir: dir, must_survive_power };
    Ok(Place::of(devices.writable(), wanted)?)
}

/// Where the log of these disks lies, as far as that can be told before anything is opened.
pub(super) fn log_path(devices: &DeviceConfig, state: &StateConfig) -> Option<PathBuf> {
    place_of(devices, state, false).ok().flatten().map(|place| place.path)
}

/// The files of a VM with this log. Warns if the log is weak and its `durability` rests on it.
pub(super) fn files(log: &DiskLog, durability: CommitDurability, images: Vec<Arc<Image>>) -> Files {
    let log_warning = log.place().and_then(weakness_of).filter(|_| durability == CommitDurability::Disk);
    let disk_log = log.place().map(|place| outlast_api::DiskLog {
        path: place.path.display().to_string(),
        on: place.medium.to_string(),
        survives: place.survives.to_string(),
    });
    Files { disk_log, log_warning, images }
}

/// What a commit that waits for the log at `place` does not survive, as a warning.
fn weakness_of(place: &Place) -> Option<String> {
    let Place { path, survives, medium } = place;
    (*survives < Survives::PowerLoss).then(|| {
        format!(
            "the log of disk writes, {}, lies on {medium} and survives {survives} only: what `--commit-durability disk` promises \
             does not hold here for a loss of power; put the images on a disk, or give --disk-log a directory on one",
            path.display(),
        )
    })
}

/// What a guest of these disks is bound to.
pub(super) fn binding(log: &DiskLog, life: LifeId, disks: &[OverlayDisk]) -> Result<Binding, BindingError> {
    Binding::new(life, log.id(), &this_boot(), disks)
}

/// For a guest that is about to start.
pub(super) fn create(config: &VmConfig, ram_bytes: u64, binding: &Binding) -> Result<LocalStore, Failure> {
    let mut store = LocalStore::create(&config.state.dir, ram_bytes, options(config)?)?;
    store.bind(binding)?;
    say(config, &store);
    Ok(store)
}

/// Of a guest that is to continue; none: it never committed an epoch.
pub(super) fn open(config: &VmConfig) -> Result<Option<(LocalStore, LastEpoch)>, Failure> {
    match LocalStore::open(&config.state.dir, config.guest.memory_bytes, options(config)?) {
        Err(LocalError::Record { source: RecordError::Empty, .. }) => Ok(None),
        opened => {
            let (store, last) = opened?;
            say(config, &store);
            Ok(Some((store, last)))
        }
    }
}

fn options(config: &VmConfig) -> Result<LocalOptions, Failure> {
    let images = config.devices.writable();
    let place = place_of(&config.devices, &config.state, false)?;
    let images = survival_of_images(images)?;
    let images = place.map_or(images, |place| images.min(place.survives));
    let LocalConfig { log, require_survives, on_degraded: _ } = config.protection.local;
    Ok(LocalOptions { log, required: require_survives.into(), images })
}

fn say(config: &VmConfig, store: &LocalStore) {
    let StoreDurability { log, survives } = store.kept();
    let (dir, log, survives) = (config.state.dir.display(), log.name(), survives.to_string());
    tracing::info!(%dir, log, survives, "epochs are committed to the state directory");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_in_memory_is_told_and_one_on_a_disk_is_not() {
        let place = |survives| Place { path: "/x.epochs".into(), survives, medium: "tmpfs".into() };
        let warning = weakness_of(&place(Survives::ProcessDeath)).expect("it is weak");
        assert!(
            warning.contains("tmpfs") && warning.contains("/x.epochs") && warning.contains("--disk-log"),
            "{warning}"
        );
        assert_eq!(weakness_of(&place(Survives::PowerLoss)), None);
    }
}
