//! A backup and the witness: what it hears, and what it has to tell.

use replication::ClaimResult;
use replication::pipeline::backup::{Answer, Introduction};
use replication::view::{Tell, Voids};
use replication::wire::{Forsworn, RefuseCode};

use super::BackupNode;
use crate::env::{Crashed, Env};
use crate::plan::Break;
use crate::story::words;
use crate::witness::Question;

impl BackupNode {
    /// The witness said whether the primary may be followed.
    pub fn handle_introduced(&mut self, is_known: bool, env: &mut Env) -> Result<(), Crashed> {
        let host = self.id.host;
        let introduction = match is_known {
            true => Ok(Introduction { place: Some(env.witness.introduce(host)), nonce: Some(env.witness.leave(host)) }),
            false => Err((RefuseCode::Witness, "another witness, or another primary".to_owned())),
        };
        self.pipeline.handle_answer(env.time(), Answer::Introduced(introduction));
        self.pump(env)?;
        self.read(env)
    }

    /// It has forsworn its register, or not.
    pub fn handle_forsworn(&mut self, forsworn: Forsworn, env: &mut Env) -> Result<(), Crashed> {
        self.pipeline.handle_answer(env.time(), Answer::Forsworn(forsworn));
        self.pump(env)?;
        self.read(env)
    }

    /// The witness said whether the guest may run here.
    pub fn handle_claimed(&mut self, result: ClaimResult, env: &mut Env) -> Result<(), Crashed> {
        if self.is_inheriting() {
            return self.handle_inherited(result, env);
        }
        let is_lost = matches!(result, ClaimResult::Denied { .. });
        self.pipeline.handle_answer(env.time(), Answer::Claimed(result));
        if let Some(newest) = env.witness.seen_right(self.id.host).filter(|_| is_lost).cloned() {
            self.pipeline.handle_newest(env.time(), &newest);
        }
        self.pump(env)?;
        self.read(env)
    }

    /// Looks at the newest record, and tells the witness what that asks for. The driver does so again and again.
    pub fn look(&mut self, env: &mut Env) {
        let me = env.witness.place(self.id.host).id;
        let newest = env.witness.seen_right(self.id.host).filter(|_| env.net.witness_up[self.id.host]).cloned();
        if let Some(newest) = &newest {
            self.pipeline.handle_newest(env.time(), newest);
        }
        if let Some(newest) = newest.filter(|_| env.plan.broken != Some(Break::VoidUntold)) {
            for tell in self.voids.tell(&newest) {
                env.say(|| format!("host {} {}", self.id.host, words::tell(tell)));
                if env.witness.tell(me, tell) {
                    self.voids.handle_told(tell);
                }
            }
            if env.plan.broken == Some(Break::VoidForgotten) && newest.backups.is_empty() {
                // Broken: what is not listed now is taken for what will never be.
                self.voids.joins().for_each(|join| {
                    env.witness.tell(me, Tell::Withdraw(join));
                });
                self.voids = Voids::new(me);
            }
        }
        if env.net.witness_up[self.id.host] {
            env.witness.depart(self.id.host);
            env.ask(self.id, Question::UnaskedLook);
            env.witness.state_deaths_again(self.id.host);
        }
    }
}
