//! Exchanges of a witness, between two witnesses that are lists: whatever stops half-way, one register is left that somebody can append to.

use super::*;
use crate::id::{EpochId, SessionId, Term};
use crate::lineage::{ChainHash, EpochMark, Fork};
use crate::view::{
    Another, Ask, Departure, Desk, Excerpt, Fate, Location, Member, Outcome, PlaceKind, Register, Settlement, Wish,
    WitnessId,
};

const JOIN: SessionId = SessionId([7; 16]);
const HEIR: RegisterId = RegisterId([42; 16]);

#[derive(Default)]
struct Witness {
    records: Vec<Entry>,
    /// It answers nothing.
    is_away: bool,
}

impl Witness {
    fn append(&mut self, record: Record) {
        if record.number == self.records.len() as u64 + 1 {
            let hash = RecordHash::of(format!("{record:?}").as_bytes());
            self.records.push(Entry { record, hash });
        }
    }

    fn perform(&mut self, ask: Ask) -> Option<Vec<Entry>> {
        let from = match ask {
            _ if self.is_away => return None,
            Ask::Newest => return Some(self.records.last().cloned().into_iter().collect()),
            Ask::From(number) => number,
            Ask::Append { record, from } => {
                self.append(*record);
                from
            }
        };
        Some(self.records.get(from as usize - 1..).unwrap_or_default().to_vec())
    }

    fn newest(&self) -> &Record {
        &self.records.last().expect("it has records").record
    }
}

/// A node and the witness that it takes for its own.
struct Node {
    register: Register,
    own: usize,
}

struct World {
    witnesses: [Witness; 2],
    attempts: u8,
}

const OLD: usize = 0;
const NEW: usize = 1;

fn place(id: u8) -> Place {
    let location = Location { host: format!("host{id}"), ..Location::default() };
    Place { id: Incarnation([id; 16]), kind: PlaceKind::Process, location }
}

fn store(id: u8) -> Place {
    Place { kind: PlaceKind::Store, ..place(id) }
}

fn ids(ids: &[u8]) -> BTreeSet<Incarnation> {
    ids.iter().map(|id| Incarnation([*id; 16])).collect()
}

fn begin(store: Option<Place>) -> Wish {
    Wish::Begin { store, durability: None, dead: ids(&[]), here: ids(&[]), named_dead: ids(&[]) }
}

fn fork() -> EpochMark {
    EpochMark { branch: Term(1), count: EpochId(5), chain: ChainHash([5; 16]) }
}

fn take_over() -> Wish {
    Wish::TakeOver { join: JOIN, fork: fork(), named_dead: ids(&[]) }
}

fn resume(dead: &[u8]) -> Wish {
    let fork = Fork::Mark(fork());
    Wish::Resume { store: store(11), fork, is_original: true, dead: ids(dead), named_dead: ids(&[]) }
}

fn word() -> Word {
    Word { who: "root on host2".into(), why: "the storage burnt".into(), at: 1_700_000_000 }
}

impl Node {
    fn new(id: u8) -> Node {
        Node { register: Register::new(place(id), None), own: OLD }
    }
}

impl World {
    fn new() -> World {
        World { witnesses: Default::default(), attempts: 0 }
    }

    /// A primary 1 with the store 11 and the backup 2, which is whole.
    fn pair() -> (World, Node, Node) {
        let (mut world, mut a, mut b) = (World::new(), Node::new(1), Node::new(2));
        won(world.wish(&mut a, begin(Some(store(11)))));
        let known = a.register.known().expect("it began");
        won(world.wish(&mut b, Wish::Follow { known, primary: place(1).id }));
        won(world
            .wish(&mut a, Wish::Enlist { member: Member { place: place(2), join: JOIN }, beside: BTreeSet::new() }));
        (world, a, b)
    }

    fn wish(&mut self, node: &mut Node, wish: Wish) -> Outcome {
        self.attempts += 1;
        node.register.handle_wish(wish, Attempt([self.attempts; 16]));
        loop {
            if let Some(Settlement { fate: Fate::Moved(_), .. }) = node.register.poll_settlement() {
                node.own = NEW;
            }
            let (desk, ask) = node.register.poll_ask().expect("a wish that is not decided has something to ask");
            let at = if desk == Desk::Heir { NEW } else { node.own };
            let outcome = match self.witnesses[at].perform(ask) {
                Some(found) => node.register.handle_found(found),
                None => node.register.handle_no_answer(),
            };
            if let Some(outcome) = outcome {
                if let Some(Settlement { fate: Fate::Moved(_), .. }) = node.register.poll_settlement() {
                    node.own = NEW;
                }
                return outcome;
            }
        }
    }

