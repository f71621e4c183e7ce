//! The rules of the register, against a witness that is a list.

use std::collections::BTreeSet;

use super::*;
use crate::id::{EpochId, SessionId, Term};
use crate::lineage::{ChainHash, EpochMark, Fork};

mod several;
mod witness_id;

/// The witness: records that are never changed, and what goes wrong on the way to it.
#[derive(Default)]
struct Witness {
    records: Vec<Entry>,
    attempts: u8,
    id: Option<WitnessId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Good,
    /// The append takes place, its answer is lost.
    AnswerLost,
    /// The append does not take place, and nobody knows.
    AskLost,
}

impl Witness {
    fn append(&mut self, record: Record) {
        if record.number == self.records.len() as u64 + 1 {
            let hash = RecordHash::of(format!("{record:?}").as_bytes());
            self.records.push(Entry { record, hash });
        }
    }

    fn said(&self, entries: Vec<Entry>) -> Excerpt {
        Excerpt { by: self.id, entries }
    }

    fn from(&self, number: u64) -> Vec<Entry> {
        self.records.get(number as usize - 1..).unwrap_or_default().to_vec()
    }

    fn wish_by(&mut self, way: Way, register: &mut Register, wish: Wish) -> Outcome {
        self.attempts += 1;
        register.handle_wish(wish, Attempt([self.attempts; 16]));
        loop {
            let (_, ask) = register.poll_ask().expect("a wish that is not decided has something to ask");
            let outcome = match ask {
                Ask::Newest => register.handle_found(self.said(Vec::from_iter(self.records.last().cloned()))),
                Ask::From(number) => register.handle_found(self.said(self.from(number))),
                Ask::Append { record, from } => {
                    if way != Way::AskLost {
                        self.append(*record);
                    }
                    match way {
                        Way::Good => register.handle_found(self.said(self.from(from))),
                        Way::AnswerLost | Way::AskLost => register.handle_no_answer(),
                    }
                }
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    fn wish(&mut self, register: &mut Register, wish: Wish) -> Outcome {
        self.wish_by(Way::Good, register, wish)
    }
}

fn place(id: u8) -> Place {
    let location = Location { host: format!("host{id}"), ..Location::default() };
    Place { id: Incarnation([id; 16]), kind: PlaceKind::Process, location }
}

fn store(id: u8) -> Place {
    Place { kind: PlaceKind::Store, ..place(id) }
}

fn node(id: u8) -> Register {
    Register::new(place(id), None)
}

fn ids(ids: &[u8]) -> BTreeSet<Incarnation> {
    ids.iter().map(|id| Incarnation([*id; 16])).collect()
}

fn begin() -> Wish {
    Wish::Begin { store: None, durability: None, dead: ids(&[]), here: ids(&[]), named_dead: ids(&[]) }
}

fn begin_after(dead: &[u8], here: &[u8], named: &[u8]) -> Wish {
    Wish::Begin { store: None, durability: None, dead: ids(dead), here: ids(here), named_dead: ids(named) }
}

const JOIN: SessionId = SessionId([7; 16]);

fn enlist(id: u8) -> Wish {
    Wish::Enlist { member: Member { place: place(id), join: JOIN }, beside: BTreeSet::new() }
}

fn fork() -> EpochMark {
    EpochMark { branch: Term(1), count: EpochId(5), chain: ChainHash([5; 16]) }
}

fn take_over() -> Wish {
    Wish::TakeOver { join: JOIN, fork: fork(), named_dead: ids(&[]) }
}

fn take_over_after(named: &[u8]) -> Wish {
    Wish::TakeOver { join: JOIN, fork: fork(), named_dead: ids(named) }
}

fn won(outcome: Outcome) -> Record {
    match outcome {
        Outcome::Won(entry) => entry.record,
        other => panic!("{other:?}"),
    }
}

fn refusal(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

fn may_be_whole(id: u8) -> Refusal {
    Refusal::MayBeWhole { place: Box::new(place(id)) }
}

fn primary(id: u8) -> Refusal {
    Refusal::Primary { place: Box::new(place(id)) }
}

/// A primary 1 with backup 2, both having followed the register.
fn pair(witness: &mut Witness) -> (Register, Register) {
    let (mut a, mut b) = (node(1), node(2));
    won(witness.wish(&mut a, begin()));
    let known = a.known().expect("it began");
    won(witness.wish(&mut b, Wish::Follow { known, primary: place(1).id }));
    won(witness.wish(&mut a, enlist(2)));
    (a, b)
}

#[test]
fn first_start_begins_the_register_and_a_second_one_beside_it_is_refused() {
    let mut witness = Witness::default();
    let record = won(witness.wish(&mut node(1), begin()));
    assert_eq!((record.number, record.branch, record.parent, record.primary.id), (1, 1, None, place(1).id));
    assert_eq!(refusal(witness.wish(&mut node(2), begin())), may_be_whole(1));
    assert_eq!(witness.records.len(), 1);
}

#[test]
fn restart_after_a_crash_is_refused_while_the_backup_may_take_over() {
    let mut witness = Witness::default();
    let (_, mut b) = pair(&mut witness);
    assert_eq!(refusal(witness.wish(&mut node(3), begin_after(&[1], &[1], &[]))), may_be_whole(2));
    won(witness.wish(&mut b, take_over()));
    assert_eq!(refusal(witness.wish(&mut node(3), begin_after(&[1], &[1], &[]))), may_be_whole(2));
}

#[test]
fn restart_of_a_dead_guest_without_backup_begins_a_branch_of_its_own() {
    let mut witness = Witness::default();
    won(witness.wish(&mut node(1), begin()));
    let record = won(witness.wish(&mut node(3), begin_after(&[1], &[1], &[])));
    assert_eq!((record.number, record.branch, record.parent), (2, 2, None));
}

#[test]
fn restart_on_disks_that_the_guest_did_not_use_last_is_refused_unless_named() {
    let mut witness = Witness::default();
    let (_, mut b) = pair(&mut witness);
    won(witness.wish(&mut b, take_over()));
    let elsewhere = Refusal::Elsewhere { place: Box::new(place(2)) };
    assert_eq!(refusal(witness.wish(&mut node(3), begin_after(&[2], &[1], &[]))), elsewhere);
    let record = won(witness.wish(&mut node(3), begin_after(&[], &[], &[2])));
    assert_eq!(record.named_dead, [place(2).id]);
}

#[test]
fn disks_of_the_primary_are_given_up_by_its_name_though_other_places_are_proved_dead() {
    let mut witness = Witness::default();
    pair(&mut witness);
    let elsewhere = Refusal::Elsewhere { place: Box::new(place(1)) };
    assert_eq!(refusal(witness.wish(&mut node(3), begin_after(&[1, 2], &[], &[2]))), elsewhere);
    let record = won(witness.wish(&mut node(3), begin_after(&[2], &[], &[1])));
    assert_eq!(record.named_dead, [place(1).id]);
}

#[test]
fn end_frees_the_name_for_anybody() {
    let mut witness = Witness::default();
    let (mut a, mut b) = pair(&mut witness);
    let record = won(witness.wish(&mut a, Wish::End));
    assert_eq!((record.standing, record.backups.len()), (Standing::Ended, 0));
    assert_eq!(refusal(witness.wish(&mut b, take_over())), Refusal::Ended { place: Box::new(place(1)) });
    let record = won(witness.wish(&mut node(3), begin()));
    assert_eq!((record.branch, record.standing), (4, Standing::Running));
    assert_eq!(refusal(witness.wish(&mut a, Wish::End)), primary(3));
}

#[test]
fn primary_and_backup_that_lost_each_other_only_one_goes_on() {
    for backup_first in [false, true] {
        let mut witness = Witness::default();
        let (mut a, mut b) = pair(&mut witness);
        if backup_first {
            let record = won(witness.wish(&mut b, take_over()));
            assert_eq!((record.branch, record.parent, record.fork), (3, Some(1), Some(Fork::Mark(fork()))));
            assert_eq!(refusal(witness.wish(&mut a, Wish::Remove(JOIN))), primary(2));
        } else {
            won(witness.wish(&mut a, Wish::Remove(JOIN)));
            assert_eq!(refusal(witness.wish(&mut b, take_over())), primary(1));
        }
    }
}

#[test]
fn backup_that_was_never_listed_or_under_another_join_id_is_refused() {
    let mut witness = Witness::default();
    let (mut a, mut b) = (node(1), node(2));
    won(witness.wish(&mut a, begin()));
    assert_eq!(refusal(witness.wish(&mut b, take_over())), primary(1));
    won(witness.wish(
        &mut a,
        Wish::Enlist { member: Member { place: place(2), join: SessionId([8; 16]) }, beside: BTreeSet::new() },
    ));
    assert_eq!(refusal(witness.wish(&mut b, take_over())), primary(1));
    assert_eq!(refusal(witness.wish(&mut node(4), take_over())), primary(1));
}

#[test]
fn answer_that_is_lost_leaves_the_wish_in_doubt_and_asking_again_tells() {
    for (way, takes_place) in [(Way::AnswerLost, true), (Way::AskLost, false)] {
        let mut witness = Witness::default();
        let (mut a, _) = pair(&mut witness);
        assert_eq!(witness.wish_by(way, &mut a, Wish::Remove(JOIN)), Outcome::NoAnswer);
        assert_eq!((a.in_doubt(), witness.records.len()), (Some(3), 2 + usize::from(takes_place)));
        won(witness.wish(&mut a, Wish::Remove(JOIN)));
        assert_eq!((a.in_doubt(), witness.records.len()), (None, 3));
    }
}

#[test]
fn another_content_in_the_slot_that_is_in_doubt_obeys_what_stands_there() {
    let mut witness = Witness::default();
    let (mut a, _) = pair(&mut witness);
    assert_eq!(witness.wish_by(Way::AnswerLost, &mut a, Wish::Remove(JOIN)), Outcome::NoAnswer);
    let record = won(witness.wish(&mut a, Wish::End));
    assert_eq!((record.number, record.standing), (4, Standing::Ended), "the removal had taken place");
}

#[test]
fn late_append_of_a_process_that_died_is_lost_to_the_one_that_took_its_slot() {
    let mut witness = Witness::default();
    let (mut a, mut b) = pair(&mut witness);
    a.handle_wish(Wish::Remove(JOIN), Attempt([9; 16]));
    assert_eq!(a.poll_ask(), Some((Desk::Own, Ask::From(2))));
    assert_eq!(a.handle_found(witness.from(2)), None);
    let Some((_, Ask::Append { record: late, .. })) = a.poll_ask() else { panic!("it appends") };
    won(witness.wish(&mut b, take_over()));
    witness.append(*late);
    assert_eq!(witness.records.len(), 3);
    assert_eq!(refusal(witness.wish(&mut node(5), begin())), may_be_whole(2));
}

#[test]
fn witness_that_forgot_or_is_another_one_gets_no_append() {
    let mut witness = Witness::default();
    let (mut a, mut b) = pair(&mut witness);
    let mut empty = Witness::default();
    assert_eq!(empty.wish(&mut a, Wish::Remove(JOIN)), Outcome::Forgotten);
    assert_eq!(empty.wish(&mut b, take_over()), Outcome::Forgotten);
    let mut restored = Witness { records: witness.records[..1].to_vec(), attempts: 0, id: None };
    assert_eq!(restored.wish(&mut a, Wish::Remove(JOIN)), Outcome::Forgotten);
    let mut other = Witness::default();
    pair(&mut other);
    other.records[1].hash = RecordHash([1; 16]);
    assert_eq!(other.wish(&mut a, Wish::Remove(JOIN)), Outcome::Forgotten);
    assert_eq!((empty.records.len(), restored.records.len(), other.records.len()), (0, 1, 2));
}

#[test]
fn witness_that_forgot_what_stood_before_an_append_in_doubt_gets_no_other_append() {
    // It was an assertion, which ended the guest's process; found by the fuzz target `records`.
    let mut witness = Witness::default();
    let (mut a, _) = pair(&mut witness);
    let two = witness.records.clone();
    let mut twin = Register::new(a.me().clone(), a.known());
    won(witness.wish(&mut twin, Wish::Remove(JOIN)));
    a.handle_wish(enlist(5), Attempt([99; 16]));
    assert!(matches!(a.poll_ask(), Some((_, Ask::From(_)))));
    assert_eq!(a.handle_found(witness.from(2)), None);
    assert!(matches!(a.poll_ask(), Some((_, Ask::Append { .. }))) && a.in_doubt() == Some(4));
    assert_eq!(a.handle_found(Vec::new()), Some(Outcome::Forgotten));
    let mut restored = Witness { records: two, attempts: 100, id: None };
    assert_eq!(restored.wish(&mut a, enlist(5)), Outcome::Forgotten);
    assert_eq!(restored.records.len(), 2);
}

#[test]
fn record_that_is_not_the_successor_of_what_is_known_is_not_believed() {
    let mut witness = Witness::default();
    let (mut a, _) = pair(&mut witness);
    let mut forged = witness.records[1].clone();
    (forged.record.number, forged.record.primary) = (3, place(9));
    witness.records.push(forged);
    assert_eq!(witness.wish(&mut a, Wish::Look), Outcome::Forgotten);
}

#[test]
fn backup_follows_only_the_primary_that_the_newest_record_names() {
    let mut witness = Witness::default();
    let (mut a, mut b) = pair(&mut witness);
    won(witness.wish(&mut b, take_over()));
    let known = a.known().expect("it began");
    let outcome = witness.wish(&mut node(4), Wish::Follow { known, primary: place(1).id });
    assert_eq!(refusal(outcome), primary(2));
    assert_eq!(refusal(witness.wish(&mut a, Wish::Look)), primary(2));
    let other = Known { register: RegisterId([3; 16]), ..known };
    let outcome = witness.wish(&mut node(4), Wish::Follow { known: other, primary: place(1).id });
    assert_eq!(outcome, Outcome::Forgotten);
}

#[test]
fn what_a_peer_says_of_the_register_is_forgotten_if_the_witness_does_not_have_it() {
    let mut witness = Witness::default();
    let (mut a, mut b) = (node(1), node(2));
    won(witness.wish(&mut a, begin()));
    let known = a.known().expect("it began");
    let wrong = Known { number: u64::MAX, ..known };
    assert_eq!(witness.wish(&mut b, Wish::Follow { known: wrong, primary: place(1).id }), Outcome::Forgotten);
    won(witness.wish(&mut b, Wish::Follow { known, primary: place(1).id }));
}

#[test]
fn listed_store_resumes_and_then_the_backup_is_out() {
    let mut witness = Witness::default();
    let (mut a, mut b) = (node(1), node(2));
    won(witness.wish(
        &mut a,
        Wish::Begin { store: Some(store(11)), durability: None, dead: ids(&[]), here: ids(&[]), named_dead: ids(&[]) },
    ));
    let known = a.known().expect("it began");
    won(witness.wish(&mut b, Wish::Follow { known, primary: place(1).id }));
    won(witness.wish(&mut a, enlist(2)));
    let resume = |id, dead: &[u8]| Wish::Resume {
        store: store(id),
        fork: Fork::Number(EpochId(4)),
        is_original: true,
        dead: ids(dead),
        named_dead: ids(&[]),
    };
    assert_eq!(refusal(witness.wish(&mut node(3), resume(12, &[1]))), primary(1));
    assert_eq!(refusal(witness.wish(&mut node(3), resume(11, &[]))), may_be_whole(1), "a copy of a directory in use");
    let record = won(witness.wish(&mut node(3), resume(11, &[1])));
    assert_eq!((record.backups.len(), record.store.map(|s| s.id)), (0, Some(store(11).id)));
    assert_eq!(refusal(witness.wish(&mut b, take_over())), primary(3));
}

#[test]
fn store_of_a_guest_that_was_taken_over_is_refused_unless_every_listed_place_is_named() {
    let mut witness = Witness::default();
    let (_, mut b) = pair(&mut witness);
    won(witness.wish(&mut b, take_over()));
    let resume = |named: &[u8]| Wish::Resume {
        store: store(11),
        fork: Fork::Number(EpochId(4)),
        is_original: true,
        dead: ids(&[1]),
        named_dead: ids(named),
    };
    assert_eq!(refusal(witness.wish(&mut node(3), resume(&[]))), primary(2));
    assert_eq!(refusal(witness.wish(&mut node(3), resume(&[1]))), may_be_whole(2));
    assert_eq!(won(witness.wish(&mut node(3), resume(&[2]))).named_dead, [place(2).id]);
}

#[test]
fn copy_of_a_store_resumes_only_when_the_original_and_every_other_place_is_named() {
    let mut witness = Witness::default();
    let (mut a, mut b) = (node(1), node(2));
    won(witness.wish(
        &mut a,
        Wish::Begin { store: Some(store(11)), durability: None, dead: ids(&[]), here: ids(&[]), named_dead: ids(&[]) },
    ));
    let known = a.known().expect("it began");
    won(witness.wish(&mut b, Wish::Follow { known, primary: place(1).id }));
    won(witness.wish(&mut a, enlist(2)));
    let resume = |named: &[u8]| Wish::Resume {
        store: store(11),
        fork: Fork::Number(EpochId(4)),
        is_original: false,
        dead: ids(&[]),
        named_dead: ids(named),
    };
    assert_eq!(refusal(witness.wish(&mut node(3), resume(&[]))), may_be_whole(1), "its primary may run");
    let original = Refusal::MayBeWhole { place: Box::new(store(11)) };
    assert_eq!(refusal(witness.wish(&mut node(3), resume(&[1]))), original, "the original may have more");
    assert_eq!(refusal(witness.wish(&mut node(3), resume(&[1, 11]))), may_be_whole(2), "the backup may have more");
    let record = won(witness.wish(&mut node(3), resume(&[1, 11, 2])));
    assert_eq!((record.primary.id, record.named_dead.len()), (place(3).id, 3));
}

#[test]
fn backup_whose_claim_was_lost_goes_on_when_every_listed_place_is_named_dead() {
    let mut witness = Witness::default();
    let (mut a, mut b) = pair(&mut witness);
    won(witness.wish(&mut a, Wish::Remove(JOIN)));
    assert_eq!(refusal(witness.wish(&mut b, take_over_after(&[9]))), may_be_whole(1));
    let record = won(witness.wish(&mut b, take_over_after(&[1])));
    assert_eq!((record.primary.id, record.named_dead), (place(2).id, vec![place(1).id]));
    assert_eq!(refusal(witness.wish(&mut a, Wish::Look)), primary(2), "the one that was named learns it");
}

#[test]
fn removal_of_a_backup_whose_enlisting_is_in_doubt_settles_it() {
    let mut witness = Witness::default();
    let mut a = node(1);
    won(witness.wish(&mut a, begin()));
    let mut late = None;
    a.handle_wish(enlist(2), Attempt([8; 16]));
    while let Some((_, ask)) = a.poll_ask() {
        match ask {
            Ask::From(number) => assert_eq!(a.handle_found(witness.from(number)), None),
            Ask::Append { record, .. } => {
                late = Some(record);
                assert_eq!(a.handle_no_answer(), Some(Outcome::NoAnswer));
            }
            Ask::Newest => unreachable!("it has seen a record"),
        }
    }
    assert_eq!(won(witness.wish(&mut a, Wish::Remove(JOIN))).number, 2);
    witness.append(*late.expect("it was sent"));
    assert_eq!(witness.records.len(), 2, "the slot is taken");
}

#[test]
fn guest_that_is_kept_stays_with_its_store_alone() {
    let mut witness = Witness::default();
    let mut a = node(1);
    let store = Some(store(11));
    won(witness
        .wish(&mut a, Wish::Begin { store, durability: None, dead: ids(&[]), here: ids(&[]), named_dead: ids(&[]) }));
    won(witness.wish(&mut a, enlist(2)));
    let record = won(witness.wish(&mut a, Wish::Keep));
    assert_eq!((record.standing, record.backups.len(), record.store.is_some()), (Standing::Running, 0, true));
}

#[test]
fn wish_that_is_so_already_appends_nothing() {
    let mut witness = Witness::default();
    let (mut a, _) = pair(&mut witness);
    won(witness.wish(&mut a, enlist(2)));
    won(witness.wish(&mut a, Wish::RemoveStore));
    won(witness.wish(&mut a, Wish::Remove(SessionId([5; 16]))));
    won(witness.wish(&mut a, Wish::Look));
    assert_eq!(witness.records.len(), 2);
}

/// The storage of a witness answered the append that lists the backup, and lost it with its power. The backup is whole, and may not
/// take that for a no: when the records are there again, it is the only one that can continue the guest.
#[test]
fn backup_that_no_record_listed_since_it_was_greeted_takes_the_witness_for_one_that_forgot() {
    let (mut witness, mut a, mut b) = (Witness::default(), node(1), node(2));
    won(witness.wish(&mut a, begin()));
    let known = a.known().expect("it won a record");
    won(witness.wish(&mut b, Wish::Follow { known, primary: a.me().id }));
    won(witness.wish(&mut a, enlist(2)));
    let lost = witness.records.pop().expect("it was appended");
    assert_eq!(witness.wish(&mut b, take_over()), Outcome::Forgotten);
    assert_eq!(witness.records.len(), 1, "nothing is appended to it");
    witness.records.push(lost);
    assert_eq!(won(witness.wish(&mut b, take_over())).primary.id, b.me().id);
}

/// An earlier pairing of the same backup was listed late, after the primary greeted it for the next one: that is not the record.
#[test]
fn record_that_lists_another_pairing_does_not_stand_for_the_one_that_is_gone() {
    let (mut witness, mut a, mut b) = (Witness::default(), node(1), node(2));
    won(witness.wish(&mut a, begin()));
    let known = a.known().expect("it won a record");
    won(witness.wish(&mut b, Wish::Follow { known, primary: a.me().id }));
    won(witness.wish(
        &mut a,
        Wish::Enlist { member: Member { place: place(2), join: SessionId([6; 16]) }, beside: BTreeSet::new() },
    ));
    won(witness.wish(&mut a, Wish::Remove(SessionId([6; 16]))));
    won(witness.wish(&mut a, enlist(2)));
    let lost = witness.records.pop().expect("it was appended");
    assert_eq!(witness.wish(&mut b, take_over()), Outcome::Forgotten);
    witness.records.push(lost);
    assert_eq!(won(witness.wish(&mut b, take_over())).primary.id, b.me().id);
}

#[test]
fn backup_that_was_listed_and_is_not_any_more_is_told_no() {
    let (mut witness, mut a, mut b) = (Witness::default(), node(1), node(2));
    won(witness.wish(&mut a, begin()));
    let known = a.known().expect("it won a record");
    won(witness.wish(&mut b, Wish::Follow { known, primary: a.me().id }));
    won(witness.wish(&mut a, enlist(2)));
    won(witness.wish(&mut a, Wish::Remove(JOIN)));
    let refused = witness.wish(&mut b, take_over());
    assert!(matches!(refused, Outcome::Refused(Refusal::Primary { .. })), "{refused:?}");
}

/// The witness is restored between the look and the append of one wish: what the look showed stays known.
#[test]
fn record_that_was_seen_by_a_wish_is_not_forgotten_with_that_wish() {
    let mut witness = Witness::default();
    let (_, mut b) = pair(&mut witness);
    let seen = witness.records.clone();
    b.handle_wish(take_over(), Attempt([9; 16]));
    assert!(b.poll_ask().is_some());
    assert_eq!(b.handle_found(seen.clone()), None, "there is a record to append");
    assert!(matches!(b.poll_ask(), Some((_, Ask::Append { .. }))));
    witness.records.truncate(1);
    assert_eq!(b.handle_found(witness.from(2)), Some(Outcome::Forgotten));
    assert_eq!(b.known(), seen.last().map(Known::of));
    assert_eq!(witness.wish(&mut b, take_over()), Outcome::Forgotten);
}
