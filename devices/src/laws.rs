//! The laws that every device keeps, as one macro over a [`Subject`].
//!
//! 1. save, restore, save gives the same save;
//! 2. saving changes nothing: two saves are equal, and the operations that follow see no difference;
//! 3. after more operations a restore gives the old state back;
//! 4. some operation changes the state (else the other laws would hold for a device that saves nothing);
//! 5. continuation: the same inputs on a device and on its restored copy give the same reads, output, memory and line;
//! 6. any bytes as a state give a device or an error, and the device then takes any operation;
//! 7. a save over an earlier state leaves nothing of that.
//!
//! Law 5 is failure transparency, one device at a time.

mod chips;
mod transport;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::RestoreError;

/// A device together with its surroundings: guest memory, disk, source of entropy.
pub(crate) trait Subject: Sized {
    type State: Serialize + DeserializeOwned + Clone + PartialEq + std::fmt::Debug;
    type Op: Clone + std::fmt::Debug;

    fn new() -> Self;
    /// Operations of the guest and of the world, hostile ones too.
    fn ops() -> BoxedStrategy<Self::Op>;
    /// Does one operation; gives all that can be seen from outside the device.
    fn apply(&mut self, op: &Self::Op) -> Vec<u8>;
    fn save(&self) -> Self::State;
    /// Saves over an earlier state, where the device can.
    fn save_over(&self, state: &mut Self::State) {
        *state = self.save();
    }
    /// Puts a device restored from `state` into the same surroundings.
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError>;
    /// A copy: its surroundings copied, its device restored from a save.
    fn fork(&self) -> Self;
    /// Brings a device and its restored copy to the same point: serves what a restore makes due. Says whether an edge
    /// of the interrupt line was due, if the edge is among what is served.
    fn settle(&mut self) -> bool {
        false
    }
    /// Everything outside the device that it can write.
    fn surroundings(&self) -> Vec<u8> {
        Vec::new()
    }

    fn run(&mut self, ops: &[Self::Op]) -> Vec<Vec<u8>> {
        ops.iter().map(|op| self.apply(op)).collect()
    }
}

/// Sequences of up to `max` operations.
pub(crate) fn sequence<S: Subject>(max: usize) -> impl Strategy<Value = Vec<S::Op>> {
    proptest::collection::vec(S::ops(), 0..max)
}

pub(crate) fn save_restore_save<S: Subject>(ops: &[S::Op]) {
    let mut subject = S::new();
    subject.run(ops);
    let saved = subject.save();
    subject.restore(saved.clone()).expect("what a device saves it believes");
    assert_eq!(subject.save(), saved);
}

pub(crate) fn saving_changes_nothing<S: Subject>(first: &[S::Op], then: &[S::Op]) {
    let (mut saved, mut plain) = (S::new(), S::new());
    saved.run(first);
    plain.run(first);
    assert_eq!(saved.save(), saved.save());
    assert_eq!(saved.run(then), plain.run(then));
    assert_eq!(saved.surroundings(), plain.surroundings());
    assert_eq!(saved.save(), plain.save());
}

pub(crate) fn restore_gives_the_old_state_back<S: Subject>(first: &[S::Op], then: &[S::Op]) {
    let mut subject = S::new();
    subject.run(first);
    let old = subject.save();
    subject.run(then);
    subject.restore(old.clone()).expect("what a device saves it believes");
    assert_eq!(subject.save(), old);
}

pub(crate) fn save_over_an_earlier_state<S: Subject>(first: &[S::Op], then: &[S::Op]) {
    let mut subject = S::new();
    subject.run(first);
    let mut state = subject.save();
    subject.run(then);
    subject.save_over(&mut state);
    assert_eq!(state, subject.save());
}

pub(crate) fn continuation<S: Subject>(first: &[S::Op], then: &[S::Op]) {
    let mut original = S::new();
    original.run(first);
    let mut copy = original.fork();
    let due = original.settle();
    assert!(copy.settle() || !due, "a restore may give an edge too many, never one too few");
    for op in then {
        assert_eq!(original.apply(op), copy.apply(op), "after {op:?}");
    }
    assert!(original.surroundings() == copy.surroundings(), "the surroundings differ");
    assert_eq!(original.save(), copy.save());
}

/// `damage` is bytes to put over the encoded state, or the whole state if `whole`.
pub(crate) fn any_bytes<S: Subject>(first: &[S::Op], damage: &[(usize, u8)], whole: &[u8], then: &[S::Op]) {
    let mut subject = S::new();
    subject.run(first);
    let mut encoded = postcard::to_stdvec(&subject.save()).expect("plain data is encodable");
    for &(at, byte) in damage {
        let at = at % encoded.len().max(1);
        if let Some(place) = encoded.get_mut(at) {
            *place = byte;
        }
    }
    for bytes in [&encoded[..], whole] {
        let Ok(state) = postcard::from_bytes::<S::State>(bytes) else { continue };
        if subject.restore(state.clone()).is_ok() {
            assert_eq!(subject.save(), state, "what was believed is what is saved");
            subject.settle();
            subject.run(then);
        }
    }
}

/// Looks for a sequence that changes the state; a device that saves nothing fails here.
pub(crate) fn some_op_changes_state<S: Subject>() {
    let power_on = S::new().save();
    let mut runner = TestRunner::deterministic();
    let strategy = sequence::<S>(8);
    let changed = (0..256).any(|_| {
        let ops = strategy.new_tree(&mut runner).expect("the strategy rejects nothing").current();
        let mut subject = S::new();
        subject.run(&ops);
        subject.save() != power_on
    });
    assert!(changed, "256 sequences of operations and the state is still that of power-on");
}

/// Makes the laws tests of a [`Subject`].
macro_rules! device_laws {
    ($name:ident, $subject:ty) => {
        mod $name {
            use super::*;
            use crate::laws;
            use proptest::collection::vec;

            proptest! {
                #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

                #[test]
                fn save_restore_save_is_the_same(ops in laws::sequence::<$subject>(40)) {
                    laws::save_restore_save::<$subject>(&ops);
                }

                #[test]
                fn saving_changes_nothing(
                    first in laws::sequence::<$subject>(24),
                    then in laws::sequence::<$subject>(24),
                ) {
                    laws::saving_changes_nothing::<$subject>(&first, &then);
                }

                #[test]
                fn restore_gives_the_old_state_back(
                    first in laws::sequence::<$subject>(24),
                    then in laws::sequence::<$subject>(24),
                ) {
                    laws::restore_gives_the_old_state_back::<$subject>(&first, &then);
                }

                #[test]
                fn save_over_an_earlier_state_leaves_nothing_of_it(
                    first in laws::sequence::<$subject>(24),
                    then in laws::sequence::<$subject>(24),
                ) {
                    laws::save_over_an_earlier_state::<$subject>(&first, &then);
                }

                #[test]
                fn restored_device_continues_the_same(
                    first in laws::sequence::<$subject>(32),
                    then in laws::sequence::<$subject>(32),
                ) {
                    laws::continuation::<$subject>(&first, &then);
                }

                #[test]
                fn restore_any_bytes_never_panics(
                    first in laws::sequence::<$subject>(12),
                    damage in vec((any::<usize>(), any::<u8>()), 0..4),
                    whole in vec(any::<u8>(), 0..256),
                    then in laws::sequence::<$subject>(12),
                ) {
                    laws::any_bytes::<$subject>(&first, &damage, &whole, &then);
                }
            }

            #[test]
            fn some_op_changes_state() {
                laws::some_op_changes_state::<$subject>();
            }
        }
    };
}
pub(crate) use device_laws;
