//! What happens to a guest that crashed.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::ft::Protect;
use super::names::out_of_range;
use super::units::format_size;
use super::vm::StartFrom;
use protect::local::{RETAIN_MAX, RetainCount};
use protect::witness::WitnessName;

const RETAIN_BYTES_MIN: u64 = 1 << 20;
/// Reaches back about half a minute: as far as a guest's own watchdog needs to notice that it stands still.
const RETAIN_DEFAULT: u8 = 6;
/// A small guest's disk writes need room too.
const RETAIN_BYTES_DEFAULT_MIN: u64 = 64 << 20;

/// What is done with a guest that crashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnGuestPanic {
    /// The guest is stopped with exit code 164, and its state is kept. Nothing that it acknowledged is undone.
    #[default]
    Stop,
    /// The guest is rebooted, with the disks as it left them.
    Reset,
    /// The guest goes back to an earlier epoch (with --protect local). What it acknowledged since is LOST.
    Rollback,
}

/// Earlier epochs that are kept to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retain {
    /// 1 to 16. Few: a crash that takes long to come is not undone. Many: they take room.
    pub epochs: RetainCount,
    /// At least 1 MiB. Too few: the oldest are given up early.
    pub bytes: u64,
}

/// What was typed.
pub(super) struct Asked {
    pub(super) policy: Option<OnGuestPanic>,
    pub(super) retain: Option<u8>,
    pub(super) retain_bytes: Option<u64>,
}

/// Checks what is to be done against what the VM is made of.
pub(super) fn check(
    asked: &Asked,
    start: &StartFrom,
    protect: &[Protect],
    witness: &WitnessName,
    memory_bytes: u64,
) -> Result<(OnGuestPanic, Option<Retain>), ConfigError> {
    let policy = asked.policy.unwrap_or_default();
    let contradiction = |first, second, why: &str| Err(ConfigError::Contradiction { first, second, why: why.into() });
    if policy == OnGuestPanic::Reset && matches!(start, StartFrom::Snapshot(_)) {
        let why = "a snapshot can be started only with the disks of its moment, and there is no kernel to boot";
        return contradiction("on-guest-panic=reset", "restore", why);
    }
    let has_backup = protect.iter().any(|one| matches!(one, Protect::Backup(_)));
    if policy != OnGuestPanic::Stop && has_backup && witness.is_none() {
        let why = "the guest may start again only when its backup cannot continue the old one, and only a witness can \
             make sure of that";
        return contradiction("on-guest-panic", "witness=none", why);
    }
    if policy != OnGuestPanic::Rollback {
        if asked.retain.is_some() || asked.retain_bytes.is_some() {
            let why = "earlier epochs are kept only for a rollback: give --on-guest-panic rollback";
            return contradiction("retain", "on-guest-panic", why);
        }
        return Ok((policy, None));
    }
    if !protect.contains(&Protect::Local) {
        let why = "earlier epochs are kept in the state directory: give --protect local";
        return contradiction("on-guest-panic=rollback", "protect", why);
    }
    let epochs = asked.retain.unwrap_or(RETAIN_DEFAULT);
    let epochs = RetainCount::try_from(u64::from(epochs))
        .map_err(|_| out_of_range("retain", epochs, format!("1 to {RETAIN_MAX}")))?;
    let bytes = asked.retain_bytes.unwrap_or(memory_bytes.max(RETAIN_BYTES_DEFAULT_MIN));
    if bytes < RETAIN_BYTES_MIN {
        return Err(out_of_range(
            "retain-bytes",
            format_size(bytes),
            format!("at least {}", format_size(RETAIN_BYTES_MIN)),
        ));
    }
    Ok((policy, Some(Retain { epochs, bytes })))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: u64 = 128 << 20;

    fn checked(
        policy: OnGuestPanic,
        retain: Option<u8>,
        retain_bytes: Option<u64>,
        protect: &str,
    ) -> Result<Option<Retain>, ConfigError> {
        let start = StartFrom::Snapshot("/s".into());
        let protect: Vec<Protect> = protect.split(' ').map(|text| text.parse().expect("well formed")).collect();
        let asked = Asked { policy: Some(policy), retain, retain_bytes };
        check(&asked, &start, &protect, &"file:/w".parse().expect("well formed"), MEMORY).map(|(_, retain)| retain)
    }

    #[test]
    fn rollback_keeps_six_epochs_in_as_much_as_the_guest_has() {
        let retain = checked(OnGuestPanic::Rollback, None, None, "local").expect("allowed");
        assert_eq!(retain, Some(Retain { epochs: RetainCount::nearest(6), bytes: MEMORY }));
        assert_eq!(checked(OnGuestPanic::Stop, None, None, "none").expect("allowed"), None);
    }

    #[test]
    fn what_cannot_be_done_or_would_do_nothing_is_refused() {
        for protect in ["none", "tcp:b:7000"] {
            let error = checked(OnGuestPanic::Rollback, None, None, protect).expect_err("nowhere to keep them");
            assert!(error.to_string().contains("--protect local"), "{error}");
        }
        checked(OnGuestPanic::Stop, Some(3), None, "local").expect_err("never gone back to");
        checked(OnGuestPanic::Reset, None, None, "local").expect_err("a snapshot does not boot");
        for epochs in [0, 17] {
            checked(OnGuestPanic::Rollback, Some(epochs), None, "local").expect_err("out of range");
        }
        checked(OnGuestPanic::Rollback, None, Some(1000), "local").expect_err("out of range");
    }

    #[test]
    fn guest_with_a_backup_begins_anew_only_with_a_witness() {
        let start = StartFrom::Kernel { kernel: "/k".into(), initramfs: None, cmdline: String::new() };
        let with = |policy, witness: &WitnessName, protect: &[&str]| {
            let protect: Vec<Protect> = protect.iter().map(|text| text.parse().expect("well formed")).collect();
            check(&Asked { policy: Some(policy), retain: None, retain_bytes: None }, &start, &protect, witness, MEMORY)
        };
        let (both, witness) = (["local", "tcp:b:7000"], "file:/w".parse().expect("well formed"));
        for policy in [OnGuestPanic::Reset, OnGuestPanic::Rollback] {
            assert_eq!(with(policy, &witness, &both).expect("allowed").0, policy);
            let error = with(policy, &WitnessName::NONE, &both).expect_err("nobody decides");
            assert!(error.to_string().contains("witness"), "{error}");
            with(policy, &WitnessName::NONE, &["local"]).expect("there is nobody else");
        }
        with(OnGuestPanic::Stop, &WitnessName::NONE, &both).expect("it begins nothing anew");
    }
}
