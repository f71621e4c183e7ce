//! The exchange of the witness, from the primary's side.

use super::*;
use crate::primary::exchange::NotNow;
use crate::view::{Fate, Known, Nonce, RecordHash, RegisterId, Settlement};
use crate::wire::Forsworn;

const HEIR: RegisterId = RegisterId([42; 16]);
const NONCE: Nonce = Nonce([5; 16]);

fn moved() -> Settlement {
    let register = RegisterId([1; 16]);
    let parent = Known { register, generation: 1, number: 2, hash: RecordHash([3; 16]) };
    Settlement { heir: HEIR, fate: Fate::Moved(parent) }
}

fn called_off(heir: RegisterId) -> Settlement {
    Settlement { heir, fate: Fate::CalledOff }
}

fn forsworn(result: Result<Nonce, String>) -> Frame {
    frame(Message::Forsworn(Forsworn { heir: HEIR, result }))
}

fn move_question(nonces: &[Nonce]) -> PrimaryAction {
    PrimaryAction::Ask(Question::Move { heir: HEIR, nonces: nonces.to_vec() })
}

/// A primary whose backup follows and was asked to forswear.
fn asking() -> Primary {
    let mut primary = protected();
    assert_eq!(primary.may_exchange(), Ok(()));
    primary.handle_exchange_opened(Time(MS), HEIR, b"{}".to_vec(), NONCE);
    assert_eq!(sent(&mut primary), [Kind::Forswear]);
    assert_eq!((asked(&mut primary), primary.may_exchange()), (vec![], Err(NotNow::UnderWay)));
    primary
}

#[test]
fn heir_is_asked_for_when_the_backup_has_forsworn_and_not_before() {
    let mut primary = asking();
    primary.handle_frame(Time(MS), PEER, forsworn(Ok(Nonce([6; 16])))).expect("it was asked");
    assert_eq!(asked(&mut primary), [move_question(&[Nonce([6; 16])])]);
    // Output goes on leaving meanwhile, and what has no answer is asked again.
    let question = Question::Move { heir: HEIR, nonces: Vec::new() };
    primary.handle_move_answered(Time(MS), &question, ClaimResult::Unreachable);
    assert!(primary.is_exchanging() && primary.state() == PrimaryState::Protected);
    primary.handle_timeout(Time(MS).after(config().claim_retry));
    assert!(asked(&mut primary).contains(&move_question(&[Nonce([6; 16])])));
    primary.handle_exchange_settled(moved());
    primary.handle_move_answered(Time(MS), &question, ClaimResult::Granted);
    assert_eq!(asked(&mut primary), [PrimaryAction::ExchangeSettled(moved())]);
    assert!(!primary.is_exchanging());
}

/// The note of an earlier life is settled by whatever is asked first, perhaps after the next exchange was begun. That one was then said to
/// have come to nothing, and went on.
#[test]
fn settlement_of_an_earlier_exchange_says_nothing_of_the_next() {
    let (mut primary, earlier) = (asking(), RegisterId([41; 16]));
    primary.handle_exchange_settled(called_off(earlier));
    assert_eq!(asked(&mut primary), [PrimaryAction::ExchangeSettled(called_off(earlier))]);
    assert!(primary.is_exchanging());
    primary.handle_frame(Time(MS), PeerId::FIRST, forsworn(Ok(Nonce([6; 16])))).expect("it was asked");
    assert_eq!(asked(&mut primary), [move_question(&[Nonce([6; 16])])]);
    primary.handle_exchange_settled(moved());
    assert!(!primary.is_exchanging());
}

#[test]
fn guest_that_is_about_to_get_a_witness_connects_to_no_backup_and_asks_nothing_before_it_has_it() {
    let mut primary = Primary::new(PrimaryConfig { is_witnessed: false, ..config() });
    assert_eq!(primary.handle_adoption_opened(), Ok(()));
    assert_eq!((primary.wants_connection(PeerId::FIRST), primary.may_exchange()), (false, Err(NotNow::UnderWay)));
    primary.handle_connected(Time(0), PeerId::FIRST, SESSION, None);
    assert_eq!((sent(&mut primary), primary.state()), (vec![], PrimaryState::Solo));
    assert_eq!(asked(&mut primary), [PrimaryAction::Disconnect { peer: PeerId::FIRST }]);
    // The first record says what it is committed to: a state directory that is lost meanwhile is removed from it.
    primary.handle_store_lost();
    assert_eq!(asked(&mut primary), []);
    primary.handle_adoption_settled(true);
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::DelistStore)]);
    assert!(primary.wants_connection(PeerId::FIRST) && !primary.is_exchanging());
    assert_eq!(primary.handle_adoption_opened(), Err(NotNow::Unsettled));
}

