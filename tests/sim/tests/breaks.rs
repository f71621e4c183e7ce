//! The oracle can fail: each rule, broken on purpose in the drivers, is caught within a few seeds; unbroken, none is.

use sim::{Break, Outcome, Plan, run_plan, run_seed, trace_seed};

const SEEDS: u64 = 120;

fn is_caught(rule: Break) -> bool {
    (0..SEEDS).any(|seed| matches!(run_seed(seed, Some(rule)).outcome, Outcome::Violation(_)))
}

macro_rules! caught {
    ($($test:ident: $rule:ident),* $(,)?) => {
        $(#[test]
        fn $test() {
            assert!(is_caught(Break::$rule), "{:?} went unseen in {SEEDS} seeds", Break::$rule);
        })*

        #[test]
        fn every_rule_has_its_test() {
            assert_eq!([$(Break::$rule),*], Break::ALL);
        }
    };
}

caught! {
    release_before_ack_is_caught: ReleaseBeforeAck,
    run_without_claim_is_caught: RunWithoutClaim,
    solo_without_claim_is_caught: SoloWithoutClaim,
    ack_before_complete_is_caught: AckBeforeComplete,
    forgotten_held_output_is_caught: ForgetHeld,
    disk_before_commit_is_caught: DiskBeforeCommit,
    forgotten_disk_writes_are_caught: ForgetDiskWrites,
    forgotten_page_is_caught: ForgetPage,
    base_before_seal_is_caught: BaseBeforeSeal,
    forgetful_witness_is_caught: WitnessForgets,
    takeover_in_the_branch_of_its_parent_is_caught: BranchKept,
    guest_that_stops_is_caught: NoHealing,
    resume_without_claim_is_caught: ResumeWithoutClaim,
    start_without_the_register_is_caught: BeginUnasked,
    commit_before_local_is_caught: CommitBeforeLocal,
    boot_without_claim_is_caught: AnewWithoutClaim,
    base_of_an_unlisted_backup_is_caught: EnlistUnasked,
    witness_that_differs_is_caught: MeetUnasked,
    end_that_is_told_before_it_is_recorded_is_caught: EndUnrecorded,
    term_that_stands_is_caught: TermStands,
    base_that_goes_on_after_its_session_is_caught: ShipOn,
    backup_that_hides_that_it_is_not_whole_is_caught: VoidUntold,
    join_that_is_forgotten_before_it_can_be_listed_no_more_is_caught: VoidForgotten,
    death_that_nobody_states_is_caught: DeathUntold,
    output_beyond_a_listed_store_is_caught: StoreUndelisted,
    copy_of_a_lock_file_that_proves_deaths_is_caught: CopiedLock,
    copy_of_a_lock_file_with_the_numbers_of_the_original_is_caught: BirthUnread,
    resume_of_a_copy_is_caught: CopiedStore,
    resume_of_a_copy_whose_primary_is_named_is_caught: CopyForOriginal,
    held_lock_that_proves_a_death_is_caught: HeldLock,
    store_without_epoch_at_an_empty_mount_point_is_caught: BareMount,
    store_that_dies_with_its_boot_is_caught: StoreDiesWithBoot,
    hosts_without_machine_id_taken_for_one_are_caught: NamelessHosts,
    boot_of_another_machine_that_proves_a_death_is_caught: ForeignBoot,
    other_machine_of_the_same_boot_text_is_caught: BootIsHost,
    life_that_its_lock_file_does_not_name_is_caught: LifeUnpublished,
    life_that_a_loss_of_power_takes_from_its_lock_file_is_caught: PublishUnsynced,
    record_that_was_seen_and_forgotten_is_caught: KnownUnsynced,
    filling_without_an_end_is_caught: FillWithoutEnd,
    rounds_without_an_end_are_caught: RoundsWithoutEnd,
    forgotten_rest_of_the_rounds_is_caught: ForgetLeft,
    disk_write_out_of_other_memory_is_caught: CopyOfOtherMemory,
    image_of_a_backup_that_has_an_epoch_before_the_log_is_caught: BackupImageBeforeLog,
    ack_of_a_record_that_is_not_synced_is_caught: AppendUnsynced,
    log_that_is_emptied_before_the_image_is_synced_is_caught: TruncateUnsynced,
    base_that_counts_before_its_filling_is_synced_is_caught: BaseUnsynced,
    record_of_a_session_that_is_over_is_caught: DiscardedLogged,
    guest_that_runs_beside_records_in_its_log_is_caught: HandOverLogged,
    copy_that_is_kept_with_records_in_its_log_is_caught: KeepLogged,
    epoch_that_is_applied_after_the_next_is_caught: ApplyOutOfOrder,
    ack_of_what_has_no_room_is_caught: AckWithoutRoom,
    epoch_that_is_applied_before_it_is_committed_is_caught: ApplyUncommitted,
    bytes_of_an_old_connection_are_caught: OldBytes,
    stranger_that_ends_a_session_is_caught: StrangerWins,
    second_primary_that_is_followed_is_caught: SecondPrimary,
    stop_that_nobody_noticed_is_caught: StopUnnoticed,
    append_without_room_that_is_taken_for_won_is_caught: FullIsWon,
    restored_register_that_is_believed_is_caught: RestoredBelieved,
    other_cluster_that_is_taken_for_the_witness_is_caught: AnyCluster,
    start_without_the_disks_is_caught: AnyDisks,
    image_before_its_log_is_caught: ImageBeforeLog,
    log_emptied_before_the_images_have_it_is_caught: LogEmptiedEarly,
    log_kept_under_a_guest_that_writes_directly_is_caught: LogKept,
    images_that_were_not_written_are_caught: ImagesUnwritten,
    epochs_forgotten_by_a_filling_are_caught: CollectForgotten,
    disk_writes_forgotten_by_a_filling_are_caught: MirrorForgotten,
    output_that_is_said_to_have_left_is_caught: LeftBeforeOut,
    guest_that_runs_on_at_its_base_is_caught: HoldIgnored,
    branch_that_does_not_continue_its_fork_is_caught: ForkForgotten,
    resume_that_does_not_know_its_fork_is_caught: ChainForgotten,
    digest_of_the_state_before_is_caught: StaleDigest,
    ack_of_another_line_is_caught: AckOfOtherLine,
    log_of_a_primary_that_is_not_synced_is_caught: LogUnsynced,
    log_of_a_primary_that_is_emptied_before_its_image_is_synced_is_caught: LogEmptiedUnsynced,
    base_that_counts_before_the_primarys_image_is_synced_is_caught: BaseUnsyncedHere,
    epoch_that_found_no_room_and_is_taken_for_logged_is_caught: FullIsLogged,
    epochs_past_the_log_after_a_lost_store_are_caught: DegradedUnlogged,
    resume_without_the_log_is_caught: LogUnrecovered,
    resume_with_more_of_the_log_than_its_epoch_is_caught: LogRecoveredBeyond,
    pause_that_no_epoch_records_is_caught: PauseUnrecorded,
    pause_that_is_answered_before_its_commit_is_caught: PauseUncommitted,
    takeover_that_runs_a_paused_guest_is_caught: PauseForgotten,
    end_of_a_pause_that_is_answered_before_its_commit_is_caught: RunUncommitted,
    snapshot_that_is_answered_before_its_commit_is_caught: SnapshotUncommitted,
    image_that_is_read_from_memory_after_a_failed_sync_is_caught: CacheBelieved,
    guest_that_goes_back_in_the_branch_that_it_leaves_is_caught: BackInBranch,
    record_that_names_another_fork_than_the_epoch_gone_back_to_is_caught: BackUnrecorded,
    way_back_that_is_noted_too_late_is_caught: AttemptUnnoted,
    stopped_guest_that_is_resumed_is_caught: StoppedResumed,
    ended_guest_that_is_resumed_is_caught: EndedResumed,
    kept_copy_that_runs_unasked_is_caught: OverrideUnasked,
    way_back_that_forgets_held_output_is_caught: BackWithoutHeld,
    heir_before_the_backup_forswore_is_caught: ForswearUnawaited,
    forswearing_that_is_not_durable_is_caught: ForswearUnsynced,
    heir_of_the_same_generation_is_caught: GenerationStands,
    append_to_a_register_that_was_forsworn_is_caught: OldRegisterAppended,
    override_beside_a_place_that_lives_is_caught: OverrideUnnamed,
    ack_of_one_for_all_is_caught: AckForAll,
    forgotten_members_are_caught: ForgetMembers,
    held_output_sent_before_the_others_report_is_caught: HeldBeforeReport,
    removal_of_one_of_several_unasked_is_caught: RemovalUnasked,
    guest_that_was_handed_over_and_runs_unasked_is_caught: HandoverUnclaimed,
    offered_guest_that_goes_on_unasked_is_caught: OfferForgotten,
    guest_that_runs_on_while_it_is_handed_over_is_caught: HandedOverRuns,
    half_filled_image_of_which_nothing_says_so_is_caught: FillingUnnoted,
}

/// What a rule is broken under is survived where the rule holds: so it is the rule that is seen.
#[test]
fn surroundings_of_every_broken_rule_give_no_violation_where_it_holds() {
    for rule in Break::ALL {
        for seed in 0..SEEDS {
            let plan = Plan { broken: None, ..Plan::of_seed(seed, Some(rule)) };
            let summary = run_plan(seed, plan);
            assert!(!matches!(summary.outcome, Outcome::Violation(_)), "{rule:?}, seed {seed}: {summary:?}");
        }
    }
}

#[test]
fn unbroken_rules_give_no_violation() {
    for seed in 0..SEEDS {
        let summary = run_seed(seed, None);
        assert!(!matches!(summary.outcome, Outcome::Violation(_)), "seed {seed}: {summary:?}");
    }
}

#[test]
fn same_seed_gives_the_same_run_line_by_line() {
    for seed in [5, 29, 32] {
        assert_eq!(trace_seed(seed, None).1, trace_seed(seed, None).1, "seed {seed}");
    }
}
