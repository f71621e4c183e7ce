//! Rounds of fillings: when they end, and why, for guests that write little, much, and too much.

use super::*;

const MB: u64 = 1_000_000;

/// A guest and a link, in bytes and bytes a second.
#[derive(Clone, Copy)]
struct Load {
    memory: u64,
    /// What the guest writes again and again, and how fast at its full share.
    set: u64,
    speed: u64,
    link: u64,
}

fn rounds() -> RoundsConfig {
    RoundsConfig {
        pause: Duration::from_millis(300),
        pause_max: Duration::from_millis(600),
        base_bytes: 64 * MB,
        base_bytes_max: 256 * MB,
        rounds_max: 30,
        time_max: Duration::from_secs(120),
        share_min: 5,
    }
}

struct Filled {
    next: NextRound,
    left: u64,
    took: Duration,
    shares: Vec<u8>,
    figures: FillFigures,
    primary: Primary,
}

/// Fills under `load` until the rounds end.
fn fill(load: Load) -> Filled {
    let config = PrimaryConfig { rounds: rounds(), detect: Duration::from_secs(1 << 30), ..config() };
    let mut primary = syncing_with(config);
    let (mut now, mut left, mut shares, mut share) = (0, load.memory, Vec::new(), 100);
    loop {
        let left_now = Left { page_bytes: left, write_bytes: 0 };
        let next = primary.handle_fill_left(Time(now), SESSION, left_now);
        for action in asked(&mut primary) {
            if let PrimaryAction::GuestShare { percent } = action {
                shares.push(percent);
                share = u64::from(percent);
            }
        }
        if next != NextRound::Send {
            let took = Duration::from_nanos(now);
            return Filled { next, left, took, shares, figures: primary.fill_figures(PEER), primary };
        }
        let ns = left as u128 * 1_000_000_000 / u128::from(load.link);
        primary.handle_fill_sent(SESSION, left, 0);
        now += ns as u64;
        left = load.set.min((u128::from(load.speed) * u128::from(share) / 100 * ns / 1_000_000_000) as u64);
    }
}

#[test]
fn idle_guest_is_sealed_after_one_round_and_a_guest_that_writes_little_after_few() {
    let idle = fill(Load { memory: 1000 * MB, set: 0, speed: 0, link: 100 * MB });
    assert_eq!((idle.next, idle.figures.round, idle.figures.end), (NextRound::Seal, 1, Some(RoundsEnd::Converged)));
    let some = fill(Load { memory: 1000 * MB, set: 200 * MB, speed: 10 * MB, link: 100 * MB });
    assert_eq!((some.next, some.figures.end), (NextRound::Seal, Some(RoundsEnd::Converged)));
    assert!(some.figures.round <= 3 && some.left <= 30 * MB, "{:?}", some.figures);
    assert_eq!(some.shares, [], "it is not slowed");
}

#[test]
fn rounds_go_on_for_as_long_as_they_shrink_without_slowing_the_guest() {
    let load = Load { memory: 4000 * MB, set: 2000 * MB, speed: 45 * MB, link: 100 * MB };
    let filled = fill(load);
    assert_eq!((filled.next, filled.figures.end), (NextRound::Seal, Some(RoundsEnd::Converged)));
    assert_eq!(filled.shares, []);
}

#[test]
fn guest_that_writes_faster_than_the_link_is_slowed_until_it_converges_and_has_all_its_time_after() {
    // It rewrote its memory for ever, and the rounds ended by their number, with all of it left to the base.
    let load = Load { memory: 256 * MB, set: 200 * MB, speed: 200 * MB, link: 25 * MB };
    let mut filled = fill(load);
    assert_eq!((filled.next, filled.figures.end), (NextRound::Seal, Some(RoundsEnd::Throttled)));
    assert!(filled.left <= 25 * MB * 3 / 10, "{}", filled.left);
    assert!(filled.shares.is_sorted_by(|a, b| a > b) && *filled.shares.last().expect("it is slowed") >= 5);
    assert!(filled.took <= Duration::from_secs(100), "{:?}", filled.took);
    assert!(filled.figures.round < 12, "{:?}", filled.figures);
    filled.primary.handle_disconnected(Time(1 << 40), PEER);
    assert!(asked(&mut filled.primary).contains(&PrimaryAction::GuestShare { percent: 100 }));
}

#[test]
fn guest_whose_smallest_share_is_too_fast_gets_a_longer_pause_but_not_any() {
    let longer = fill(Load { memory: 256 * MB, set: 50 * MB, speed: 40_000 * MB, link: 100 * MB });
    assert_eq!((longer.next, longer.figures.end), (NextRound::Seal, Some(RoundsEnd::LongPause)));
    let never = fill(Load { memory: 256 * MB, set: 200 * MB, speed: 40_000 * MB, link: 100 * MB });
    assert_eq!((never.next, never.figures.end), (NextRound::Over, None));
    assert!(never.figures.round <= 12, "rounds for nothing: {:?}", never.figures);
    assert!(never.figures.round <= rounds().rounds_max && never.took <= rounds().time_max + Duration::from_secs(4));
    assert_eq!(never.shares.last(), Some(&100), "it is given back what it had");
    assert_eq!((never.primary.state(), never.primary.wants_connection(PEER)), (PrimaryState::Solo, false));
}

