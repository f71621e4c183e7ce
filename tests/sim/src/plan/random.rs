//! Faults by chance.

use crate::fault::{Dir, Fault, SPARE, Step, Stranger, What, When};
use crate::rng::Rng;

/// A fault on one of so many hosts.
pub(super) fn random_fault(rng: &mut Rng, hosts: usize, heal_at: u64, detect: u64) -> Fault {
    let when = if rng.percent(50) {
        When::At(rng.range(0, heal_at))
    } else {
        let nth = *rng.pick(&[1, 1, 2, 5, 12]);
        When::Step { host: random_host(rng, hosts), step: *rng.pick(&Step::ALL), nth, after: rng.percent(50) }
    };
    Fault { when, what: random_what(rng, hosts, when, detect) }
}

fn random_host(rng: &mut Rng, hosts: usize) -> usize {
    rng.range(0, hosts as u64 - 1) as usize
}

fn random_what(rng: &mut Rng, hosts: usize, when: When, detect: u64) -> What {
    let long = rng.range(1, 3 * detect);
    let host = match when {
        When::Step { host, .. } if rng.percent(80) => host,
        _ => random_host(rng, hosts),
    };
    if rng.percent(12) {
        return match rng.range(0, 9) {
            0 | 1 => What::PauseGuest(host),
            2 | 3 => What::RunGuest(host),
            4 => What::TakeOverDead(host),
            5 => What::Snapshot(host, long / 4),
            _ => What::Switchover(host),
        };
    }
    match rng.range(0, if hosts > SPARE { 57 } else { 47 }) {
        0..=6 => {
            let restart = rng.percent(60).then(|| rng.range(0, 2 * detect));
            What::Crash { host, power: rng.percent(50), restart }
        }
        7 => What::Cut(long),
        8 if long.is_multiple_of(2) => What::Blackout(long / 4),
        8 => What::Cut(long),
        9 => What::WitnessCut(host, long),
        10 => What::ClientCut(host, long),
        11 => What::Pause(host, long),
        12 if long.is_multiple_of(4) => What::DiskHangs(host),
        12 => What::SlowDisk(host, long),
        13 => What::Reset,
        14 => What::Garble,
        15 if long.is_multiple_of(2) => What::StuckFilling(host),
        15 => What::Mute(host),
        16 => What::GuestCrash(host),
        17 | 18 => What::RunAgain(host),
        19 => What::Stop(host),
        20 if long.is_multiple_of(2) => What::OtherCluster(host, long),
        20 => What::OtherWitness(host, long),
        21 => What::StoreFails(host),
        22..=24 => {
            let dir = *rng.pick(&[Dir::Other, Dir::Bare, Dir::CopyOf(0), Dir::CopyOf(1)]);
            What::Beside { host, dir, delay: long }
        }
        25 => What::LoseLock(host),
        26 => What::RestoreLock(host),
        27 => What::ReplaceDir(host),
        28 => What::UnfitBase(host),
        29 => What::Unprotect,
        30 | 31 => What::CutOneWay(host, long),
        32 => What::LinkSlows(host, long),
        33 => What::Lags(host, long),
        34 => What::HalfOpen(host),
        35 | 36 => What::ClockJump(host, long),
        37 => What::Pause(host, long),
        38 => What::WitnessGone(host),
        39 | 40 => What::WitnessFull(long),
        41 => What::WitnessRestored(rng.range(1, 3) as usize),
        42 => What::WitnessLoses(long),
        43 | 44 => What::Stranger(host, random_stranger(rng)),
        45 | 46 => What::DiskFull(host, long),
        47 => What::DiskFails(host),
        48..=54 => What::ProtectOther { host, to: random_host(rng, hosts) },
        55 => What::RunAgain(SPARE),
        _ => What::StandBy(host),
    }
}

fn random_stranger(rng: &mut Rng) -> Stranger {
    match rng.range(0, 7) {
        0 => Stranger::Silent,
        1 => Stranger::Garbage,
        2 => Stranger::OtherVm,
        3..=5 => Stranger::Primary { term: *rng.pick(&[0, 1, 2, 1000]), is_met: rng.percent(50) },
        _ => Stranger::Replay { back: rng.range(0, 2) as usize },
    }
}
