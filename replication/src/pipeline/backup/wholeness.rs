//! Whether the images are those of a guest at the end of an epoch. While a filling overwrites them they are of no moment at all, and a
//! guest that is booted from them has parts of two. A note beside them says so, to whoever opens them next:
//!
//! ```text
//!   Whole ─ BeginFilling ─▶ Filling ─ base in the log ─ EndFilling ─▶ Logged ─ base in the images ─▶ Whole
//!                              │                                         └ discarded ─ BeginFilling ─▶ Filling
//!                              └ base in the images ─▶ Unsynced ─ they are synced ─▶ Based ─ EndFilling ─▶ Whole
//! ```
//!
//! - The note is durable before the first byte of a filling is written.
//! - Whoever opens the images applies their log. So a base that is logged ends the filling, before it is acked: from the ack on this place may
//!   be the only one that has the guest. It is noted again before a session that comes to nothing takes the base out of the log.
//! - A base that is not to be durable ends it when the images have it on their media.

/// What is known of the images, and of the note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wholeness {
    /// No filling was begun that is not ended: nothing is noted.
    Whole,
    /// It is noted: a filling writes to them, or did.
    Filling,
    /// They have its base together with their log: nothing is noted.
    Logged,
    /// It is noted. They have its base, perhaps not on their media.
    Unsynced,
    /// It is noted. They have it there: the note is to go.
    Based,
}

impl Wholeness {
    /// As they are found.
    pub(super) fn found(is_half_filled: bool) -> Self {
        if is_half_filled { Self::Filling } else { Self::Whole }
    }

    /// Whether the note is there.
    pub(super) fn is_noted(self) -> bool {
        !matches!(self, Self::Whole | Self::Logged)
    }

    /// A chunk of a filling is about to be written, which is noted.
    pub(super) fn handle_chunk(&mut self) {
        *self = Self::Filling;
    }

    /// The note was removed.
    pub(super) fn handle_ended(&mut self) {
        *self = if *self == Self::Based { Self::Whole } else { Self::Logged };
    }

    /// They have the base of the filling; `is_synced`: on their media too.
    pub(super) fn handle_base(&mut self, is_synced: bool) {
        *self = match (*self, is_synced) {
            (Self::Filling, true) => Self::Based,
            (Self::Filling, false) => Self::Unsynced,
            (Self::Logged, _) => Self::Whole,
            (other, _) => other,
        };
    }

    /// What they had when the sync began is on their media.
    pub(super) fn handle_synced(&mut self) {
        if *self == Self::Unsynced {
            *self = Self::Based;
        }
    }
}
