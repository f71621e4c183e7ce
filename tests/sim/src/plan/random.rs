//! Faults by chance.

use crate::fault::{Dir, Fault, Step, What, When};
use crate::rng::Rng;

pub(super) fn random_fault(rng: &mut Rng, heal_at: u64, detect: u64) -> Fault {
    let when = if rng.percent(50) {
        When::At(rng.range(0, heal_at))
    } else {
        let nth = *rng.pick(&[1, 1, 2, 5, 12]);
        When::Step { host: rng.range(0, 1) as usize, step: *rng.pick(&Step::ALL), nth, after: rng.percent(50) }
    };
    Fault { when, what: random_what(rng, when, detect) }
}

fn random_what(rng: &mut Rng, when: When, detect: u64) -> What {
    let long = rng.range(1, 3 * detect);
    let host = match when {
        When::Step { host, .. } if rng.percent(80) => host,
        _ => rng.range(0, 1) as usize,
    };
    match rng.range(0, 33) {
        0..=6 => {
            let restart = rng.percent(60).then(|| rng.range(0, 2 * detect));
            What::Crash { host, power: rng.percent(50), restart }
        }
        7 | 8 => What::Cut(long),
        9 => What::WitnessCut(host, long),
        10 => What::ClientCut(host, long),
        11 => What::Pause(host, long),
        12 => What::SlowDisk(host, long),
        13 => What::Reset,
        14 => What::Garble,
        15 if long.is_multiple_of(2) => What::StuckFilling(host),
        15 => What::Mute(host),
        16 => What::GuestCrash(host),
        17 | 18 => What::RunAgain(host),
        19 => What::Stop(host),
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
        30 | 31 => What::DiskFull(host, long),
        _ => What::DiskFails(host),
    }
}
