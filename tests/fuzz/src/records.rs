//! The witness's records as anybody who may write there leaves them, and the side that believes them.

use std::collections::BTreeSet;

use replication::view::{
    Attempt, Entry, Excerpt, Incarnation, Known, Location, Member, Place, PlaceKind, Record, RecordHash, Register,
    Wish, WitnessId,
};
use replication::{EpochId, EpochMark, Fork, SessionId, Term};

use crate::input::Input;
use crate::patch;

fn place(input: &mut Input<'_>) -> Place {
    let kind = if input.u8() & 1 == 0 { PlaceKind::Process } else { PlaceKind::Store };
    Place { id: Incarnation([input.u8() % 4; 16]), kind, location: Location::default() }
}

fn set(input: &mut Input<'_>) -> BTreeSet<Incarnation> {
    (0..input.u8() % 3).map(|_| Incarnation([input.u8() % 4; 16])).collect()
}

fn wish(input: &mut Input<'_>, newest: Option<&Entry>) -> Wish {
    let count = EpochId::try_from(input.edge()).unwrap_or_default();
    let mark = EpochMark { branch: Term(u64::from(input.u8() % 4)), count, ..EpochMark::default() };
    let fork = if input.u8() & 1 == 0 { Fork::Number(count) } else { Fork::Mark(mark) };
    let join = SessionId([input.u8() % 4; 16]);
    match input.u8() % 10 {
        0 | 1 => Wish::Begin {
            store: (input.u8() & 1 == 0).then(|| place(input)),
            durability: None,
            dead: set(input),
            here: set(input),
            named_dead: set(input),
        },
        2 => {
            let is_original = input.u8() & 1 == 0;
            Wish::Resume { store: place(input), fork, is_original, dead: set(input), named_dead: set(input) }
        }
        3 => Wish::TakeOver { join, fork: mark, named_dead: set(input) },
        4 => {
            let listed = newest.filter(|_| input.u8() & 1 == 0);
            let beside = listed.into_iter().flat_map(|entry| &entry.record.backups).map(|member| member.join).collect();
            Wish::Enlist { member: Member { place: place(input), join }, beside }
        }
        5 => Wish::Remove(join),
        6 => Wish::RemoveStore,
        7 => Wish::End,
        8 => Wish::Keep,
        _ => {
            let mut known = newest.map_or(
                Known { register: Default::default(), generation: 1, number: 1, hash: RecordHash::default() },
                Known::of,
            );
            if input.u8() & 1 == 0 {
                known.number = input.edge();
            }
            Wish::Follow { known, primary: Incarnation([input.u8() % 4; 16]) }
        }
    }
}

/// What a witness answers that says which one it is, or cannot, or is another one this time.
fn excerpt(entries: Vec<Entry>, input: &mut Input<'_>) -> Excerpt {
    let by = Some(WitnessId(u64::from(input.u8() % 8))).filter(|id| id.0 < 3);
    Excerpt { by, entries }
}

/// A record that was altered as text, if it still is one.
fn altered(record: &Record, input: &mut Input<'_>) -> Option<Entry> {
    let mut text = serde_json::to_vec(record).expect("a record has string keys only");
    patch::apply(input, &mut text, 3);
    let mut record: Record = serde_json::from_slice(&text).ok()?;
    if input.u8() & 3 == 0 {
        record.number = input.edge();
    }
    // The witness's driver reads no register that is longer.
    (record.number <= 1 << 40).then(|| Entry { hash: RecordHash::of(&text), record })
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let _ = serde_json::from_slice::<Record>(data);
    let mut register = Register::new(place(&mut input), None);
    let mut there: Vec<Entry> = Vec::new();
    let mut is_idle = true;
    for number in 0..64_u8 {
        if !input.has_more() {
            break;
        }
        if is_idle {
            register.handle_wish(wish(&mut input, there.last()), Attempt([number; 16]));
        }
        let outcome = match register.poll_ask() {
            None => None,
            Some((_, replication::view::Ask::Append { record, .. })) if input.u8() % 4 != 0 => {
                let entry = if input.u8() % 4 == 0 { altered(&record, &mut input) } else { None };
                let text = serde_json::to_vec(&*record).expect("a record has string keys only");
                there.push(entry.unwrap_or_else(|| Entry { hash: RecordHash::of(&text), record: *record }));
                let from = usize::from(input.u8()).min(there.len().saturating_sub(1));
                let from = if input.u8() % 4 == 0 { from } else { there.len().saturating_sub(2) };
                register.handle_found(excerpt(there[from..].to_vec(), &mut input))
            }
            Some(_) => match input.u8() % 6 {
                0 => register.handle_no_answer(),
                1 => register.handle_found(Vec::new()),
                2 => {
                    let found = there
                        .iter()
                        .rev()
                        .take(2)
                        .rev()
                        .filter_map(|entry| altered(&entry.record, &mut input))
                        .collect();
                    register.handle_found(excerpt(found, &mut input))
                }
                _ => {
                    let from =
                        register.known().and_then(|known| there.iter().position(|entry| Known::of(entry) == known));
                    let found = there[from.unwrap_or(there.len().saturating_sub(1))..].to_vec();
                    register.handle_found(excerpt(found, &mut input))
                }
            },
        };
        is_idle = outcome.is_some();
    }
}
