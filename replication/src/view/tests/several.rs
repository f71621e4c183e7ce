//! Views with several backups.

use super::*;

const OTHER: SessionId = SessionId([9; 16]);

fn follow(witness: &Witness, primary: u8) -> Wish {
    let known = Known::of(witness.records.last().expect("there is a record"));
    Wish::Follow { known, primary: place(primary).id }
}

fn joins(record: &Record) -> Vec<SessionId> {
    record.backups.iter().map(|member| member.join).collect()
}

fn take_over_under(join: SessionId) -> Wish {
    Wish::TakeOver { join, fork: fork(), named_dead: ids(&[]) }
}

/// A primary whose newest record lists two backups, which follow it.
fn three(witness: &mut Witness) -> [Register; 3] {
    let [mut a, mut b, mut c] = [1, 2, 3].map(node);
    won(witness.wish(&mut a, begin()));
    for backup in [&mut b, &mut c] {
        let wish = follow(witness, 1);
        won(witness.wish(backup, wish));
    }
    won(witness.wish(&mut a, enlist(2)));
    let member = Member { place: place(3), join: OTHER };
    let record = won(witness.wish(&mut a, Wish::Enlist { member, beside: [JOIN].into() }));
    assert_eq!(joins(&record), [JOIN, OTHER]);
    [a, b, c]
}

#[test]
fn enlisting_keeps_the_joins_that_stay_and_drops_those_that_were_given_up() {
    let mut witness = Witness::default();
    let [mut a, ..] = three(&mut witness);
    let member = Member { place: place(4), join: SessionId([4; 16]) };
    let record = won(witness.wish(&mut a, Wish::Enlist { member, beside: [OTHER].into() }));
    assert_eq!(joins(&record), [OTHER, SessionId([4; 16])]);
}

#[test]
fn removal_of_one_leaves_the_other_listed() {
    let mut witness = Witness::default();
    let [mut a, mut b, mut c] = three(&mut witness);
    assert_eq!(joins(&won(witness.wish(&mut a, Wish::Remove(JOIN)))), [OTHER]);
    assert_eq!(refusal(witness.wish(&mut b, take_over())), primary(1));
    assert_eq!(won(witness.wish(&mut c, take_over_under(OTHER))).primary, place(3));
}

#[test]
fn claimer_keeps_the_other_backup_which_has_lost_and_removes_it_before_it_claims() {
    let mut witness = Witness::default();
    let [mut a, mut b, mut c] = three(&mut witness);
    let record = won(witness.wish(&mut b, take_over()));
    assert_eq!((joins(&record), record.branch, record.fork), (vec![OTHER], 4, Some(Fork::Mark(fork()))));
    // Its primary was succeeded, so its silence is no reason any more.
    assert_eq!(refusal(witness.wish(&mut c, take_over_under(OTHER))), primary(2));
    assert_eq!(refusal(witness.wish(&mut a, Wish::Remove(OTHER))), primary(2));
    assert_eq!(joins(&won(witness.wish(&mut b, Wish::Remove(OTHER)))), []);
    assert_eq!(refusal(witness.wish(&mut c, take_over_under(OTHER))), primary(2));
}

#[test]
fn backup_that_lost_and_is_still_listed_succeeds_a_winner_that_is_silent_too() {
    let mut witness = Witness::default();
    let [_, mut b, mut c] = three(&mut witness);
    won(witness.wish(&mut b, take_over()));
    assert_eq!(refusal(witness.wish(&mut c, take_over_under(OTHER))), primary(2));
    let record = won(witness.wish(&mut c, take_over_under(OTHER)));
    assert_eq!((record.primary.clone(), record.parent, record.backups.len()), (place(3), Some(1), 0));
    assert_eq!(refusal(witness.wish(&mut b, Wish::Remove(OTHER))), primary(3));
}
