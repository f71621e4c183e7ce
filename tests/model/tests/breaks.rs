//! The checker can fail: each rule, broken on purpose, is seen, and by a property that the rule is about. Unbroken, the same bounds are
//! cases of the set that `scripts/groups/model` checks.

use model::bounds::QUICK;
use model::broken::Break;
use model::check::{Order, check};
use model::story;

fn is_seen(rule: Break) {
    let report = check(rule.setting(), Order::Near, 1, None);
    let found = report.found.unwrap_or_else(|| panic!("{rule} went unseen in {} states", report.states));
    assert!(
        rule.harm().contains(&found.violation),
        "{rule} was seen by {:?}:\n{}",
        found.violation,
        story::tell(&found)
    );
}

#[test]
fn every_rule_is_checked_unbroken_in_the_same_bounds() {
    for rule in Break::ALL {
        let setting = rule.setting();
        let is_its = |case: &model::bounds::Case| case.bounds == setting.bounds && case.heals >= setting.heals;
        assert!(QUICK.iter().any(is_its), "{rule}");
    }
}

macro_rules! seen {
    ($($test:ident: $rule:ident),* $(,)?) => {
        $(#[test]
        fn $test() {
            is_seen(Break::$rule);
        })*

        #[test]
        fn every_rule_has_its_test() {
            assert_eq!([$(Break::$rule),*], Break::ALL);
        }
    };
}

seen! {
    record_that_is_lost_is_seen: RecordLost,
    append_in_the_place_of_another_is_seen: AppendReplaces,
    right_from_a_read_is_seen: ReadIsRight,
    doubt_taken_for_won_is_seen: DoubtIsWon,
    doubt_that_is_forgotten_is_seen: DoubtIsForgotten,
    record_that_was_seen_and_forgotten_is_seen: SeenIsForgotten,
    guest_that_runs_before_its_record_is_seen: RunBeforeWon,
    commit_at_the_seal_is_seen: SealCommits,
    backup_that_counts_from_its_first_ack_is_seen: CountsFromFirstAck,
    commit_under_a_view_that_is_not_won_is_seen: CommitUnderAskedView,
    held_output_of_a_deposed_primary_is_seen: HeldIsReleased,
    join_that_comes_back_is_seen: JoinComesBack,
    base_of_an_unlisted_backup_is_seen: BaseBeforeListed,
    base_of_a_joining_that_was_given_up_is_seen: BaseAfterGivenUp,
    removal_without_a_record_is_seen: RemovalUnasked,
    removal_of_a_store_without_a_record_is_seen: StoreRemovalUnasked,
    store_that_does_not_count_is_seen: StoreUncounted,
    restart_that_is_a_member_is_seen: RestartIsMember,
    ack_before_the_epoch_is_whole_is_seen: AckBeforeWhole,
    branch_of_the_parent_is_seen: BranchKept,
    claim_of_an_unlisted_backup_is_seen: ClaimUnlisted,
    ack_of_a_claimer_is_seen: AckWhileAsking,
    fork_below_what_is_whole_is_seen: ForkBelowWhole,
    start_without_proofs_is_seen: BeginUnproved,
    start_from_any_disk_is_seen: AnyDisk,
    death_by_silence_is_seen: SilenceProves,
    store_that_dies_with_its_boot_is_seen: StoreDiesWithBoot,
    resume_of_an_unlisted_store_is_seen: ResumeUnlisted,
    end_without_a_record_is_seen: EndUnrecorded,
    part_in_an_exchange_that_is_not_kept_is_seen: ForswearUnkept,
    heir_that_begins_before_the_backup_forswore_is_seen: ForswearUnawaited,
    append_to_a_register_that_was_forsworn_is_seen: ForswornAppends,
    heir_in_doubt_that_is_forgotten_is_seen: HeirForgotten,
    heir_that_a_later_life_begins_is_seen: LaterLifeBegins,
    exchange_while_an_append_is_in_doubt_is_seen: ExchangeInDoubt,
    exchange_with_sides_that_see_different_witnesses_is_seen: ExchangeUnmet,
    backup_that_is_taken_during_an_exchange_is_seen: ConnectInExchange,
    backup_that_does_not_look_for_the_heir_is_seen: HeirUnseen,
    heir_of_the_same_generation_is_seen: GenerationStands,
    override_that_names_one_place_is_seen: OverrideUnnamed,
    override_of_a_witness_that_names_one_place_is_seen: OverrideForgets,
    override_of_a_view_that_is_not_the_newest_is_seen: OverrideOutdated,
    backup_that_never_asks_is_seen: NobodyClaims,
    backup_that_hides_that_it_is_not_whole_is_seen: VoidUntold,
    death_that_nobody_states_is_seen: DeathUntold,
}
