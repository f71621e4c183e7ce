//! The other backups of the primary that this process succeeded: the record of the takeover lists them under the joins of before, so
//! each of them may be whole, and could succeed this one.
//!
//! ```text
//!   awaited ──detect──▶ leaving ──removal won──▶ out
//!                          └─────removal lost──▶ the guest is fenced
//! ```
//!
//! They count from the fork on, and none has more than that from this side. So until each of them is out nothing is committed: what the
//! guest does is held, and so is what the predecessor held. The guest waits at its first boundary.

use super::{Primary, PrimaryAction, Question};
use crate::commit::CommitPlace;
use crate::id::{SessionId, Time};

/// Those that are neither out nor follow.
#[derive(Debug, Default)]
pub(super) struct Siblings {
    members: Vec<Sibling>,
    /// Since when they are awaited; none: this core was not told the time yet.
    since: Option<Time>,
}

/// One of them, by its join.
#[derive(Clone, Copy, Debug)]
struct Sibling {
    join: SessionId,
    /// Its removal is asked for.
    is_leaving: bool,
}

impl Siblings {
    pub(super) fn of(joins: &[SessionId]) -> Siblings {
        let members = joins.iter().map(|join| Sibling { join: *join, is_leaving: false }).collect();
        Siblings { members, since: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn joins(&self) -> impl Iterator<Item = SessionId> {
        self.members.iter().map(|member| member.join)
    }

    pub(super) fn is_leaving(&self, join: SessionId) -> bool {
        self.members.iter().any(|member| member.join == join && member.is_leaving)
    }
}

impl Primary {
    /// Whether what the predecessor held may be sent again: every backup that it had follows here or is out.
    pub fn may_emit_again(&self) -> bool {
        self.siblings.is_empty()
    }

    /// When they have had their time.
    pub(super) fn siblings_due(&self) -> Option<Time> {
        let awaits = self.siblings.members.iter().any(|member| !member.is_leaving) && !self.is_over();
        awaits.then(|| self.siblings.since.map_or(Time(0), |since| since.after(self.config.detect)))
    }

    /// Asks for the removal of those that have had their time.
    pub(super) fn check_siblings(&mut self, now: Time) {
        let since = *self.siblings.since.get_or_insert(now);
        if self.is_over() || now < since.after(self.config.detect) {
            return;
        }
        let awaited = self.siblings.members.iter_mut().filter(|member| !member.is_leaving);
        let overdue: Vec<SessionId> = awaited
            .map(|member| {
                member.is_leaving = true;
                member.join
            })
            .collect();
        overdue.into_iter().for_each(|session| self.ask(Question::Claim { session }));
    }

    /// The register does not list that one any more.
    pub(super) fn win_sibling(&mut self, now: Time, join: SessionId) {
        self.errands.settle(&Question::Claim { session: join });
        self.siblings.members.retain(|member| member.join != join);
        self.commit.leave(CommitPlace::Peer(join));
        if self.siblings.is_empty() {
            self.actions.push_back(PrimaryAction::EmitAgain);
        }
        self.advance();
        self.end_if_released(now);
    }
}
