//! Each rule, broken and kept.

use super::*;
use crate::config::{ByteSize, ConfigError};
use crate::exit::{Advice, Exit};
use protect::witness::WitnessName;

/// One more option.
type Give = fn(&mut RunOptions);

fn check(change: impl FnOnce(&mut RunOptions)) -> Result<VmConfig, ConfigError> {
    let mut typed = RunOptions::default();
    typed.name.name = Some("vm0".into());
    typed.guest.kernel = Some("/k".into());
    change(&mut typed);
    VmConfig::try_from(typed)
}

#[track_caller]
fn assert_refused(says: &str, change: impl FnOnce(&mut RunOptions)) {
    let error = check(change).expect_err("refused");
    assert_eq!(error.exit(), Exit::Usage);
    assert!(error.to_string().contains(says), "{error}");
}

fn targets(texts: &[&str]) -> Vec<Protect> {
    texts.iter().map(|text| text.parse().expect("well formed")).collect()
}

fn protected_by(texts: &[&str], witness: Option<WitnessName>) -> impl FnOnce(&mut RunOptions) {
    move |typed| (typed.protection.protect, typed.detection.witness) = (targets(texts), witness)
}

fn shared() -> Option<WitnessName> {
    Some("file:/w".parse().expect("well formed"))
}

#[test]
fn restore_takes_no_kernel_and_no_size() {
    let restore = |typed: &mut RunOptions| (typed.guest.kernel, typed.guest.restore) = (None, Some("/snap".into()));
    check(restore).expect("enough");
    assert_refused("--restore and --kernel do not go together: the snapshot has its own", |typed| {
        typed.guest.restore = Some("/snap".into());
    });
    let others: [(&str, Give); 4] = [
        ("initramfs", |typed| typed.guest.initramfs = Some("/i".into())),
        ("cmdline", |typed| typed.guest.cmdline = Some("quiet".into())),
        ("cpus", |typed| typed.guest.cpus = Some(2)),
        ("memory", |typed| typed.guest.memory = Some(ByteSize(1 << 30))),
    ];
    for (option, give) in others {
        assert_refused(&format!("--restore and --{option} do"), |typed| {
            restore(typed);
            give(typed);
        });
    }
}

#[test]
fn options_of_the_state_directory_take_local_protection() {
    let given: [(&str, Give); 3] = [
        ("local-log", |typed| typed.protection.local_log = Some(Default::default())),
        ("require-survives", |typed| typed.protection.require_survives = Some(Default::default())),
        ("on-degraded", |typed| typed.protection.on_degraded = Some(Default::default())),
    ];
    for (option, give) in given {
        assert_refused(&format!("--{option} and --protect do not go together"), give);
        check(|typed| {
            protected_by(&["local"], None)(typed);
            give(typed);
        })
        .expect("it is local");
    }
}

#[test]
fn epochs_that_end_when_output_waits_have_no_length() {
    let cpvs = |typed: &mut RunOptions| typed.epochs.protocol = Some(Protocol::Cpvs);
    check(cpvs).expect("the default length is none");
    assert_refused("--protocol cpvs and --epoch do not go together: its epochs end when output waits", |typed| {
        cpvs(typed);
        typed.epochs.epoch = Some(crate::config::EpochLength::Auto);
    });
}

#[test]
fn backup_takes_a_named_witness() {
    assert_refused("--witness is missing", protected_by(&["tcp:b:1,clear"], None));
    for witness in [shared(), Some(WitnessName::NONE)] {
        check(protected_by(&["tcp:b:1,clear"], witness)).expect("named");
    }
}

fn on_panic(policy: OnGuestPanic) -> impl Fn(&mut RunOptions) {
    move |typed| typed.crash.on_guest_panic = Some(policy)
}

#[test]
fn snapshot_is_not_booted_again() {
    let reset = on_panic(OnGuestPanic::Reset);
    check(&reset).expect("there is a kernel");
    assert_refused("--on-guest-panic=reset and --restore do not go together", |typed| {
        reset(typed);
        (typed.guest.kernel, typed.guest.restore) = (None, Some("/snap".into()));
    });
}

#[test]
fn guest_with_a_backup_begins_anew_only_with_a_witness() {
    let with = |policy, targets: &'static [&'static str], witness| {
        move |typed: &mut RunOptions| {
            on_panic(policy)(typed);
            protected_by(targets, witness)(typed);
        }
    };
    for policy in [OnGuestPanic::Reset, OnGuestPanic::Rollback] {
        let both = check(with(policy, &["local", "tcp:b:1,clear"], shared())).expect("somebody decides");
        assert_eq!(both.crash.on_guest_panic, policy);
        assert_refused("only a witness can", with(policy, &["local", "tcp:b:1,clear"], Some(WitnessName::NONE)));
        check(with(policy, &["local"], None)).expect("there is nobody else");
    }
    check(with(OnGuestPanic::Stop, &["tcp:b:1,clear"], Some(WitnessName::NONE))).expect("it begins nothing anew");
}

#[test]
fn earlier_epochs_are_kept_for_a_rollback_only_and_in_the_state_directory() {
    let keep: [Give; 2] =
        [|typed| typed.crash.retain = Some(3), |typed| typed.crash.retain_bytes = Some(ByteSize(1 << 30))];
    for keep in keep {
        assert_refused("--retain and --on-guest-panic do not go together", |typed| {
            protected_by(&["local"], None)(typed);
            keep(typed);
        });
    }
    for (targets, witness) in [(&["none"], None), (&["tcp:b:1,clear"], shared())] {
        assert_refused("--protect local", |typed| {
            on_panic(OnGuestPanic::Rollback)(typed);
            protected_by(targets, witness)(typed);
        });
    }
}

#[test]
fn late_boundary_hands_over_to_a_copy_and_lets_go_of_a_backup() {
    let late = |policy, targets: &'static [&'static str]| {
        move |typed: &mut RunOptions| {
            typed.protection.on_boundary_late = Some(policy);
            protected_by(targets, shared())(typed);
        }
    };
    check(late(OnBoundaryLate::HandOver, &["local"])).expect("there is a copy");
    check(late(OnBoundaryLate::Unprotect, &["tcp:b:1,clear"])).expect("there is a backup");
    assert_refused("--on-boundary-late hand-over and --protect none", late(OnBoundaryLate::HandOver, &["none"]));
    assert_refused("--protect without a backup", late(OnBoundaryLate::Unprotect, &["local"]));
}
