//! Starts of the VM: what a host that asked the witness for the guest learns, and does then.

use super::*;
use crate::state_dir::LocalEpoch;

impl World {
    pub(super) fn learn_of_start(&mut self, id: HostId, question: Question, answer: Answer) -> Result<(), Crashed> {
        if !matches!(&self.hosts[id.host], Host { life, role: Role::Starting(_) } if *life == id.life) {
            return Ok(());
        }
        match (answer, &question) {
            (Answer::Won(record), Question::Resume { .. }) => self.resume(id, (Term(record.branch), Some(*record))),
            (Answer::Won(record), Question::Begin { is_named, .. }) => self.begin(id, &record, *is_named),
            (Answer::Claim(ClaimResult::Granted), Question::Resume { .. }) => self.resume(id, (Term(2), None)),
            (Answer::Claim(ClaimResult::Granted), _) => self.boot(id, Term(2)),
            (Answer::MayBeWhole, Question::Resume { .. }) if self.has_original(id.host) => {
                // The last epoch is there, and the operator keeps it.
                self.env.say(|| format!("host {} may not resume yet", id.host));
                self.stop(id.host, false);
                Ok(())
            }
            (Answer::MayBeWhole | Answer::Claim(ClaimResult::Denied { .. }), _) => {
                self.start_backup(id);
                Ok(())
            }
            _ if self.env.witness.hears_another(id.host) => {
                // A program that is told so ends. Who starts it again has the witness that it is meant to have.
                self.env.say(|| format!("host {} is told that its witness is another one", id.host));
                self.stop(id.host, false);
                Ok(())
            }
            _ => {
                // What an operator said then may not be so any more.
                let mut question = question;
                match &mut question {
                    Question::Begin { is_named, .. } => *is_named = false,
                    Question::Resume { named, .. } => *named = Named::Nobody,
                    _ => {}
                }
                self.env.after(self.env.plan.claim_retry, Event::Ask { by: id, question });
                Ok(())
            }
        }
    }

    /// Whether a host that starts has the last epoch, and no copy of an earlier one.
    pub(super) fn has_original(&self, host: usize) -> bool {
        match &self.hosts[host].role {
            Role::Starting(remains) => remains.resumable().is_some_and(|store| !store.is_copy()),
            _ => false,
        }
    }

    pub(super) fn remains_of_start(&mut self, id: HostId) -> Box<Remains> {
        match std::mem::replace(&mut self.hosts[id.host].role, Role::Down(Box::default())) {
            Role::Starting(remains) => remains,
            _ => unreachable!("only a host that starts has something to start from"),
        }
    }

    /// `record`: by which the register gave it the guest.
    pub(super) fn resume(&mut self, id: HostId, (term, record): (Term, Option<Record>)) -> Result<(), Crashed> {
        let mut remains = self.remains_of_start(id);
        let mut resuming = remains.resuming.take().expect("only a host that resumes asks for that");
        let store = remains.store.as_mut().expect("only a host with a state directory resumes");
        let mut last = store.last.clone().expect("only a host with an epoch resumes");
        if let Some(disk) = store.copied.take() {
            remains.files = Files::new(disk, self.env.plan.log_room);
        }
        if self.env.plan.broken == Some(Break::LogUnrecovered) {
            remains.files.log.truncate();
        }
        let (mut remains, mut node) = (Some(remains), None);
        while let Some(step) = resuming.poll_step() {
            match step {
                // What the register says of it is all that is recorded here.
                ResumeStep::Record => {}
                ResumeStep::Recover => {
                    let is_beyond = self.env.plan.broken == Some(Break::LogRecoveredBeyond);
                    let upto = if is_beyond { EpochId(u64::MAX) } else { last.epoch.count() };
                    let files = &mut remains.as_mut().expect("no machine has them yet").files;
                    if !files.open(id.host, upto, &mut self.env) {
                        self.fail_start(id.host, remains.expect("no machine has them yet"));
                        return Ok(());
                    }
                }
                ResumeStep::Begin => {
                    let remains = remains.take().expect("it begins once");
                    node = Some(self.begin_resumed(id, term, *remains, &last));
                }
                ResumeStep::EmitAgain => PrimaryNode::emit_again(id, &last.held, &mut self.env),
                // What was put back is there.
                ResumeStep::Load => {}
                ResumeStep::Examine | ResumeStep::Claim => {
                    unreachable!("they come before the answer of the register")
                }
                ResumeStep::NoteAttempt | ResumeStep::GoBack | ResumeStep::NoteEnd => {
                    let mut left = remains.take().expect("no machine has them yet");
                    match self.go_back(id, step, (term, record.as_ref()), &mut left) {
                        Ok(first) => {
                            last = first.unwrap_or(last);
                            remains = Some(left);
                        }
                        Err(crashed) => {
                            self.hosts[id.host].role = Role::Starting(left);
                            return Err(crashed);
                        }
                    }
                }
            }
        }
        let mut node = node.expect("a resume ends with a guest");
        let begun = node.tick(&mut self.env);
        self.hosts[id.host].role = Role::Primary(Box::new(node));
        self.env.after(MS, Event::Connect(id));
        begun?;
        self.env.step(id.host, Step::Resume, true)
    }

