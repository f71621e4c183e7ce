//! How a primary begins: booted, resumed from its state directory, or in the place of a backup.

use std::collections::BTreeMap;

use replication::pipeline::primary::PrimaryPipeline;
use replication::primary::PeerId;
use replication::{BranchSeed, Fork, Origin, Output, SessionId, TakeOver, Term};

use super::PrimaryNode;
use crate::disk::Disk;
use crate::env::{Crashed, Env, Event, HostId};
use crate::guest::{Guest, Said};
use crate::machine::{Machine, request_of};
use crate::machines::{incarnation, store_of};
use crate::plan::Break;
use crate::state_dir::{LocalEpoch, StateDir};
use crate::storage::Files;
use crate::world::LOOK_EVERY;

/// What a primary begins with.
struct Beginning {
    term: Term,
    fork: Option<Fork>,
    guest: Guest,
    files: Files,
    inbox: Vec<u64>,
    store: Option<StateDir>,
    /// The joins of the other backups that the record lists.
    members: Vec<SessionId>,
}

impl PrimaryNode {
    /// A fresh VM, by right of the record of number `term`, on a disk that it makes anew.
    pub fn boot(id: HostId, term: Term, env: &mut Env) -> (PrimaryNode, Result<(), Crashed>) {
        let term = if env.plan.broken == Some(Break::TermStands) { Term(1) } else { term };
        let store = env.plan.local.then(|| StateDir::new(store_of(id)));
        let files = Files::new(Disk::blank(), env.plan.log_room);
        let beginning =
            Beginning { term, fork: None, guest: Guest::new(), files, inbox: Vec::new(), store, members: Vec::new() };
        let mut node = PrimaryNode::begin(id, beginning, env);
        let begun = node.tick(env);
        (node, begun)
    }

    /// A VM that goes on from the `last` epoch in its state directory, by right, with the disk that is left.
    pub fn resume(
        id: HostId,
        term: Term,
        files: Files,
        (store, last): (StateDir, &LocalEpoch),
        env: &mut Env,
    ) -> PrimaryNode {
        let (inbox, guest) = (Vec::new(), last.guest.clone());
        let members = Vec::new();
        let beginning = Beginning { term, fork: Some(last.epoch), guest, files, inbox, store: Some(store), members };
        PrimaryNode::begin(id, beginning, env)
    }

    /// What an epoch `held` goes out once more.
    pub fn emit_again(id: HostId, held: &[Output], env: &mut Env) {
        for output in held {
            env.emit(id.host, Said::decode(&output.bytes));
        }
    }

    /// A VM that a backup takes over. `members`: the joins of the other backups that the record lists.
    pub fn take_over(
        id: HostId,
        (term, members): (Term, Vec<SessionId>),
        guest: Guest,
        files: Files,
        over: TakeOver,
        env: &mut Env,
    ) -> (PrimaryNode, Result<(), Crashed>) {
        let term = if env.plan.broken == Some(Break::BranchKept) { over.fork.branch } else { term };
        let inbox = over.redeliver.iter().map(request_of).collect();
        let mut guest = guest;
        guest.is_paused &= env.plan.broken != Some(Break::PauseForgotten);
        let fork = Some(Fork::Mark(over.fork)).filter(|_| env.plan.broken != Some(Break::ForkForgotten));
        let beginning = Beginning { term, fork, guest, files, inbox, store: None, members };
        let mut node = PrimaryNode::begin(id, beginning, env);
        let held = if env.plan.broken == Some(Break::ForgetHeld) { Vec::new() } else { over.reemit };
        if node.core().may_emit_again() || env.plan.broken == Some(Break::HeldBeforeReport) {
            PrimaryNode::emit_again(id, &held, env);
        } else {
            node.held_before = held;
        }
        node.taken_over = true;
        let begun = node.tick(env);
        (node, begun)
    }

    fn begin(id: HostId, beginning: Beginning, env: &mut Env) -> PrimaryNode {
        let Beginning { term, fork, guest, files, inbox, store, members } = beginning;
        // No other node has its id.
        let seed = BranchSeed(incarnation(id).0);
        let origin = fork.map_or(Origin::boot(seed), |fork| Origin::after(fork, seed));
        let running = origin.first();
        let mut config = env.plan.pipeline_config(term, origin, store.is_some());
        config.primary.members = members;
        env.after(LOOK_EVERY, Event::Look { by: id, again: true });
        let generation = env.oracle.generation;
        env.oracle.disk_is_safe(id.host, generation, &guest);
        let syncs_log = config.is_durable || store.is_some();
        let pipeline = PrimaryPipeline::new(config);
        env.oracle.branch_begins(id.host, pipeline.core().last_mark(), seed, &guest);
        let mode = pipeline.mode();
        PrimaryNode {
            id,
            crashed: false,
            stopped: false,
            keeps_last: false,
            taken_over: false,
            has_failed: false,
            generation,
            syncs_log,
            first_epoch: running,
            has_base: store.is_some(),
            pipeline,
            machine: Machine::new(id.host, guest, files, mode, running, inbox, env.plan.hold_bytes_max),
            shipping: BTreeMap::new(),
            filled: PeerId::FIRST,
            held_before: Vec::new(),
            share: 100,
            streams: BTreeMap::new(),
            does: None,
            outcome: None,
            is_reported: false,
            half: None,
            digested: Vec::new(),
            snapshot: None,
            sends: 0,
            stuck: false,
            writes: None,
            is_syncing: false,
            timer_at: None,
            store,
            store_fails: false,
            lost_store: None,
        }
    }
}
