//! Witnesses that say which one they are.

use super::*;

const OURS: WitnessId = WitnessId(0xcdf8_1819_4e3a_8c32);
const OTHER: WitnessId = WitnessId(7);

fn named(id: WitnessId) -> Witness {
    Witness { id: Some(id), ..Witness::default() }
}

/// All records of `witness` in another one: a cluster that was restored from a snapshot of now.
fn restored(witness: &Witness, id: Option<WitnessId>) -> Witness {
    Witness { records: witness.records.clone(), attempts: 100, id }
}

#[test]
fn every_record_names_the_witness_that_it_is_appended_to() {
    let mut witness = named(OURS);
    let (mut a, mut b) = pair(&mut witness);
    assert_eq!(won(witness.wish(&mut a, Wish::Remove(JOIN))).witness, Some(OURS));
    assert!(matches!(witness.wish(&mut b, take_over()), Outcome::Refused(_)));
    assert!(witness.records.iter().all(|entry| entry.record.witness == Some(OURS)));
}

#[test]
fn witness_with_all_records_and_another_id_gets_no_append_by_whoever_asks() {
    let mut witness = named(OURS);
    let (mut a, mut b) = pair(&mut witness);
    for id in [Some(OTHER), None] {
        let mut copy = restored(&witness, id);
        let another = Some(Another { expected: OURS, found: id });
        // Who has seen the records, and a start that never has.
        for (register, wish) in [
            (&mut a, Wish::Remove(JOIN)),
            (&mut b, take_over()),
            (&mut node(3), begin_after(&[1, 2], &[1, 2], &[])),
            (&mut node(3), begin_after(&[], &[1], &[1, 2])),
        ] {
            assert_eq!(copy.wish(register, wish), Outcome::Forgotten);
            assert_eq!(register.another(), another);
        }
        assert_eq!(copy.records.len(), 2);
    }
    won(witness.wish(&mut a, Wish::Remove(JOIN)));
    assert_eq!(a.another(), None, "it is the right one again");
}

#[test]
fn answer_of_another_witness_to_an_append_leaves_it_in_doubt() {
    let mut witness = named(OURS);
    let (mut a, _) = pair(&mut witness);
    a.handle_wish(Wish::Remove(JOIN), Attempt([99; 16]));
    assert!(matches!(a.poll_ask(), Some((_, Ask::From(_)))));
    assert_eq!(a.handle_found(witness.said(witness.from(2))), None);
    let Some((_, Ask::Append { record, from })) = a.poll_ask() else { panic!("it appends") };
    assert_eq!(record.witness, Some(OURS), "nobody else may take it");
    let mut copy = restored(&witness, Some(OTHER));
    copy.append(*record.clone());
    assert_eq!(a.handle_found(copy.said(copy.from(from))), Some(Outcome::Forgotten));
    assert_eq!(a.in_doubt(), Some(3));
    // It had come to the right one, too.
    witness.append(*record);
    assert_eq!(won(witness.wish(&mut a, Wish::Remove(JOIN))).backups, []);
}

#[test]
fn register_of_a_version_before_is_taken_over_and_named_from_its_next_record_on() {
    let mut witness = Witness::default();
    let (mut a, _) = pair(&mut witness);
    let mut b = Register::new(place(2), a.known());
    // The witness could always say which one it is; nobody asked.
    witness.id = Some(OURS);
    let mut a_now = Register::new(a.me().clone(), a.known());
    assert_eq!(won(witness.wish(&mut a_now, Wish::Remove(JOIN))).witness, Some(OURS));
    assert!(matches!(witness.wish(&mut b, Wish::Look), Outcome::Refused(_)));
    // Who heard a witness that could not say it does not take one that can for another.
    assert!(matches!(witness.wish(&mut a, Wish::Look), Outcome::Won(_)));
    let mut copy = restored(&witness, None);
    assert_eq!(copy.wish(&mut node(3), Wish::Look), Outcome::Forgotten);
}

#[test]
fn witness_that_answered_before_is_the_only_one_even_while_no_record_names_it() {
    let mut witness = Witness::default();
    let (a, _) = pair(&mut witness);
    let mut a = Register::new(a.me().clone(), a.known());
    witness.id = Some(OURS);
    assert!(matches!(witness.wish(&mut a, Wish::Look), Outcome::Won(_)));
    witness.id = Some(OTHER);
    assert_eq!(witness.wish(&mut a, Wish::Look), Outcome::Forgotten);
    assert_eq!(a.another(), Some(Another { expected: OURS, found: Some(OTHER) }));
}
