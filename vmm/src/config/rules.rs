//! Which options need or exclude others: one function for each rule. What one option takes is checked in its group's file.

use super::crash::OnGuestPanic;
use super::error::ConfigError;
use super::guest::StartFrom;
use super::protection::{OnBoundaryLate, Protect};
use super::vm::{RunOptions, VmConfig};
use replication::Protocol;

type Rule<T> = fn(&T) -> Result<(), ConfigError>;

/// About what was typed at all, which the configuration does not tell any more.
const OF_TYPED: [Rule<RunOptions>; 3] = [restore_excludes_guest, local_options_need_local, cpvs_excludes_epoch];

/// About what is meant. A `vm.json` may have been altered, so they hold for it too.
const OF_MEANT: [Rule<VmConfig>; 8] = [
    backup_needs_named_witness,
    backup_is_encrypted_or_clear_by_name,
    reset_needs_kernel,
    new_life_needs_witness,
    retain_needs_rollback,
    rollback_needs_local,
    hand_over_needs_copy,
    unprotect_needs_backup,
];

pub(super) fn check_typed(typed: &RunOptions) -> Result<(), ConfigError> {
    OF_TYPED.iter().try_for_each(|rule| rule(typed))
}

pub(super) fn check_meant(config: &VmConfig) -> Result<(), ConfigError> {
    OF_MEANT.iter().try_for_each(|rule| rule(config))
}

/// These two contradict each other `when` it is so.
fn refuse(when: bool, first: &'static str, second: &'static str, why: &str) -> Result<(), ConfigError> {
    if when { Err(ConfigError::Contradiction { first, second, why: why.into() }) } else { Ok(()) }
}

fn restore_excludes_guest(typed: &RunOptions) -> Result<(), ConfigError> {
    let guest = &typed.guest;
    let given = [
        ("kernel", guest.kernel.is_some()),
        ("initramfs", guest.initramfs.is_some()),
        ("cmdline", guest.cmdline.is_some()),
        ("cpus", guest.cpus.is_some()),
        ("memory", guest.memory.is_some()),
    ];
    given.into_iter().try_for_each(|(option, is_given)| {
        refuse(guest.restore.is_some() && is_given, "restore", option, "the snapshot has its own")
    })
}

fn local_options_need_local(typed: &RunOptions) -> Result<(), ConfigError> {
    let protection = &typed.protection;
    let is_local = protection.protect.contains(&Protect::Local);
    let given = [
        ("local-log", protection.local_log.is_some()),
        ("require-survives", protection.require_survives.is_some()),
        ("on-degraded", protection.on_degraded.is_some()),
    ];
    let why = "it concerns epochs in the state directory: give --protect local";
    given.into_iter().try_for_each(|(option, is_given)| refuse(!is_local && is_given, option, "protect", why))
}

/// An epoch that ends when output waits has no length of its own.
fn cpvs_excludes_epoch(typed: &RunOptions) -> Result<(), ConfigError> {
    let epochs = &typed.epochs;
    let both = epochs.protocol == Some(Protocol::Cpvs) && epochs.epoch.is_some();
    refuse(both, "protocol cpvs", "epoch", "its epochs end when output waits; --min-epoch is the shortest")
}

fn backup_needs_named_witness(config: &VmConfig) -> Result<(), ConfigError> {
    match config.protection.backup().is_some() && config.unnamed_witness {
        true => Err(ConfigError::Missing("witness")),
        false => Ok(()),
    }
}

fn backup_is_encrypted_or_clear_by_name(config: &VmConfig) -> Result<(), ConfigError> {
    config.protection.backup().map_or(Ok(()), |target| config.detection.check_channel("protect", target))
}

fn reset_needs_kernel(config: &VmConfig) -> Result<(), ConfigError> {
    let both =
        config.crash.on_guest_panic == OnGuestPanic::Reset && matches!(config.guest.start, StartFrom::Snapshot(_));
    let why = "a snapshot can be started only with the disks of its moment, and there is no kernel to boot";
    refuse(both, "on-guest-panic=reset", "restore", why)
}

fn new_life_needs_witness(config: &VmConfig) -> Result<(), ConfigError> {
    let begins_anew = config.crash.on_guest_panic != OnGuestPanic::Stop;
    let is_alone = config.protection.backup().is_none();
    let is_unwitnessed = config.detection.witness.is_none();
    let why = "the guest may start again only when its backup cannot continue the old one, and only a witness can \
               make sure of that";
    refuse(begins_anew && !is_alone && is_unwitnessed, "on-guest-panic", "witness=none", why)
}

fn retain_needs_rollback(config: &VmConfig) -> Result<(), ConfigError> {
    let without = config.crash.retain.is_some() && config.crash.on_guest_panic != OnGuestPanic::Rollback;
    let why = "earlier epochs are kept only for a rollback: give --on-guest-panic rollback";
    refuse(without, "retain", "on-guest-panic", why)
}

fn rollback_needs_local(config: &VmConfig) -> Result<(), ConfigError> {
    let without = config.crash.on_guest_panic == OnGuestPanic::Rollback && !config.protection.is_local();
    let why = "earlier epochs are kept in the state directory: give --protect local";
    refuse(without, "on-guest-panic=rollback", "protect", why)
}

fn hand_over_needs_copy(config: &VmConfig) -> Result<(), ConfigError> {
    let protection = &config.protection;
    let without = protection.on_boundary_late == OnBoundaryLate::HandOver && !protection.is_protected();
    let why = "nobody has a copy of the guest that could be continued";
    refuse(without, "on-boundary-late hand-over", "protect none", why)
}

fn unprotect_needs_backup(config: &VmConfig) -> Result<(), ConfigError> {
    let protection = &config.protection;
    let without = protection.on_boundary_late == OnBoundaryLate::Unprotect && protection.backup().is_none();
    refuse(without, "on-boundary-late unprotect", "protect without a backup", "there is nobody who could be let go")
}

#[cfg(test)]
mod tests;