#[test]
fn guest_with_a_backup_gets_no_witness() {
    let mut primary = Primary::new(PrimaryConfig { is_witnessed: false, ..config() });
    primary.handle_connected(Time(0), PeerId::FIRST, SESSION, None);
    assert_eq!(primary.handle_adoption_opened(), Err(NotNow::Filling(PrimaryState::Greeting)));
    assert_eq!(protected().handle_adoption_opened(), Err(NotNow::Connected));
}

#[test]
fn guest_without_a_backup_asks_for_the_heir_at_once() {
    let mut primary = solo();
    primary.handle_exchange_opened(Time(MS), HEIR, Vec::new(), NONCE);
    assert_eq!((asked(&mut primary), sent(&mut primary)), (vec![move_question(&[])], vec![]));
}

/// It met its primary at the old witness, was listed at the new one, and asked the old one for the guest for ever.
#[test]
fn no_backup_is_taken_before_the_exchange_is_settled() {
    let mut primary = solo();
    primary.handle_exchange_opened(Time(MS), HEIR, Vec::new(), NONCE);
    assert_eq!((asked(&mut primary), primary.wants_connection(PEER)), (vec![move_question(&[])], false));
    primary.handle_connected(Time(MS), PEER, SESSION, None);
    assert_eq!(primary.poll_action(), Some(PrimaryAction::Disconnect { peer: PEER }));
    assert_eq!(sent(&mut primary), []);
    primary.handle_exchange_settled(moved());
    assert!(primary.wants_connection(PEER));
}

#[test]
fn backup_that_refuses_has_it_called_off() {
    let mut primary = asking();
    primary.handle_frame(Time(MS), PEER, forsworn(Err("another witness".into()))).expect("it was asked");
    let said = asked(&mut primary);
    assert!(matches!(&said[0], PrimaryAction::ExchangeRefused { text } if text == "another witness"));
    assert_eq!(said[1], PrimaryAction::Ask(Question::CallOff { heir: HEIR }));
    primary.handle_exchange_settled(called_off(HEIR));
    assert_eq!(asked(&mut primary), [PrimaryAction::ExchangeSettled(called_off(HEIR))]);
    assert_eq!((primary.may_exchange(), primary.state()), (Ok(()), PrimaryState::Protected));
}

#[test]
fn answer_about_another_heir_or_one_that_nobody_asked_for_counts_nothing() {
    let mut primary = asking();
    let other = Forsworn { heir: RegisterId([9; 16]), result: Ok(NONCE) };
    primary.handle_frame(Time(MS), PEER, frame(Message::Forsworn(other))).expect("it is harmless");
    assert_eq!(asked(&mut primary), []);
    let mut primary = protected();
    primary.handle_frame(Time(MS), PEER, forsworn(Ok(NONCE))).expect("it is harmless");
    assert_eq!(asked(&mut primary), []);
}

#[test]
fn backup_that_is_lost_meanwhile_is_claimed_and_that_settles_the_exchange() {
    let mut primary = asking();
    primary.handle_disconnected(Time(MS), PEER);
    assert_eq!(asked(&mut primary), [PrimaryAction::Ask(Question::Claim { session: SESSION })]);
    assert_eq!(primary.may_exchange(), Err(NotNow::UnderWay));
    primary.handle_exchange_settled(called_off(HEIR));
    primary.handle_claim(Time(MS), SESSION, ClaimResult::Granted);
    assert_eq!((primary.state(), primary.may_exchange()), (PrimaryState::Solo, Ok(())));
}

#[test]
fn no_exchange_begins_while_a_backup_is_neither_a_member_nor_none() {
    let mut primary = solo();
    primary.handle_connected(Time(0), PEER, SESSION, None);
    assert_eq!(primary.may_exchange(), Err(NotNow::Filling(PrimaryState::Greeting)));
    // It was noted when there was none: nobody else has a part in it.
    primary.handle_exchange_opened(Time(MS), HEIR, Vec::new(), NONCE);
    assert!(asked(&mut primary).contains(&PrimaryAction::Ask(Question::CallOff { heir: HEIR })));
    let mut fenced = protected();
    fenced.handle_unasked_look(ClaimResult::Denied { holder: "b".into() });
    assert_eq!(fenced.may_exchange(), Err(NotNow::Over));
}

#[test]
fn backup_that_knows_another_register_of_the_generation_stops_the_guest() {
    for begins_afresh in [true, false] {
        let mut primary = Primary::new(PrimaryConfig { begins_afresh, ..config() });
        primary.handle_connected(Time(0), PEER, SESSION, None);
        let refuse = Refuse { code: RefuseCode::Rival, text: "two registers".into() };
        primary.handle_frame(Time(MS), PEER, frame(Message::Refuse(refuse))).expect("it may refuse");
        assert!(asked(&mut primary).contains(&PrimaryAction::Conflict { text: "two registers".into() }));
    }
}