    fn heir(&self) -> Heir {
        let parent = self.witnesses[OLD].records.last().expect("there is one").clone();
        Heir::new(HEIR, parent, None, self.witnesses[NEW].records.last()).expect("nobody runs there")
    }

    fn open(&self, node: &mut Node, assent: Assent) {
        node.register.handle_exchange(Exchange { heir: self.heir(), assent });
    }
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

#[test]
fn pair_that_forswore_goes_on_by_the_heir_with_the_same_view() {
    let (mut world, mut a, mut b) = World::pair();
    world.open(&mut a, Assent::Awaited);
    world.open(&mut b, Assent::Forsworn);
    assert!(a.register.handle_forsworn(HEIR));
    // The old witness is not needed.
    world.witnesses[OLD].is_away = true;
    let record = won(world.wish(&mut a, Wish::Move(HEIR)));
    assert_eq!((record.generation, record.number, record.view(), record.branch), (2, 1, 3, 1));
    assert_eq!((record.primary.id, record.backups.len(), record.store), (place(1).id, 1, Some(store(11))));
    assert_eq!(a.own, NEW);
    let record = won(world.wish(&mut b, take_over()));
    assert_eq!((record.primary.id, record.branch, record.number), (place(2).id, 4, 2));
    assert!(matches!(world.wish(&mut a, Wish::Remove(JOIN)), Outcome::Refused(Refusal::Primary { .. })));
}

#[test]
fn backup_that_forswore_and_lost_its_primary_begins_the_heir_itself() {
    let (mut world, mut a, mut b) = World::pair();
    world.open(&mut a, Assent::Awaited);
    world.open(&mut b, Assent::Forsworn);
    world.witnesses[OLD].is_away = true;
    let record = won(world.wish(&mut b, take_over()));
    assert_eq!((record.primary.id, record.generation, record.branch, record.view()), (place(2).id, 2, 3, 3));
    assert_eq!(record.ancestors, [Known::of(&world.witnesses[OLD].records[1])]);
    // The old primary hears of that at the first thing that is more than a look, whatever it has heard of its backup.
    assert!(matches!(world.wish(&mut a, Wish::Remove(JOIN)), Outcome::Refused(Refusal::Primary { .. })));
}

#[test]
fn primary_that_waits_for_its_backup_calls_the_exchange_off_before_it_goes_on_alone() {
    let (mut world, mut a, mut b) = World::pair();
    world.open(&mut a, Assent::Awaited);
    world.open(&mut b, Assent::Forsworn);
    world.witnesses[NEW].is_away = true;
    // Nothing is appended to the old one before that is settled.
    assert_eq!(world.wish(&mut a, Wish::Remove(JOIN)), Outcome::NoAnswer);
    assert_eq!(world.witnesses[OLD].records.len(), 2);
    world.witnesses[NEW].is_away = false;
    let record = won(world.wish(&mut a, Wish::Remove(JOIN)));
    assert_eq!((record.generation, record.number, a.own), (1, 3, OLD));
    assert_eq!(
        (world.witnesses[NEW].newest().standing, world.witnesses[NEW].newest().generation),
        (Standing::Ended, 2)
    );
    // The backup finds that, and is told no by the old register.
    assert!(matches!(world.wish(&mut b, take_over()), Outcome::Refused(Refusal::Primary { .. })));
    assert_eq!(refusal(world.wish(&mut a, Wish::Move(HEIR))), Refusal::CalledOff);
    // Another try has another generation.
    world.open(&mut a, Assent::Awaited);
    assert_eq!(a.register.exchange().expect("it is open").heir.generation, 3);
}

#[test]
fn whoever_comes_first_to_the_heirs_place_is_obeyed_by_the_other() {
    for primary_first in [false, true] {
        let (mut world, mut a, mut b) = World::pair();
        world.open(&mut a, Assent::Awaited);
        world.open(&mut b, Assent::Forsworn);
        a.register.handle_forsworn(HEIR);
        let mut claim = |world: &mut World| world.wish(&mut b, take_over());
        if primary_first {
            assert_eq!(won(world.wish(&mut a, Wish::Remove(JOIN))).backups, []);
            assert!(matches!(claim(&mut world), Outcome::Refused(Refusal::Primary { .. })));
        } else {
            won(claim(&mut world));
            assert!(matches!(world.wish(&mut a, Wish::Remove(JOIN)), Outcome::Refused(Refusal::Primary { .. })));
        }
    }
}

#[test]
fn look_of_a_primary_in_an_exchange_appends_nothing() {
    let (mut world, mut a, mut b) = World::pair();
    world.open(&mut a, Assent::Awaited);
    won(world.wish(&mut a, Wish::Look));
    assert!(world.witnesses[NEW].records.is_empty());
    // Its backup did not forswear, and took over by the old register: a look sees that.
    won(world.wish(&mut b, take_over()));
    assert!(matches!(world.wish(&mut a, Wish::Look), Outcome::Refused(Refusal::Primary { .. })));
}

#[test]
fn state_directory_that_finds_its_note_settles_before_it_resumes() {
    // The host failed before its backup forswore: it is called off, and the backup may have the guest by the old register.
    let (mut world, _, mut b) = World::pair();
    let mut again = Node::new(3);
    world.open(&mut again, Assent::Awaited);
    won(world.wish(&mut b, take_over()));
    assert!(matches!(world.wish(&mut again, resume(&[1])), Outcome::Refused(Refusal::Primary { .. })));
    assert_eq!(world.witnesses[NEW].newest().standing, Standing::Ended);
    // After that: the heir is begun by whoever is first.
    let (mut world, _, mut b) = World::pair();
    let mut again = Node::new(3);
    world.open(&mut again, Assent::Forsworn);
    world.open(&mut b, Assent::Forsworn);
    world.witnesses[OLD].is_away = true;
    let record = won(world.wish(&mut again, resume(&[1])));
    assert_eq!((record.primary.id, record.generation, record.backups.len()), (place(3).id, 2, 0));
    assert!(matches!(world.wish(&mut b, take_over()), Outcome::Refused(Refusal::Primary { .. })));
}

#[test]
fn register_that_has_moved_says_where_to_and_takes_nothing_more() {
    let (mut world, mut a, _) = World::pair();
    world.open(&mut a, Assent::Forsworn);
    won(world.wish(&mut a, Wish::Move(HEIR)));
    let departure = Departure { witness: "file:/new".into(), register: HEIR, generation: 2 };
    let mut old = Node::new(1);
    let record = won(world.wish(&mut old, Wish::Depart(departure.clone())));
    assert_eq!((record.number, record.moved), (3, Some(departure.clone())));
    won(world.wish(&mut old, Wish::Depart(departure.clone())));
    assert_eq!(world.witnesses[OLD].records.len(), 3);
    let everybody = || Wish::Begin {
        store: None,
        durability: None,
        dead: ids(&[1, 2, 11]),
        here: ids(&[1]),
        named_dead: ids(&[1, 2, 11]),
    };
    for wish in [everybody(), take_over(), resume(&[1]), Wish::Look] {
        assert_eq!(refusal(world.wish(&mut Node::new(9), wish)), Refusal::Moved { departure: departure.clone() });
    }
}

#[test]
fn who_was_told_where_the_register_went_finds_it_there() {
    let (mut world, mut a, mut b) = World::pair();
    won(world.wish(&mut a, Wish::Remove(JOIN)));
    world.open(&mut a, Assent::Forsworn);
    won(world.wish(&mut a, Wish::Move(HEIR)));
    let departure = Departure { witness: "file:/new".into(), register: HEIR, generation: 2 };
    won(world.wish(&mut Node::new(1), Wish::Depart(departure)));
    assert!(matches!(world.wish(&mut b, Wish::Look), Outcome::Refused(Refusal::Moved { .. })));
    b.own = NEW;
    assert!(matches!(world.wish(&mut b, take_over()), Outcome::Refused(Refusal::Primary { .. })));
    assert_eq!(b.register.known().expect("it has seen it").generation, 2);
}

#[test]
fn witness_that_was_left_can_be_gone_back_to() {
    let (mut world, mut a, _) = World::pair();
    world.open(&mut a, Assent::Forsworn);
    won(world.wish(&mut a, Wish::Move(HEIR)));
    let departure = Departure { witness: "file:/new".into(), register: HEIR, generation: 2 };
    won(world.wish(&mut Node::new(1), Wish::Depart(departure)));
    let parent = world.witnesses[NEW].records[0].clone();
    let back =
        Heir::new(RegisterId([43; 16]), parent, None, world.witnesses[OLD].records.last()).expect("nobody runs there");
    assert_eq!((back.generation, back.number()), (3, 4));
    world.witnesses.swap(OLD, NEW);
    a.own = OLD;
    a.register.handle_exchange(Exchange { heir: back, assent: Assent::Forsworn });
    let record = won(world.wish(&mut a, Wish::Move(RegisterId([43; 16]))));
    assert_eq!((record.generation, record.number, record.view(), record.moved), (3, 4, 4, None));
    // Who knew the first register, or the second, is shown that this one continues them.
    for known in record.ancestors.clone() {
        let mut node = Node { register: Register::new(place(8), Some(known)), own: NEW };
        assert!(matches!(world.wish(&mut node, Wish::Look), Outcome::Refused(Refusal::Primary { .. })));
    }
    // Its backup, which was late to say that it had left, does not end what came back.
    let late = Departure { witness: "file:/new".into(), register: HEIR, generation: 2 };
    let mut backup = Node { register: Register::new(place(2), Some(record.ancestors[0])), own: NEW };
    assert_eq!(refusal(world.wish(&mut backup, Wish::Depart(late))), Refusal::CalledOff);
    // What is asked of it by number follows in the same line.
    won(world.wish(&mut a, Wish::RemoveStore));
}

/// It looked at the witness that was left for as long as it followed, and no second exchange could begin.
#[test]
fn backup_that_forswore_finds_the_heir_when_it_looks() {
    let (mut world, mut a, mut b) = World::pair();
    world.open(&mut a, Assent::Awaited);
    world.open(&mut b, Assent::Awaited);
    a.register.handle_forsworn(HEIR);
    let looks = |world: &mut World, b: &mut Node| {
        assert!(matches!(world.wish(b, Wish::Look), Outcome::Refused(Refusal::Primary { .. })));
        (b.own, b.register.exchange().is_none())
    };
    // Nothing stands there yet; or it is away: the old register is the only one.
    assert_eq!(looks(&mut world, &mut b), (OLD, false));
    world.witnesses[NEW].is_away = true;
    assert_eq!(looks(&mut world, &mut b), (OLD, false));
    world.witnesses[NEW].is_away = false;
    won(world.wish(&mut a, Wish::Move(HEIR)));
    assert_eq!(looks(&mut world, &mut b), (NEW, true));
}

/// It had the generation of the register that was continued elsewhere: who knew that took the other for made by a second override.
#[test]
fn override_where_the_register_left_is_of_a_higher_generation_than_where_it_went() {
    let (mut world, mut a, mut b) = World::pair();
    let parent = world.witnesses[OLD].records[1].clone();
    won(world.wish(&mut b, take_over()));
    let departure = Departure { witness: "file:/gone".into(), register: HEIR, generation: 2 };
    won(world.wish(&mut b, Wish::Depart(departure)));
    let heir = Heir::new(RegisterId([43; 16]), parent, None, world.witnesses[OLD].records.last()).expect("it has left");
    a.register.handle_exchange(Exchange { heir, assent: Assent::Override { dead: ids(&[2]), word: word() } });
    world.witnesses.swap(OLD, NEW);
    assert_eq!(won(world.wish(&mut a, Wish::Remove(JOIN))).generation, 3);
}

#[test]
fn witness_with_an_unrelated_or_older_register_is_a_stranger() {
    let (mut world, mut a, _) = World::pair();
    world.open(&mut a, Assent::Forsworn);
    let known = Known::of(&match world.wish(&mut a, Wish::Move(HEIR)) {
        Outcome::Won(entry) => *entry,
        other => panic!("{other:?}"),
    });
    let mut node = Node { register: Register::new(place(1), Some(known)), own: OLD };
    assert_eq!(world.wish(&mut node, Wish::Look), Outcome::Forgotten);
    let older = node.register.stranger().expect("there is one");
    assert!(older.record.generation < known.generation);
    // Two of one generation.
    let (mut other, mut c, _) = World::pair();
    let mut heir = other.heir();
    heir.register = RegisterId([44; 16]);
    c.register.handle_exchange(Exchange { heir, assent: Assent::Forsworn });
    won(other.wish(&mut c, Wish::Move(RegisterId([44; 16]))));
    let mut node = Node { register: Register::new(place(1), Some(known)), own: NEW };
    assert_eq!(other.wish(&mut node, Wish::Look), Outcome::Forgotten);
    assert!(Known::of(node.register.stranger().expect("there is one")).is_rival_of(&known));
}

#[test]
fn override_needs_every_other_listed_place_named_and_is_recorded() {
    let (mut world, _, mut b) = World::pair();
    for (dead, unnamed) in [(ids(&[]), 1), (ids(&[1]), 11), (ids(&[11]), 1)] {
        world.open(&mut b, Assent::Override { dead, word: word() });
        let Refusal::MayBeWhole { place } = refusal(world.wish(&mut b, take_over())) else {
            panic!("somebody is not named")
        };
        assert_eq!(place.id, Incarnation([unnamed; 16]));
        assert!(world.witnesses[NEW].records.is_empty());
    }
    world.open(&mut b, Assent::Override { dead: ids(&[1, 11]), word: word() });
    let record = won(world.wish(&mut b, take_over()));
    assert_eq!((record.generation, record.word, record.named_dead.len()), (2, Some(word()), 2));
    assert_eq!(record.ancestors[0].hash, world.witnesses[OLD].records[1].hash);
}

#[test]
fn override_on_a_place_that_the_newest_view_does_not_list_is_refused() {
    let (mut world, mut a, mut b) = World::pair();
    won(world.wish(&mut a, Wish::Remove(JOIN)));
    let everybody = || Assent::Override { dead: ids(&[1, 2, 11]), word: word() };
    world.open(&mut b, everybody());
    assert!(matches!(world.wish(&mut b, take_over()), Outcome::Refused(Refusal::Primary { .. })));
    let mut copy = Node::new(3);
    world.open(&mut copy, everybody());
    let other = Wish::Resume {
        store: store(12),
        fork: Fork::Mark(fork()),
        is_original: true,
        dead: ids(&[]),
        named_dead: ids(&[]),
    };
    assert!(matches!(world.wish(&mut copy, other), Outcome::Refused(Refusal::Primary { .. })));
    assert!(world.witnesses[NEW].records.is_empty());
}

#[test]
fn primary_whose_witness_is_gone_goes_on_by_an_override_that_names_its_backup() {
    let (mut world, mut a, _) = World::pair();
    world.witnesses[OLD].is_away = true;
    assert_eq!(world.wish(&mut a, Wish::Remove(JOIN)), Outcome::NoAnswer);
    world.open(&mut a, Assent::Override { dead: ids(&[2]), word: word() });
    let record = won(world.wish(&mut a, Wish::Remove(JOIN)));
    assert_eq!((record.backups, record.store, record.named_dead), (vec![], Some(store(11)), vec![place(2).id]));
}

/// The newest record lists nobody else, so there was nobody to be named; and what is in doubt kept the exchange from beginning.
#[test]
fn place_that_an_append_in_doubt_lists_can_be_named_and_must_be() {
    let (mut world, mut a) = (World::new(), Node::new(1));
    won(world.wish(&mut a, begin(Some(store(11)))));
    world.witnesses[OLD].is_away = true;
    let others = |a: &Node, world: &World| {
        let others = a.register.others(world.witnesses[OLD].newest(), None);
        others.into_iter().map(|place| place.id).collect::<Vec<_>>()
    };
    // The question about it was asked: nothing is in doubt yet.
    world.wish(&mut a, Wish::Enlist { member: Member { place: place(2), join: JOIN }, beside: BTreeSet::new() });
    assert_eq!((others(&a, &world), a.register.in_doubt()), (vec![], None));
    lose_answer(
        &mut world,
        &mut a,
        Wish::Enlist { member: Member { place: place(2), join: JOIN }, beside: BTreeSet::new() },
    );
    assert_eq!((others(&a, &world), a.register.in_doubt()), (vec![place(2).id], Some(2)));
    // Whatever else is tried in that slot, it may stand there.
    lose_answer(&mut world, &mut a, Wish::Remove(JOIN));
    assert_eq!(others(&a, &world), [place(2).id]);
    assert!(!a.register.may_exchange(&Assent::Awaited));
    world.open(&mut a, Assent::Override { dead: ids(&[]), word: word() });
    assert_eq!(refusal(world.wish(&mut a, Wish::Move(HEIR))), Refusal::MayBeWhole { place: Box::new(place(2)) });
    world.open(&mut a, Assent::Override { dead: ids(&[2]), word: word() });
    let record = won(world.wish(&mut a, Wish::Move(HEIR)));
    assert_eq!((record.backups, record.store, record.named_dead), (vec![], Some(store(11)), vec![place(2).id]));
    assert_eq!((others(&a, &world), a.register.in_doubt()), (vec![], None));
}

/// Nobody could be named then, and the exchange was refused for ever.
#[test]
fn append_in_doubt_of_a_register_that_lists_nobody_else_needs_a_word_and_no_name() {
    let (mut world, mut a) = (World::new(), Node::new(1));
    won(world.wish(&mut a, begin(Some(store(11)))));
    lose_answer(&mut world, &mut a, Wish::RemoveStore);
    world.witnesses[OLD].is_away = true;
    assert!(!a.register.may_exchange(&Assent::Awaited), "who has read it could follow nobody");
    let assent = Assent::Override { dead: ids(&[]), word: word() };
    assert!(a.register.may_exchange(&assent));
    world.open(&mut a, assent);
    won(world.wish(&mut a, Wish::Move(HEIR)));
    let record = won(world.wish(&mut a, Wish::RemoveStore));
    assert_eq!((record.store, record.generation, record.number), (None, 2, 2));
}

/// The later life was told to name the earlier one, by an option that does not reach the override that was noted.
#[test]
fn later_life_of_a_primary_finishes_the_override_of_the_one_before_by_the_lock_that_proves_its_death() {
    let (mut world, ..) = World::pair();
    let noted = Exchange { heir: world.heir(), assent: Assent::Override { dead: ids(&[2]), word: word() } };
    let later = |world: &mut World, dead: &[u8]| {
        let mut node = Node::new(4);
        node.register.handle_exchange(noted.clone());
        world.wish(&mut node, resume(dead))
    };
    assert_eq!(refusal(later(&mut world, &[])), Refusal::MayBeWhole { place: Box::new(place(1)) });
    let record = won(later(&mut world, &[1]));
    assert_eq!((record.primary, record.backups, record.named_dead), (place(4), vec![], vec![place(2).id]));
}

/// The append that `wish` leads to is sent, and not answered.
fn lose_answer(world: &mut World, node: &mut Node, wish: Wish) {
    let was_away = std::mem::replace(&mut world.witnesses[OLD].is_away, false);
    node.register.handle_wish(wish, Attempt([99; 16]));
    while let Some((_, ask)) = node.register.poll_ask() {
        match ask {
            Ask::Append { .. } => assert_eq!(node.register.handle_no_answer(), Some(Outcome::NoAnswer)),
            ask => assert_eq!(node.register.handle_found(world.witnesses[OLD].perform(ask).expect("it answers")), None),
        }
    }
    world.witnesses[OLD].is_away = was_away;
}

/// That witness had a VM that ran, it said, and took no exchange any more.
#[test]
fn exchange_that_was_called_off_behind_a_register_that_was_left_does_not_keep_the_next_one_away() {
    let (mut world, mut a, _) = World::pair();
    world.open(&mut a, Assent::Forsworn);
    won(world.wish(&mut a, Wish::Move(HEIR)));
    // OLD was never told. The way back is called off, twice.
    let heir = |world: &World, number: u8| {
        let parent = world.witnesses[NEW].records.last().expect("there is one").clone();
        let newest = world.witnesses[OLD].records.last().expect("there is one");
        let from = Heir::looks_from(&parent, newest).unwrap_or(newest.record.number);
        Heir::new(RegisterId([number; 16]), parent, None, &world.witnesses[OLD].records[from as usize - 1..])
    };
    let to_old = |world: &mut World, a: &mut Node, number: u8, assent: Assent| {
        let heir = heir(world, number).expect("the register has left that witness");
        a.register.handle_exchange(Exchange { heir, assent });
        world.witnesses.swap(OLD, NEW);
        a.own = OLD;
        let outcome = world.wish(a, Wish::Move(RegisterId([number; 16])));
        world.witnesses.swap(OLD, NEW);
        a.own = NEW - a.own.min(NEW);
        outcome
    };
    for number in [50, 51] {
        let outcome = to_old(&mut world, &mut a, number, Assent::Awaited);
        assert_eq!(refusal(outcome), Refusal::CalledOff);
    }
    assert_eq!(world.witnesses[OLD].records.len(), 4);
    let record = won(to_old(&mut world, &mut a, 52, Assent::Forsworn));
    assert_eq!((record.generation, record.number, record.primary.id), (3, 5, place(1).id));
}

#[test]
fn register_that_somebody_went_on_with_after_it_was_left_is_taken() {
    let (mut world, mut a, mut b) = World::pair();
    world.open(&mut a, Assent::Forsworn);
    won(world.wish(&mut a, Wish::Move(HEIR)));
    // It did not forswear: somebody lied.
    won(world.wish(&mut b, take_over()));
    let parent = world.witnesses[NEW].records.last().expect("there is one").clone();
    let found = &world.witnesses[OLD].records[1..];
    assert!(matches!(Heir::new(RegisterId([50; 16]), parent, None, found), Err(Refusal::Taken { .. })));
}

/// Whoever knew where to depart from had to be the one that the old record lists.
#[test]
fn later_life_departs_from_the_record_that_the_heir_kept_and_from_no_other() {
    let (mut world, mut a, _) = World::pair();
    let kept = Known::of(&world.witnesses[OLD].records[1]);
    world.open(&mut a, Assent::Forsworn);
    won(world.wish(&mut a, Wish::Move(HEIR)));
    let departure = Departure { witness: "file:/new".into(), register: HEIR, generation: 2 };
    let later = |known: Known| Node { register: Register::new(place(9), Some(known)), own: OLD };
    let before = Known::of(&world.witnesses[OLD].records[0]);
    assert!(matches!(
        world.wish(&mut later(before), Wish::Depart(departure.clone())),
        Outcome::Refused(Refusal::Primary { .. })
    ));
    let record = won(world.wish(&mut later(kept), Wish::Depart(departure.clone())));
    assert_eq!((record.number, record.moved), (3, Some(departure)));
}

#[test]
fn heir_does_not_begin_where_somebody_runs_a_vm_of_the_name() {
    let (mut world, ..) = World::pair();
    let parent = world.witnesses[OLD].records[1].clone();
    let mut other = Node { register: Register::new(place(5), None), own: NEW };
    won(world.wish(&mut other, begin(None)));
    let there = world.witnesses[NEW].records.last();
    assert!(matches!(Heir::new(HEIR, parent.clone(), None, there), Err(Refusal::Taken { .. })));
    won(world.wish(&mut other, Wish::End));
    let heir = Heir::new(HEIR, parent, None, world.witnesses[NEW].records.last()).expect("it has ended");
    assert_eq!(heir.number(), 3);
}

#[test]
fn start_that_takes_the_heirs_place_calls_it_off() {
    let (mut world, mut a, _) = World::pair();
    world.open(&mut a, Assent::Forsworn);
    let mut other = Node { register: Register::new(place(5), None), own: NEW };
    won(world.wish(&mut other, begin(None)));
    assert_eq!(refusal(world.wish(&mut a, Wish::Move(HEIR))), Refusal::CalledOff);
    assert_eq!((a.own, won(world.wish(&mut a, Wish::Remove(JOIN))).number), (OLD, 3));
}

#[test]
fn new_witness_that_loses_what_stood_before_the_heirs_place_gets_no_append() {
    let (mut world, mut a, _) = World::pair();
    let mut other = Node { register: Register::new(place(5), None), own: NEW };
    won(world.wish(&mut other, begin(None)));
    won(world.wish(&mut other, Wish::End));
    world.open(&mut a, Assent::Forsworn);
    world.witnesses[NEW].records.clear();
    assert_eq!(world.wish(&mut a, Wish::Move(HEIR)), Outcome::Forgotten);
    assert!(world.witnesses[NEW].records.is_empty());
}

#[test]
fn exchange_that_nobody_else_has_a_part_in_is_dropped_without_a_record() {
    let (mut world, mut a, _) = World::pair();
    world.open(&mut a, Assent::Awaited);
    assert!(!a.register.abandon_exchange(RegisterId([43; 16])), "that is another one");
    assert!(a.register.abandon_exchange(HEIR));
    assert_eq!(a.register.poll_settlement(), Some(Settlement { heir: HEIR, fate: Fate::CalledOff }));
    world.open(&mut a, Assent::Forsworn);
    assert!(!a.register.abandon_exchange(HEIR));
    world.open(&mut a, Assent::Awaited);
    world.witnesses[NEW].is_away = true;
    world.wish(&mut a, Wish::Remove(JOIN));
    assert!(a.register.abandon_exchange(HEIR), "only a read was not answered");
}

/// There it was the end of nobody, and a host that still asked that witness booted the guest beside the one that ran.
#[test]
fn exchange_that_is_called_off_leaves_a_witness_saying_what_it_said() {
    let (mut world, mut a, _) = World::pair();
    // At NEW is a copy of the register, in which the VM runs; or one that says that it has gone elsewhere.
    let newest = world.witnesses[OLD].newest().clone();
    let departure = Departure { witness: "file:/old".into(), register: newest.register, generation: 1 };
    for moved in [None, Some(departure)] {
        world.witnesses[NEW].records = world.witnesses[OLD].records.clone();
        let there = world.witnesses[NEW].records.last_mut().expect("it began");
        there.record.moved = moved;
        let there = there.clone();
        world.open(&mut a, Assent::Awaited);
        won(world.wish(&mut a, Wish::Remove(JOIN)));
        let now = world.witnesses[NEW].newest().clone();
        let (number, previous, attempt) = (there.record.number + 1, there.hash, now.attempt);
        assert_eq!(now, Record { number, previous, attempt, ..there.record });
        won(world
            .wish(&mut a, Wish::Enlist { member: Member { place: place(2), join: JOIN }, beside: BTreeSet::new() }));
    }
}

/// An address list of two clusters, both empty for the VM, has two first places; a cluster that was made anew has another one.
#[test]
fn heir_begins_only_at_the_witness_at_which_it_was_proposed() {
    let (world, _, mut b) = World::pair();
    let expected = WitnessId(7);
    let heir = Heir { witness: Some(expected), ..world.heir() };
    b.register.handle_exchange(Exchange { heir, assent: Assent::Forsworn });
    for found in [None, Some(WitnessId(8))] {
        b.register.handle_wish(take_over(), Attempt([9; 16]));
        assert!(matches!(b.register.poll_ask(), Some((Desk::Heir, Ask::From(_)))));
        assert_eq!(b.register.handle_found(Excerpt { by: found, entries: Vec::new() }), Some(Outcome::Forgotten));
        assert_eq!(b.register.another(), Some(Another { expected, found }));
    }
    b.register.handle_wish(take_over(), Attempt([9; 16]));
    b.register.poll_ask();
    assert_eq!(b.register.handle_found(Excerpt { by: Some(expected), entries: Vec::new() }), None);
    let Some((Desk::Heir, Ask::Append { record, .. })) = b.register.poll_ask() else { panic!("it begins the heir") };
    assert_eq!(record.witness, Some(expected));
}

/// What is noted of one takes the place of what was noted before: it is looked at first.
#[test]
fn override_that_forgets_a_place_is_known_before_it_is_noted() {
    let (world, ..) = World::pair();
    let exchange =
        |dead: &[u8]| Exchange { heir: world.heir(), assent: Assent::Override { dead: ids(dead), word: word() } };
    let others = |me: u8, of: Option<u8>| {
        let parent = world.witnesses[OLD].newest();
        Node::new(me).register.others(parent, of.map(|id| store(id).id))
    };
    let unnamed =
        |dead: &[u8], me: u8, of: Option<u8>| exchange(dead).unnamed(&others(me, of)).map(|place| place.id.0[0]);
    assert_eq!(unnamed(&[1], 2, None), Some(11), "the primary's state directory");
    assert_eq!(unnamed(&[1, 11], 2, None), None);
    assert_eq!(unnamed(&[], 1, None), Some(2), "the backup; its own state directory need not be named");
    assert_eq!(unnamed(&[1, 2], 3, Some(11)), None, "a resume of that directory");
    assert_eq!(Exchange { assent: Assent::Forsworn, ..exchange(&[]) }.unnamed(&others(2, None)), None);
}
