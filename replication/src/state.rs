//! The machine's state from one epoch to the next: mostly the same bytes.
//!
//! The first state of a session goes whole. Of a later one of the same length go the runs that differ from the state of
//! the epoch before, if that is less.

use crate::id::SessionId;

/// Equal bytes between two runs that cost less than another run.
const GAP_MAX: usize = 8;

/// What the backup of a session has of the machine's state, as far as this side has shipped it.
#[derive(Debug, Default)]
pub struct ShippedState {
    session: Option<SessionId>,
    state: Vec<u8>,
    /// The state before, whose memory the next one takes.
    before: Vec<u8>,
}

impl ShippedState {
    /// `state`, which may take the memory that it is given, is shipped in `session`. Gives what it differs in from the one
    /// before, if there is one of that length in this session.
    pub(crate) fn replace(
        &mut self,
        session: SessionId,
        state: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) -> Option<Difference<'_>> {
        let spare = std::mem::take(&mut self.before);
        self.before = std::mem::replace(&mut self.state, state(spare));
        let is_same = self.session.replace(session) == Some(session) && self.before.len() == self.state.len();
        is_same.then_some(Difference { before: &self.before, now: &self.state })
    }

    pub(crate) fn state(&self) -> &[u8] {
        &self.state
    }
}

/// What turns one state into another of the same length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Difference<'a> {
    before: &'a [u8],
    now: &'a [u8],
}

impl<'a> Difference<'a> {
    /// Bytes of both states.
    pub(crate) fn len(self) -> usize {
        self.now.len()
    }

    /// Offsets, and what is there now.
    pub(crate) fn runs(self) -> impl Iterator<Item = (u32, &'a [u8])> {
        let Self { before, now } = self;
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = at + first_difference(&before[at..], &now[at..])?;
            let mut end = start + 1;
            while let Some(gap) = first_difference(&before[end..], &now[end..]).filter(|gap| *gap <= GAP_MAX) {
                end += gap + 1;
            }
            at = end;
            Some((start as u32, &now[start..end]))
        })
    }

    /// Whether it takes less in a frame than the state itself.
    pub(crate) fn is_less(self) -> bool {
        self.runs().map(|(_, bytes)| bytes.len() + 8).sum::<usize>() < self.len()
    }
}

fn first_difference(before: &[u8], now: &[u8]) -> Option<usize> {
    /// Compared at once; most of a state is equal.
    const BLOCK: usize = 64;
    let equal = before.chunks(BLOCK).zip(now.chunks(BLOCK)).take_while(|(before, now)| before == now).count() * BLOCK;
    let (before, now) = (before.get(equal..)?, now.get(equal..)?);
    before.iter().zip(now).position(|(before, now)| before != now).map(|at| equal + at)
}

/// The state at the end of an epoch: that of the epoch before, of the same session, with these runs over it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateDelta {
    /// Length of both states, in bytes.
    pub len: u32,
    /// Offset in bytes, and what is there now.
    pub runs: Vec<(u32, Vec<u8>)>,
}

impl StateDelta {
    /// The state after `before`; `None` if this does not belong to it.
    pub(crate) fn apply(&self, before: &[u8]) -> Option<Vec<u8>> {
        if self.len as usize != before.len() {
            return None;
        }
        let mut state = before.to_vec();
        for (offset, bytes) in &self.runs {
            let end = (*offset as usize).checked_add(bytes.len())?;
            state.get_mut(*offset as usize..end)?.copy_from_slice(bytes);
        }
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId([1; 16]);

    /// What the next state of a session differs in from the one before, if it is shipped so.
    fn next(shipped: &mut ShippedState, session: SessionId, state: &[u8]) -> Option<StateDelta> {
        let difference = shipped.replace(session, |_| state.to_vec()).filter(|difference| difference.is_less())?;
        let runs = difference.runs().map(|(at, bytes)| (at, bytes.to_vec())).collect();
        Some(StateDelta { len: difference.len() as u32, runs })
    }

    #[test]
    fn state_after_state_is_the_one_that_was_shipped() {
        let mut shipped = ShippedState::default();
        let first: Vec<u8> = (0..200).collect();
        assert_eq!(next(&mut shipped, SESSION, &first), None, "the first one goes whole");
        let mut state = first.clone();
        (state[3], state[9], state[150], state[199]) = (0xff, 0xfe, 0xfd, 0xfc);
        let delta = next(&mut shipped, SESSION, &state).expect("it differs little");
        assert_eq!(
            delta.runs.iter().map(|(at, bytes)| (*at, bytes.len())).collect::<Vec<_>>(),
            [(3, 7), (150, 1), (199, 1)]
        );
        assert_eq!(delta.apply(&first), Some(state.clone()));
        let same = next(&mut shipped, SESSION, &state).expect("it does not differ");
        assert_eq!((same.runs.len(), same.apply(&state)), (0, Some(state)));
    }

    #[test]
    fn differences_are_found_wherever_they_are() {
        for len in [1, 63, 64, 65, 200] {
            let before = vec![0; len];
            for at in 0..len {
                let mut now = before.clone();
                now[at] = 1;
                let runs: Vec<_> = Difference { before: &before, now: &now }.runs().collect();
                assert_eq!(runs, [(at as u32, &[1][..])]);
            }
        }
    }

    #[test]
    fn gap_of_a_few_equal_bytes_is_shipped_and_a_longer_one_ends_the_run() {
        let before = [0; 40];
        let mut now = before;
        (now[0], now[GAP_MAX + 1], now[2 * GAP_MAX + 3]) = (1, 1, 1);
        let lens: Vec<_> = Difference { before: &before, now: &now }.runs().map(|(at, run)| (at, run.len())).collect();
        assert_eq!(lens, [(0, GAP_MAX + 2), (2 * GAP_MAX as u32 + 3, 1)]);
    }

    #[test]
    fn state_of_another_length_or_session_or_that_differs_much_goes_whole() {
        let mut shipped = ShippedState::default();
        let _ = next(&mut shipped, SESSION, &[0; 100]);
        assert_eq!(next(&mut shipped, SESSION, &[0; 101]), None);
        assert_eq!(next(&mut shipped, SESSION, &[1; 101]), None);
        assert!(next(&mut shipped, SESSION, &[1; 101]).is_some());
        assert_eq!(next(&mut shipped, SessionId([2; 16]), &[1; 101]), None);
    }

    #[test]
    fn delta_that_does_not_fit_is_refused() {
        let of = |len, runs: &[(u32, Vec<u8>)]| StateDelta { len, runs: runs.to_vec() }.apply(&[0; 10]);
        assert_eq!(of(11, &[]), None);
        assert_eq!(of(10, &[(9, vec![1, 2])]), None);
        assert_eq!(of(10, &[(u32::MAX, vec![1; 10])]), None);
        assert_eq!(of(10, &[(8, vec![1, 2])]), Some(vec![0, 0, 0, 0, 0, 0, 0, 0, 1, 2]));
    }
}
