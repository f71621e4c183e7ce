//! The rounds of a filling: when the next one pays, when the base is sealed, when the guest is slowed, when it is given up.
//!
//! A round sends what was written during the one before, while the guest runs. What is left at the end goes with the base, and
//! whoever talks to the guest waits as long as that takes: its output is held until the backup has the base. So the rounds end as soon as
//! what is left takes no longer than a budget, at the rate that was measured. This is pre-copy as others do it: the budget
//! is QEMU's downtime limit, the bound on rounds is Xen's.
//!
//! A guest that writes more than half of what a round sends, twice in a row, does not get there by itself. Then its processors
//! get a share of their time only (QEMU's auto-converge), less after each such round: as much as makes the next round's
//! rest half, by what was measured. At the smallest share a longer pause is accepted, up to a maximum. What is still too much
//! when the last round or the time is over is given up, with this reason.

use std::collections::VecDeque;
use std::time::Duration;

use crate::id::Time;

/// How the rounds of a filling are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundsConfig {
    /// The base may be sealed when what is left takes so long at most.
    pub pause: Duration,
    /// So long, if the guest has its smallest share already or no time is left. At least `pause`.
    pub pause_max: Duration,
    /// And it has so many bytes at most, however fast they were sent: a base costs both sides more than a round does.
    pub base_bytes: u64,
    /// So many, where `pause_max` holds.
    pub base_bytes_max: u64,
    /// Rounds at most.
    pub rounds_max: u32,
    /// How long the rounds after the first take at most; or twice as long as the first, if that is longer.
    pub time_max: Duration,
    /// The smallest share of the guest, in percent: 1 to 100. 100: it is never slowed.
    pub share_min: u8,
}

/// So little is always left to the base: a round costs as much.
const LEAST_BYTES: u64 = 64 * 4096;
/// The rate is that of the last rounds that sent so much together: sockets take less without anybody having read it.
const RATE_BYTES: u64 = 32 << 20;
/// So many rounds in a row leave too much before the guest is slowed.
const DIVERGING_ROUNDS: u32 = 2;

/// So many rounds in a row at the smallest share leave about as much as they sent, until nothing more is expected of them.
const STUCK_ROUNDS: u32 = 4;

/// What the backup lacks, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Pages written and not sent.
    pub page_bytes: u64,
    /// Disk writes collected and not sent.
    pub write_bytes: u64,
}

impl Left {
    fn bytes(self) -> u64 {
        self.page_bytes.saturating_add(self.write_bytes)
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextRound {
    /// Send what is left in another round.
    Send,
    /// Leave it to the base.
    Seal,
    /// The filling is over: its session has ended, or the rounds were given up.
    Over,
}

/// Why the rounds ended and the base is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundsEnd {
    /// What is left takes no longer than the budget.
    Converged,
    /// The same, of a guest that was slowed for it.
    Throttled,
    /// It takes longer, but no longer than the maximum, and nothing makes it less.
    LongPause,
}

impl RoundsEnd {
    /// In a word, for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Converged => "converged",
            Self::Throttled => "throttled",
            Self::LongPause => "long-pause",
        }
    }
}

/// Why rounds were given up: the guest writes faster than it can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotConverging {
    /// Rounds sent.
    pub rounds: u32,
    /// What was left then, in bytes.
    pub left_bytes: u64,
    /// Bytes a second.
    pub rate: u64,
    /// The pause that the base would have needed.
    pub pause: Duration,
}

/// Where a filling is, in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FillFigures {
    /// The round that is being sent, or was sent last; 0: none yet.
    pub round: u32,
    /// Bytes sent of memory and disks, before compression.
    pub sent_bytes: u64,
    /// Bytes to send now: of the disks, or of this round.
    pub left_bytes: u64,
    /// Bytes a second, as measured; none: not yet.
    pub rate: Option<u64>,
    /// Bytes a second that the guest wrote during the last round; none: there was none.
    pub dirty_rate: Option<u64>,
    /// How long until the base at these rates; none: never, or not known.
    pub estimate: Option<Duration>,
    /// Whether each round leaves less than the one before.
    pub converges: bool,
    /// The guest's share of its processors' time, in percent.
    pub share: u8,
    /// Why the rounds ended, if they did.
    pub end: Option<RoundsEnd>,
}

