use super::*;

/// Epoch `count` of a branch that has all epochs from 1 on, each with a state.
pub(crate) fn line_of(branch: Term, count: u64, state: impl Fn(u64) -> Vec<u8>) -> EpochMark {
    let begin = EpochMark { branch, ..EpochMark::default() };
    (1..=count).fold(begin, |mark, epoch| mark.next(Some(StateDigest::of(&state(epoch)))))
}

fn origin(fork: Option<Fork>, seed: u8) -> Origin {
    let seed = BranchSeed([seed; 16]);
    fork.map_or(Origin::boot(seed), |fork| Origin::after(fork, seed))
}

fn root() -> EpochMark {
    EpochMark::root(Term(1), origin(None, 7))
}

fn of(state: &[u8]) -> Option<StateDigest> {
    Some(StateDigest::of(state))
}

fn line(states: &[&[u8]]) -> EpochMark {
    states.iter().fold(root(), |mark, state| mark.next(of(state)))
}

/// Files and peers hold them: what they are made of must never change.
#[test]
fn hashes_are_those_of_the_documented_bytes() {
    let mark = line(&[b"state"]);
    let mut bytes = b"OLEPOCH\0".to_vec();
    for word in [1u64, 1, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(root().chain.0);
    bytes.extend(xxh3_128(b"state").to_be_bytes());
    assert_eq!(mark.chain.0, xxh3_128(&bytes).to_be_bytes());
    let forked = EpochMark::root(Term(3), origin(Some(Fork::Mark(mark)), 9));
    let mut bytes = b"OLBRANCH".to_vec();
    for word in [1u64, 1, 3, 2] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(mark.chain.0);
    bytes.extend([9; 16]);
    assert_eq!(forked.chain.0, xxh3_128(&bytes).to_be_bytes());
    // As a version wrote it that continued at a multiple of a million.
    let strided = Origin { first: EpochId(1_000_000), ..origin(Some(Fork::Mark(mark)), 9) };
    let strided = EpochMark::root(Term(3), strided);
    assert_eq!(
        [root(), mark, strided].map(|mark| mark.chain.to_string()),
        ["aa17d341a3d11c75494f6d33957f2644", "091a7cefaeb787757d20b9570e6c0179", "1bc59458e3b15ecc451b72782ef5f843"]
    );
    assert_eq!((forked.count, forked.branch), (EpochId(1), Term(3)));
}

#[test]
fn chain_depends_on_every_epoch_before() {
    let line_of = line(&[b"a", b"b", b"c"]);
    assert_eq!(line_of, line(&[b"a", b"b", b"c"]));
    for other in [line(&[b"x", b"b", b"c"]), line(&[b"a", b"x", b"c"]), line(&[b"a", b"b", b"x"])] {
        assert_eq!(other.count, line_of.count);
        assert_ne!(other.chain, line_of.chain);
    }
    let ended = line(&[b"a", b"b"]).next(None);
    assert_ne!(ended.chain, line(&[b"a", b"b"]).next(Some(StateDigest::default())).chain);
}

#[test]
fn root_depends_on_fork_branch_seed_and_first_epoch() {
    let fork = line(&[b"a", b"b"]);
    let of = |branch, origin| EpochMark::root(Term(branch), origin).chain;
    let numbered = origin(Some(Fork::Number(fork.count)), 7);
    let roots = [
        of(3, origin(Some(Fork::Mark(fork)), 7)),
        of(4, origin(Some(Fork::Mark(fork)), 7)),
        of(3, origin(Some(Fork::Mark(fork)), 8)),
        of(3, origin(Some(Fork::Mark(line(&[b"a"]))), 7)),
        of(3, origin(Some(Fork::Mark(line(&[b"a", b"x"]))), 7)),
        of(3, origin(Some(Fork::Mark(EpochMark { branch: Term(2), ..fork })), 7)),
        of(3, numbered),
        of(3, numbered.past(EpochId(1_000_000))),
        of(3, origin(None, 7)),
    ];
    for (index, root) in roots.iter().enumerate() {
        assert!(!roots[..index].contains(root), "{index}");
    }
}

#[test]
fn lineage_knows_the_marks_whose_acks_may_come_and_no_others() {
    let mut lineage = Lineage::new(Term(1), origin(None, 7));
    assert_eq!(lineage.last(), root());
    let mut linked = Vec::new();
    for (count, acked) in [(1, 0), (2, 0), (3, 1), (4, 4)] {
        linked.push(lineage.extend(EpochId(count), of(&[count as u8]), EpochId(acked)));
    }
    assert!(linked.windows(2).all(|pair| pair[0].mark.chain == pair[1].before));
    assert_eq!(lineage.last(), linked[3].mark);
    assert_eq!((1..=4).filter_map(|count| lineage.awaited(EpochId(count))).count(), 0);
    let fifth = lineage.extend(EpochId(5), None, EpochId(4)).mark;
    assert_eq!((lineage.awaited(EpochId(5)), lineage.awaited(EpochId(6))), (Some(fifth), None));
}

#[test]
fn branch_continues_at_the_number_after_its_fork() {
    let fork = line(&[b"a", b"b", b"c"]);
    let continued = origin(Some(Fork::Mark(fork)), 9);
    assert_eq!((continued.first(), origin(None, 9).first()), (EpochId(4), EpochId(1)));
    let (there, here) = (fork.next(of(b"d")), EpochMark::root(Term(3), continued).next(of(b"d")));
    assert_eq!((there.count, here.count), (EpochId(4), EpochId(4)));
    assert_ne!(there, here, "the number is used in both branches, and the identity is not");
    assert_eq!([there.name().to_string(), here.name().to_string()], ["1/4", "3/4"]);
}

/// A version before chain hashes told epochs apart by their numbers alone.
#[test]
fn branch_whose_fork_is_a_number_begins_past_all_that_its_predecessor_can_have_used() {
    let fork = Fork::Number(EpochId(77));
    let first = |unused_from| origin(Some(fork), 9).past(EpochId(unused_from)).first();
    assert_eq!((first(0), first(5000)), (EpochId(77).past_in_flight(), EpochId(5000)));
    assert!(first(0).0 > 77 + u64::from(crate::id::IN_FLIGHT_EPOCHS_MAX) + 1);
    assert_eq!(fork.name().to_string(), "77");
    let known = origin(Some(Fork::Mark(line(&[b"a"]))), 9);
    assert_eq!(known.past(EpochId(5000)), known, "where the identity is known it is enough");
}
