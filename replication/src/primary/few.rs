//! One thing for each backup, without the heap: it is counted what an epoch allocates.

use std::array;
use std::iter::Flatten;

/// Targets of a primary, at most.
pub const PEERS_MAX: usize = 4;

/// At most [`PEERS_MAX`] things, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Few<T>([Option<T>; PEERS_MAX]);

impl<T> Few<T> {
    /// The first of those that are left.
    pub fn front(&self) -> Option<&T> {
        self.0.iter().flatten().next()
    }

    /// Takes that one out.
    pub fn pop_front(&mut self) -> Option<T> {
        self.0.iter_mut().find_map(Option::take)
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self([const { None }; PEERS_MAX])
    }
}

impl<T> FromIterator<T> for Few<T> {
    /// # Panics
    /// If there are more than [`PEERS_MAX`].
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut few = Self::default();
        for (at, item) in items.into_iter().enumerate() {
            few.0[at] = Some(item);
        }
        few
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = Flatten<array::IntoIter<Option<T>, PEERS_MAX>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_things_are_taken_from_the_front_in_their_order() {
        let mut few: Few<u8> = [7, 8].into_iter().collect();
        assert_eq!((few.front().copied(), few.pop_front(), few.front().copied()), (Some(7), Some(7), Some(8)));
        assert_eq!((few.pop_front(), few.pop_front(), few.into_iter().next()), (Some(8), None, None));
    }
}