/// What the core makes of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    Seal,
    GiveUp(NotConverging),
}

/// The rounds of one filling.
#[derive(Clone, Debug)]
pub(super) struct Rounds {
    round: u32,
    sent_bytes: u64,
    /// Before the first round: what of the disks is not compared yet. During a round: what it had to send, and has not sent yet.
    left_bytes: u64,
    /// When the round that is being sent was begun, what it had to send then, and what was sent since.
    running: Option<Running>,
    /// Bytes and time of the last rounds; before the first, of the disks.
    recent: VecDeque<(u64, Duration)>,
    /// When the rounds are given up; none: the first is not done.
    until: Option<Time>,
    dirty_rate: Option<u64>,
    diverging: u32,
    stuck: u32,
    /// The guest's, in percent, and whether it is in force.
    share: u8,
    is_slowed: bool,
    end: Option<RoundsEnd>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    since: Time,
    to_send: u64,
    sent: u64,
}

impl Rounds {
    pub(super) fn new() -> Self {
        Self {
            round: 0,
            sent_bytes: 0,
            left_bytes: 0,
            running: None,
            recent: VecDeque::new(),
            until: None,
            dirty_rate: None,
            diverging: 0,
            stuck: 0,
            share: 100,
            is_slowed: false,
            end: None,
        }
    }

    /// `bytes` were sent, and `skipped_bytes` of what was left need not be.
    pub(super) fn handle_sent(&mut self, bytes: u64, skipped_bytes: u64) {
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
        self.left_bytes = self.left_bytes.saturating_sub(bytes.saturating_add(skipped_bytes));
        if let Some(running) = &mut self.running {
            running.sent = running.sent.saturating_add(bytes);
        }
    }

    /// Before the first round: so much of the disks is not compared yet, `bytes` were in `took`.
    pub(super) fn handle_compared(&mut self, bytes: u64, took: Duration, left_bytes: u64) {
        self.left_bytes = left_bytes;
        self.note_rate(bytes, took);
    }

    /// What is left when a round is done, or before the first.
    pub(super) fn handle_left(&mut self, now: Time, left: Left, config: &RoundsConfig) -> Verdict {
        if let Some(running) = self.running.take() {
            self.end_round(now, running, left, config);
        }
        self.left_bytes = left.bytes();
        if self.round == 0 {
            self.recent.clear();
        } else {
            if let Some(end) = self.is_enough(now, left, config) {
                self.end = Some(end);
                return Verdict::Seal;
            }
            if self.is_over(now, config) {
                let (rate, pause) = (self.rate().unwrap_or(0), self.pause(left).unwrap_or(Duration::MAX));
                let (rounds, left_bytes) = (self.round, left.bytes());
                return Verdict::GiveUp(NotConverging { rounds, left_bytes, rate, pause });
            }
        }
        self.round += 1;
        self.end = None;
        self.running = Some(Running { since: now, to_send: left.bytes(), sent: 0 });
        Verdict::Send
    }

    pub(super) fn share(&self) -> u8 {
        self.share
    }

    /// The guest is not slowed any more. Whether it was.
    pub(super) fn end_slowing(&mut self) -> bool {
        std::mem::replace(&mut self.is_slowed, false)
    }

    pub(super) fn figures(&self) -> FillFigures {
        FillFigures {
            round: self.round,
            sent_bytes: self.sent_bytes,
            left_bytes: self.left_bytes,
            rate: self.rate(),
            dirty_rate: self.dirty_rate,
            estimate: self.estimate(),
            converges: self.diverging < DIVERGING_ROUNDS,
            share: self.share,
            end: self.end,
        }
    }

