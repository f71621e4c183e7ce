//! How the filling of a backup proceeds: for the core, for operators, for `status`.

use std::time::Duration;

use outlast_api::{Filling, FillingFigures};
use replication::primary::{FillFigures, FillPhase, NotConverging, PeerId, RoundsConfig};

use super::{Guardian, IN_FLIGHT_BYTES_MAX, Inner};

/// How rounds of memory are judged. Whoever talks to the guest waits for what is left to the base: not noticeably longer than for the
/// rest of a base (its state is loaded into a VM over there, and synced), and less than a second in all.
pub(super) const ROUNDS: RoundsConfig = RoundsConfig {
    pause: Duration::from_millis(300),
    pause_max: Duration::from_millis(600),
    // Beyond the second no epoch is sealed before the base is acked, and the guest stands still.
    base_bytes: IN_FLIGHT_BYTES_MAX / 4,
    base_bytes_max: IN_FLIGHT_BYTES_MAX,
    rounds_max: 30,
    time_max: Duration::from_secs(120),
    // A processor that gets a fiftieth of its time answers in half a second what takes it 10 ms.
    share_min: 2,
};
/// How long no backup is filled after one could not be; doubled with each failure in a row, up to the second.
pub(super) const FILL_REST: Duration = Duration::from_secs(1);
pub(super) const FILL_REST_MAX: Duration = Duration::from_secs(60);

impl Guardian {
    /// The figures of the filling that is under way, or of the last one.
    pub(super) fn fill_figures(&self) -> FillFigures {
        self.lock().pipeline.core().fill_figures(PeerId::FIRST)
    }

    /// For `status`: where a filling is, for how long it has done nothing, and whether and when it will be done.
    pub(super) fn filling_of(&self, inner: &Inner) -> Option<Filling> {
        let (phase, since) = inner.pipeline.core().filling(PeerId::FIRST)?;
        let figures = inner.pipeline.core().fill_figures(PeerId::FIRST);
        Some(Filling {
            phase: phase.as_str().into(),
            idle_ms: self.clock.now().since(since).as_millis() as u64,
            figures: told(&figures),
            doing: doing(phase, &figures),
        })
    }
}

/// The figures of a filling, for `status`.
pub(super) fn told(figures: &FillFigures) -> FillingFigures {
    let FillFigures { round, sent_bytes, left_bytes, rate, dirty_rate, estimate, converges, share, end: _ } = *figures;
    FillingFigures {
        round,
        sent_bytes,
        left_bytes,
        bytes_per_s: rate,
        dirty_bytes_per_s: dirty_rate,
        estimate_s: estimate.map(|estimate| (estimate.as_secs_f64() * 10.0).ceil() / 10.0),
        converges,
        guest_percent: share,
    }
}

/// What is done, for people.
fn doing(phase: FillPhase, figures: &FillFigures) -> String {
    match (phase, figures.share) {
        (FillPhase::Disks, _) => "comparing the disks and sending what differs".into(),
        (FillPhase::Memory, 100) => "sending memory while the guest runs".into(),
        (FillPhase::Memory, share) => {
            format!("sending memory, throttling the guest to {share} % of its processors: it writes too fast")
        }
        (phase, _) => phase.to_string(),
    }
}

/// Why the rounds were given up, for people.
pub(super) fn why_not_converging(why: &NotConverging) -> String {
    let NotConverging { rounds, left_bytes, rate, pause } = why;
    format!(
        "the guest writes memory or disks faster than they can be sent: after {rounds} rounds {} MiB were left, which take {:.1} s at \
         {:.1} MiB/s; it will be tried again: let the guest write less meanwhile, or make the link between the hosts faster",
        left_bytes >> 20,
        pause.as_secs_f64(),
        *rate as f64 / f64::from(1 << 20)
    )
}
