//! Lines of history: what was executed, by whom, from where, and what of it the outside has seen. The model's own bookkeeping: no
//! process sees it.

use std::collections::BTreeMap;
use std::fmt;

use replication::lineage::{BranchSeed, Origin};
use replication::{EpochId, EpochMark, Fork, StateDigest, Term};

use crate::name::Life;

/// A branch, as one process executes it. By the rules a branch has one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line {
    /// The record that began it.
    pub branch: u8,
    /// Who executes it.
    pub life: Life,
}

/// One epoch, and so all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// In which line.
    pub line: Line,
    /// Its number.
    pub count: u8,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} of {}", self.line.branch, self.count, self.line.life)
    }
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Course {
    /// The epoch that it continues; none: the guest was booted.
    pub fork: Option<Epoch>,
    /// The epoch at whose end the disk was from which it was booted; none: it was blank.
    pub disk: Option<Epoch>,
    /// Its last sealed epoch.
    pub sealed: u8,
    /// The last epoch that it released.
    pub released: u8,
}

/// All lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lines(BTreeMap<Line, Course>);

impl Lines {
    /// `line` continues from `fork`, and shows that again; or it is booted from a disk.
    pub fn begin(&mut self, line: Line, fork: Option<Epoch>, disk: Option<Epoch>) {
        let count = fork.map_or(0, |fork| fork.count);
        self.0.insert(line, Course { fork, disk, sealed: count, released: count });
    }

    /// One epoch more was sealed. Whether another process sealed one of that branch and number.
    pub fn seal(&mut self, line: Line) -> bool {
        let course = self.0.get_mut(&line).expect("who seals has a line");
        course.sealed += 1;
        let sealed = course.sealed;
        let is_twin = |(other, course): (&Line, &Course)| {
            let first = course.fork.map_or(0, |fork| fork.count);
            other.branch == line.branch && other.life != line.life && first < sealed && sealed <= course.sealed
        };
        self.0.iter().any(is_twin)
    }

    /// All up to `epoch` was released by its line.
    pub fn release(&mut self, epoch: Epoch) {
        let course = self.0.get_mut(&epoch.line).expect("who releases has a line");
        course.released = course.released.max(epoch.count);
    }

    /// The last epoch that each line released; none of a line that released nothing.
    pub fn released(&self) -> impl Iterator<Item = Epoch> {
        let last = self.0.iter().map(|(line, course)| Epoch { line: *line, count: course.released });
        last.filter(|epoch| epoch.count > 0)
    }

    /// Whether `epoch` lies in the history of `later`, or is it. A guest that was booted has the history of its disk.
    pub fn is_in(&self, epoch: Epoch, later: Epoch) -> bool {
        let epoch = self.executed(epoch);
        let mut at = Some(self.executed(later));
        while let Some(here) = at {
            if here.line == epoch.line && epoch.count <= here.count {
                return true;
            }
            let course = self.0[&here.line];
            at = course.fork.or(course.disk).map(|before| self.executed(before));
        }
        false
    }

    /// The same epoch in the line that executed it.
    fn executed(&self, mut epoch: Epoch) -> Epoch {
        while let Some(fork) = self.0[&epoch.line].fork.filter(|fork| epoch.count <= fork.count) {
            epoch.line = fork.line;
        }
        epoch
    }

    /// The identity that the product gives it.
    pub fn mark(&self, epoch: Epoch) -> EpochMark {
        let Epoch { line: Line { branch, life }, count } = self.executed(epoch);
        let fork = self.0[&Line { branch, life }].fork;
        let first = fork.map_or(1, |fork| fork.count + 1);
        let origin =
            Origin { fork: fork.map(|fork| Fork::Mark(self.mark(fork))), seed: BranchSeed(life.incarnation().0) };
        let root = EpochMark::root(Term(branch.into()), EpochId(first.into()), origin);
        (first..=count).fold(root, |before, count| before.next(EpochId(count.into()), Some(digest(life, count))))
    }

    /// The epoch of that identity.
    pub fn find(&self, mark: EpochMark) -> Option<Epoch> {
        let all = self.0.iter().flat_map(|(line, course)| {
            let first = course.fork.map_or(1, |fork| fork.count + 1);
            (first..=course.sealed).map(|count| Epoch { line: *line, count })
        });
        let mut of_number = all.filter(|epoch| u64::from(epoch.count) == mark.count.0);
        of_number.find(|epoch| self.mark(*epoch) == mark)
    }
}

/// No two processes execute an epoch alike.
pub(crate) fn digest(life: Life, count: u8) -> StateDigest {
    StateDigest::of(&[life.host.0, life.number, count])
}