#[test]
fn no_load_makes_a_filling_last_without_an_end_or_the_base_longer_than_its_maximum() {
    for speed in [0, 1, 10, 50, 90, 100, 110, 200, 1000, 10_000] {
        for set in [1, 10, 100, 900] {
            for link in [1, 10, 100, 1000] {
                let load = Load { memory: 1000 * MB, set: set * MB, speed: speed * MB, link: link * MB };
                let filled = fill(load);
                let first = Duration::from_secs(1000 / link);
                let bound = first + rounds().time_max.max(first * 2) + Duration::from_secs(set.div_ceil(link));
                assert!(filled.took <= bound, "{speed} {set} {link}: {:?}", filled.took);
                let is_short = filled.left <= (link * MB * 6 / 10).min(256 * MB) || filled.left <= 64 * 4096;
                assert!(filled.next == NextRound::Over || is_short, "{speed} {set} {link}: {}", filled.left);
                let shares = &filled.shares;
                assert!(shares.iter().all(|share| *share >= rounds().share_min), "{shares:?}");
            }
        }
    }
}

#[test]
fn what_comes_between_the_last_round_and_the_base_is_looked_at_too() {
    // Images are synced and the register is asked meanwhile; that takes time, and the guest writes on.
    let load = Load { memory: 100 * MB, set: 0, speed: 0, link: 100 * MB };
    let Filled { mut primary, .. } = fill(load);
    let left = |mb: u64| Left { page_bytes: mb * MB, write_bytes: 0 };
    assert_eq!(primary.handle_fill_left(Time(9_000 * MS), SESSION, left(20)), NextRound::Seal);
    assert_eq!(primary.handle_fill_left(Time(9_000 * MS), SESSION, left(50)), NextRound::Send);
    primary.handle_fill_sent(SESSION, 50 * MB, 0);
    assert_eq!(primary.handle_fill_left(Time(9_500 * MS), SESSION, left(1)), NextRound::Seal);
    assert_eq!(primary.fill_figures(PEER).round, 2);
}

#[test]
fn base_has_only_so_many_bytes_however_fast_they_could_be_sent() {
    let load = Load { memory: 1000 * MB, set: 0, speed: 0, link: 1000 * MB };
    let Filled { mut primary, .. } = fill(load);
    let left = |mb: u64| Left { page_bytes: 0, write_bytes: mb * MB };
    assert_eq!(primary.handle_fill_left(Time(9_000 * MS), SESSION, left(65)), NextRound::Send);
    primary.handle_fill_sent(SESSION, 65 * MB, 0);
    assert_eq!(primary.handle_fill_left(Time(9_065 * MS), SESSION, left(64)), NextRound::Seal);
}

#[test]
fn disk_writes_that_come_and_are_sent_during_a_round_count_as_written_in_it() {
    let load = Load { memory: 100 * MB, set: 0, speed: 0, link: 100 * MB };
    let Filled { mut primary, .. } = fill(load);
    let left = Left { page_bytes: 40 * MB, write_bytes: 0 };
    for round in 0..2 {
        assert_eq!(primary.handle_fill_left(Time((10 + round) * 1000 * MS), SESSION, left), NextRound::Send);
        primary.handle_fill_sent(SESSION, 100 * MB, 0);
    }
    assert_eq!(primary.handle_fill_left(Time(12_000 * MS), SESSION, left), NextRound::Send);
    assert!(matches!(
        asked(&mut primary)[..],
        [PrimaryAction::FillingDiverges { .. }, PrimaryAction::GuestShare { .. }]
    ));
    assert_eq!(primary.fill_figures(PEER).dirty_rate, Some(100 * MB));
}

#[test]
fn figures_tell_rate_and_how_long_it_will_take() {
    let mut primary = syncing();
    primary.handle_disks_compared(SESSION, 50 * MB, Duration::from_secs(1), 200 * MB);
    let figures = primary.fill_figures(PEER);
    assert_eq!((figures.round, figures.left_bytes, figures.rate), (0, 200 * MB, Some(50 * MB)));
    assert_eq!(figures.estimate, Some(Duration::from_secs(4)));
    let left = |mb: u64| Left { page_bytes: mb * MB, write_bytes: 0 };
    assert_eq!(primary.handle_fill_left(Time(0), SESSION, left(100)), NextRound::Send);
    primary.handle_fill_sent(SESSION, 60 * MB, 10 * MB);
    assert_eq!(primary.fill_figures(PEER).left_bytes, 30 * MB);
    primary.handle_fill_sent(SESSION, 20 * MB, 10 * MB);
    assert_eq!(primary.handle_fill_left(Time(800 * MS), SESSION, left(32)), NextRound::Send);
    let figures = primary.fill_figures(PEER);
    assert_eq!((figures.rate, figures.dirty_rate), (Some(100 * MB), Some(40 * MB)));
    assert_eq!(figures.estimate, Some(Duration::from_nanos(32 * MB * 1000 / 60)));
    assert_eq!(figures.sent_bytes, 80 * MB);
    assert!(figures.converges);
}

#[test]
fn fillings_that_fail_one_after_the_other_rest_longer_and_longer_until_one_succeeds_or_the_operator_asks() {
    let mut primary = syncing();
    for rest in [40, 80, 100, 100] {
        primary.handle_fill_failed(Time(0), SESSION);
        let actions = asked(&mut primary);
        assert_eq!(actions[0], PrimaryAction::Disconnect { peer: PEER });
        assert_eq!(primary.fill_rest_until(PEER), Some(Time(rest * MS)));
        assert!(!primary.wants_connection(PEER));
        assert_eq!(primary.poll_timeout(), Some(Time(rest * MS)));
        primary.handle_timeout(Time((rest - 1) * MS));
        assert!(!primary.wants_connection(PEER));
        primary.handle_timeout(Time(rest * MS));
        assert!(primary.wants_connection(PEER));
        connect_again(&mut primary);
    }
    primary.handle_fill_failed(Time(0), SESSION);
    primary.handle_backup_wanted();
    assert!(primary.wants_connection(PEER));
}