    fn begin_resumed(&mut self, id: HostId, term: Term, remains: Remains, last: &LocalEpoch) -> PrimaryNode {
        let Remains { files, store, resuming: _, resets: _ } = remains;
        let env = &mut self.env;
        env.host = id.host;
        env.counts.resumes += 1;
        env.say(|| format!("host {} RESUMES from epoch {}", id.host, last.epoch));
        self.check_not_ended(id.host);
        let env = &mut self.env;
        env.oracle.goes_on(id.host, last.epoch, &last.guest, &files.image.bytes());
        PrimaryNode::resume(id, term, files, (store.expect("it was there"), last), env)
    }

    /// The files of a host that starts could not be opened: it is started again.
    pub(super) fn fail_start(&mut self, host: usize, mut remains: Box<Remains>) {
        remains.files.crash(false, &mut self.env.rng);
        self.hosts[host].role = Role::Down(remains);
        self.crashed(host, false);
        if !self.env.healing {
            let delay = self.env.rng.range(MS, 30 * MS);
            self.env.after(delay, Event::Restart(host));
        }
    }

    /// The register gave the VM to a fresh start. That must not have been while somebody could continue the guest.
    pub(super) fn begin(&mut self, id: HostId, record: &Record, is_named: bool) -> Result<(), Crashed> {
        let before = self.env.witness.before(record).cloned();
        // Who won that and died before it heard so had all that could leave before; it may come yet.
        if let Some(Fork::Mark(fork)) = before.as_ref().and_then(|before| before.fork) {
            self.env.oracle.forked(fork);
        }
        if let Some(before) = before.filter(|before| before.standing == Standing::Running && !is_named) {
            self.check_won(id.host, true, &before, "afresh");
        }
        self.boot(id, Term(record.branch))
    }

    pub(super) fn boot(&mut self, id: HostId, term: Term) -> Result<(), Crashed> {
        self.remains_of_start(id);
        let env = &mut self.env;
        env.host = id.host;
        env.counts.begun += 1;
        env.say(|| format!("host {} BEGINS the guest afresh, term {term}", id.host));
        env.oracle.begins_anew();
        let (node, begun) = PrimaryNode::boot(id, term, env);
        self.hosts[id.host].role = Role::Primary(Box::new(node));
        self.env.after(MS, Event::Connect(id));
        begun
    }

    /// The VM is started here; the witness is asked.
    pub(super) fn start_fresh(&mut self, id: HostId, remains: Remains) {
        let (has_epoch, is_half_filled) = (remains.resumable().is_some(), remains.files.is_filling_noted);
        self.hosts[id.host].role = Role::Starting(Box::new(remains));
        let is_named = self.is_operator_asked() && !self.is_survived();
        if is_half_filled && !is_named {
            // It is refused before anybody is asked. Filled again, it will do; and so does another image, which is an operator's to give.
            self.env.say(|| format!("host {} does not start on its half-filled image", id.host));
            return self.start_backup(id);
        }
        self.env.witness.begin_life(id);
        let store = self.env.plan.local.then(|| store_of(id));
        let question = Question::Begin { store, has_epoch, is_named };
        match self.env.plan.broken {
            Some(Break::BeginUnasked) => self.env.learn_unasked(id, question),
            Some(Break::AnewWithoutClaim) if self.env.counts.resets > 0 => self.env.learn_unasked(id, question),
            _ => self.env.ask(id, question),
        }
    }

    /// The witness has not said in time what becomes of a guest that crashed or was stopped: it is not run here any more, and
    /// what is left of it is removed, for which there is time as well.
    pub(super) fn give_up(&mut self, id: HostId) {
        let patience = 3 * self.env.plan.detect;
        let result = self.primary(id, |node, env| {
            if !node.is_over() {
                return Ok(());
            }
            if node.give_up(env)? {
                return Err(Crashed);
            }
            env.after(patience, Event::GiveUp(id));
            Ok(())
        });
        if result.is_err() && !self.env.healing {
            let delay = self.env.rng.range(MS, 30 * MS);
            self.env.after(delay, Event::Restart(id.host));
        }
        self.settle(id.host, result);
    }
}
