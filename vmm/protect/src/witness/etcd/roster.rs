//! Which of a cluster's addresses is asked first: the one that gave the last answer, then those of which nothing bad is known, then those
//! that were silent or failed when they were asked last.

use std::collections::BTreeSet;

/// What is known of the addresses, by their places in the list.
#[derive(Debug, Default)]
pub(super) struct Roster {
    last: usize,
    /// Of which cluster the last answer was.
    cluster: Option<u64>,
    silent: BTreeSet<usize>,
}

impl Roster {
    /// Of `count` addresses.
    pub(super) fn order(&self, count: usize) -> Vec<usize> {
        let (mut order, silent): (Vec<_>, Vec<_>) =
            (0..count).map(|n| (self.last + n) % count).partition(|at| !self.silent.contains(at));
        order.extend(silent);
        order
    }

    /// The address `at` gave the first answer of those that were asked. One of another cluster than before is not preferred: the cluster
    /// that counts may only have been slower, while it elects a leader.
    pub(super) fn handle_answer(&mut self, at: usize, cluster: u64, asked: &[usize]) {
        if self.cluster.is_some_and(|known| known != cluster) {
            self.silent.insert(at);
            return;
        }
        (self.last, self.cluster) = (at, Some(cluster));
        self.silent.extend(asked);
        self.silent.remove(&at);
    }

    /// It gave none.
    pub(super) fn handle_silence(&mut self, at: usize) {
        self.silent.insert(at);
    }

    /// Whether the last answer was given by `at`, and of `cluster`.
    pub(super) fn answered_last(&self, at: usize, cluster: u64) -> bool {
        (self.last, self.cluster) == (at, Some(cluster))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_that_answered_last_comes_first_and_those_that_did_not_come_last() {
        let mut roster = Roster::default();
        assert_eq!(roster.order(3), [0, 1, 2]);
        roster.handle_silence(0);
        assert_eq!(roster.order(3), [1, 2, 0]);
        roster.handle_answer(2, 7, &[1, 2]);
        assert_eq!(roster.order(3), [2, 0, 1]);
        assert!(roster.answered_last(2, 7) && !roster.answered_last(2, 8) && !roster.answered_last(1, 7));
        roster.handle_silence(2);
        assert_eq!(roster.order(3), [2, 0, 1], "nothing is known: all are tried");
        roster.handle_answer(0, 7, &[2, 0]);
        assert_eq!(roster.order(3), [0, 1, 2]);
    }

    #[test]
    fn address_of_another_cluster_that_was_faster_once_is_not_asked_first() {
        let mut roster = Roster::default();
        roster.handle_answer(1, 7, &[0, 1]);
        roster.handle_answer(0, 8, &[1, 2, 0]);
        assert_eq!(roster.order(3), [1, 2, 0]);
        assert!(roster.answered_last(1, 7));
    }
}
