//! The machine's state from one epoch to the next: mostly the same bytes.
//!
//! The first state of a session goes whole. Of a later one of the same length go the runs that differ from the state of
//! the epoch before, if that is less.

use crate::id::SessionId;
use crate::wire::StateDelta;

/// Equal bytes between two runs that cost less than another run.
const GAP_MAX: usize = 8;

/// What the backup of a session has of the machine's state, as far as this side has shipped it.
#[derive(Debug, Default)]
pub struct ShippedState {
    session: Option<SessionId>,
    state: Vec<u8>,
}

impl ShippedState {
    /// `state` is shipped in `session`. Gives what it differs in from the one before; `None`: it goes whole.
    pub(crate) fn replace(&mut self, session: SessionId, state: Vec<u8>) -> Option<StateDelta> {
        let before = std::mem::replace(&mut self.state, state);
        let is_same = self.session.replace(session) == Some(session) && before.len() == self.state.len();
        is_same.then(|| StateDelta::between(&before, &self.state)).filter(|delta| delta.bytes() < before.len())
    }

    pub(crate) fn state(&self) -> &[u8] {
        &self.state
    }
}

impl StateDelta {
    /// What turns `before` into `now`, of the same length.
    fn between(before: &[u8], now: &[u8]) -> Self {
        let mut runs: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut end = 0;
        let differ = before.iter().zip(now).enumerate().filter(|(_, (before, now))| before != now);
        for (at, _) in differ {
            match runs.last_mut() {
                Some((_, bytes)) if at <= end + GAP_MAX => bytes.extend_from_slice(&now[end..=at]),
                _ => runs.push((at as u32, vec![now[at]])),
            }
            end = at + 1;
        }
        StateDelta { len: now.len() as u32, runs }
    }

    /// What it takes in a frame, about.
    fn bytes(&self) -> usize {
        self.runs.iter().map(|(_, bytes)| bytes.len() + 8).sum()
    }

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

    #[test]
    fn state_after_state_is_the_one_that_was_shipped() {
        let mut shipped = ShippedState::default();
        let first: Vec<u8> = (0..200).collect();
        assert_eq!(shipped.replace(SESSION, first.clone()), None, "the first one goes whole");
        let mut next = first.clone();
        (next[3], next[9], next[150], next[199]) = (0xff, 0xfe, 0xfd, 0xfc);
        let delta = shipped.replace(SESSION, next.clone()).expect("it differs little");
        assert_eq!(
            delta.runs.iter().map(|(at, bytes)| (*at, bytes.len())).collect::<Vec<_>>(),
            [(3, 7), (150, 1), (199, 1)]
        );
        assert_eq!(delta.apply(&first), Some(next.clone()));
        let same = shipped.replace(SESSION, next.clone()).expect("it does not differ");
        assert_eq!((same.runs.len(), same.apply(&next)), (0, Some(next)));
    }

    #[test]
    fn state_of_another_length_or_session_or_that_differs_much_goes_whole() {
        let mut shipped = ShippedState::default();
        let _ = shipped.replace(SESSION, vec![0; 100]);
        assert_eq!(shipped.replace(SESSION, vec![0; 101]), None);
        assert_eq!(shipped.replace(SESSION, vec![1; 101]), None);
        assert!(shipped.replace(SESSION, vec![1; 101]).is_some());
        assert_eq!(shipped.replace(SessionId([2; 16]), vec![1; 101]), None);
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
