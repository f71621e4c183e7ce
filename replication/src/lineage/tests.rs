use super::*;

/// Epoch `count` of a branch that has all epochs from 1 on, each with a state.
pub(crate) fn line_of(branch: Term, count: u64, state: impl Fn(u64) -> Vec<u8>) -> EpochMark {
    let begin = EpochMark { branch, ..EpochMark::default() };
    (1..=count).fold(begin, |mark, epoch| mark.next(EpochId(epoch), Some(StateDigest::of(&state(epoch)))))
}

fn origin(fork: Option<Fork>, seed: u8) -> Origin {
    Origin { fork, seed: BranchSeed([seed; 16]) }
}

fn root() -> EpochMark {
    EpochMark::root(Term(1), EpochId(1), origin(None, 7))
}

fn of(state: &[u8]) -> Option<StateDigest> {
    Some(StateDigest::of(state))
}

fn line(states: &[&[u8]]) -> EpochMark {
    states.iter().fold(root(), |mark, state| mark.next(mark.count.next(), of(state)))
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
    let forked = EpochMark::root(Term(3), EpochId(1_000_000), origin(Some(Fork::Mark(mark)), 9));
    assert_eq!(
        [root(), mark, forked].map(|mark| mark.chain.to_string()),
        ["aa17d341a3d11c75494f6d33957f2644", "091a7cefaeb787757d20b9570e6c0179", "1bc59458e3b15ecc451b72782ef5f843"]
    );
    assert_eq!((forked.count, forked.branch), (EpochId(999_999), Term(3)));
}

#[test]
fn chain_depends_on_every_epoch_before() {
    let line_of = line(&[b"a", b"b", b"c"]);
    assert_eq!(line_of, line(&[b"a", b"b", b"c"]));
    for other in [line(&[b"x", b"b", b"c"]), line(&[b"a", b"x", b"c"]), line(&[b"a", b"b", b"x"])] {
        assert_eq!(other.count, line_of.count);
        assert_ne!(other.chain, line_of.chain);
    }
    let ended = line(&[b"a", b"b"]).next(EpochId(3), None);
    assert_ne!(ended.chain, line(&[b"a", b"b"]).next(EpochId(3), Some(StateDigest::default())).chain);
}

#[test]
fn root_depends_on_fork_branch_seed_and_first_epoch() {
    let (fork, running) = (line(&[b"a", b"b"]), EpochId(1_000_000));
    let of = |branch, running, fork, seed| EpochMark::root(Term(branch), running, origin(fork, seed)).chain;
    let roots = [
        of(3, running, Some(Fork::Mark(fork)), 7),
        of(4, running, Some(Fork::Mark(fork)), 7),
        of(3, running.next(), Some(Fork::Mark(fork)), 7),
        of(3, running, Some(Fork::Mark(fork)), 8),
        of(3, running, Some(Fork::Mark(line(&[b"a"]))), 7),
        of(3, running, Some(Fork::Mark(line(&[b"a", b"x"]))), 7),
        of(3, running, Some(Fork::Mark(EpochMark { branch: Term(2), ..fork })), 7),
        of(3, running, Some(Fork::Number(fork.count)), 7),
        of(3, running, None, 7),
    ];
    for (index, root) in roots.iter().enumerate() {
        assert!(!roots[..index].contains(root), "{index}");
    }
}

#[test]
fn lineage_knows_the_marks_whose_acks_may_come_and_no_others() {
    let mut lineage = Lineage::new(Term(1), EpochId(1), origin(None, 7));
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