    fn end_round(&mut self, now: Time, running: Running, left: Left, config: &RoundsConfig) {
        let took = now.since(running.since);
        self.note_rate(running.sent, took);
        self.until.get_or_insert_with(|| now.after(config.time_max.max(took.saturating_mul(2))));
        // Disk writes that came during the round were sent in it.
        let dirtied = left.bytes().saturating_add(running.sent.saturating_sub(running.to_send));
        self.dirty_rate = per_second(dirtied, took);
        let is_stuck = self.share <= config.share_min && self.share < 100 && dirtied >= running.sent / 8 * 7;
        self.stuck = if is_stuck { self.stuck + 1 } else { 0 };
        if dirtied <= running.sent / 2 || left.bytes() <= LEAST_BYTES {
            self.diverging = 0;
            return;
        }
        self.diverging += 1;
        if self.diverging >= DIVERGING_ROUNDS {
            self.share = less_share(self.share, running.sent, dirtied).max(config.share_min);
            self.is_slowed = self.share < 100;
        }
    }

    /// Whether what is left may be left to the base.
    fn is_enough(&self, now: Time, left: Left, config: &RoundsConfig) -> Option<RoundsEnd> {
        let bytes = left.bytes();
        let pause = if bytes <= LEAST_BYTES { Some(Duration::ZERO) } else { self.pause(left) }?;
        let is_slowest = self.diverging >= DIVERGING_ROUNDS && self.share <= config.share_min;
        let is_little = pause <= config.pause && bytes <= config.base_bytes;
        let is_bearable = pause <= config.pause_max && bytes <= config.base_bytes_max;
        match is_little {
            true if self.share < 100 => Some(RoundsEnd::Throttled),
            true => Some(RoundsEnd::Converged),
            false if is_bearable && (is_slowest || self.is_over(now, config)) => Some(RoundsEnd::LongPause),
            false => None,
        }
    }

    fn is_over(&self, now: Time, config: &RoundsConfig) -> bool {
        self.round >= config.rounds_max || self.stuck >= STUCK_ROUNDS || self.until.is_some_and(|until| now >= until)
    }

    /// How long sending `left` takes.
    fn pause(&self, left: Left) -> Option<Duration> {
        time_for(left.bytes(), self.rate()?)
    }

    fn estimate(&self) -> Option<Duration> {
        time_for(self.left_bytes, self.rate()?.checked_sub(self.dirty_rate.unwrap_or(0))?)
    }

    fn note_rate(&mut self, bytes: u64, took: Duration) {
        self.recent.push_back((bytes, took));
        let all = |recent: &VecDeque<(u64, Duration)>| {
            recent.iter().skip(1).fold(0, |sum: u64, (bytes, _)| sum.saturating_add(*bytes))
        };
        while all(&self.recent) >= RATE_BYTES {
            self.recent.pop_front();
        }
    }

    fn rate(&self) -> Option<u64> {
        let (bytes, took) = self
            .recent
            .iter()
            .fold((0u64, Duration::ZERO), |(bytes, took), (b, t)| (bytes.saturating_add(*b), took.saturating_add(*t)));
        per_second(bytes, took).filter(|rate| *rate > 0)
    }
}

/// The share at which half of what a round sends would be written during the next: at least a fifth less than `share`, and at most
/// half less; a quarter of it where all was written anew, and by how much too fast cannot be told.
fn less_share(share: u8, sent: u64, dirtied: u64) -> u8 {
    let wanted = u128::from(share) * u128::from(sent) / (2 * u128::from(dirtied.max(1)));
    let wanted = u8::try_from(wanted).unwrap_or(share);
    let (wanted, least) = if dirtied >= sent / 8 * 7 { (wanted / 2, share / 4) } else { (wanted, share / 2) };
    wanted.clamp(least, share - share / 5).max(1)
}

fn per_second(bytes: u64, took: Duration) -> Option<u64> {
    let per_second = u128::from(bytes) * 1_000_000_000 / took.as_nanos().max(1);
    u64::try_from(per_second).ok()
}

fn time_for(bytes: u64, rate: u64) -> Option<Duration> {
    let ns = (u128::from(bytes) * 1_000_000_000).checked_div(u128::from(rate))?;
    u64::try_from(ns).ok().map(Duration::from_nanos)
}
