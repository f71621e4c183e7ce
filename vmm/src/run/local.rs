//! The state directory of a VM with `--protect local`: opened as configured, and what it gives is said.

use crate::config::{LocalConfig, VmConfig};
use crate::exit::Failure;
use crate::protect::local::backing::{Kept, LocalOptions, survival_of_images};
use crate::protect::local::{LastEpoch, LocalStore};

/// For a guest that is about to start.
pub(super) fn create(config: &VmConfig, ram_bytes: u64) -> Result<LocalStore, Failure> {
    let store = LocalStore::create(&config.state_dir, ram_bytes, options(config)?)?;
    say(config, &store);
    Ok(store)
}

/// Of a guest that is to go on.
pub(super) fn open(config: &VmConfig) -> Result<(LocalStore, LastEpoch), Failure> {
    let (store, last) = LocalStore::open(&config.state_dir, config.memory_bytes, options(config)?)?;
    say(config, &store);
    Ok((store, last))
}

fn options(config: &VmConfig) -> Result<LocalOptions, Failure> {
    let images = config.disks.iter().filter(|disk| !disk.readonly).map(|disk| disk.path.as_path());
    let LocalConfig { log, require_survives, on_degraded: _ } = config.local;
    Ok(LocalOptions { log, required: require_survives.into(), images: survival_of_images(images)? })
}

fn say(config: &VmConfig, store: &LocalStore) {
    let Kept { log, survives } = store.kept();
    let (dir, log, survives) = (config.state_dir.display(), log.name(), survives.to_string());
    tracing::info!(%dir, log, survives, "epochs are committed to the state directory");
}
