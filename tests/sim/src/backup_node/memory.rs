//! The executor of a backup's loop: it has the memory and the connection.

use std::sync::Arc;

use replication::page::PAGE_SIZE;
use replication::pipeline::backup::{Leaving, LoopDone, LoopStep};
use replication::wire::Hello;
use replication::{AssembledEpoch, EpochId, PageBatch, SessionId};

use super::BackupNode;
use crate::env::{Crashed, Env, Event, Lane};
use crate::fault::Step;
use crate::plan::{Break, machine};

impl BackupNode {
    /// The pages of an epoch are in the memory.
    pub(super) fn finish_applying(&mut self, env: &mut Env) -> Result<(), Crashed> {
        let epoch = self.applying.take().expect("the loop was at work");
        let is_forgetful = env.plan.broken == Some(Break::ForgetPage) && epoch.mark.count.0.is_multiple_of(4);
        for batch in epoch.pages.iter().skip(usize::from(is_forgetful)) {
            self.apply_pages(batch);
        }
        self.pipeline.handle_loop_done(env.time(), LoopDone::Done);
        env.step(self.id.host, Step::Apply, true)
    }

    fn apply_pages(&mut self, batch: &PageBatch) {
        for page in batch.pages() {
            page.apply_to(&mut self.memory[page.gfn.0 as usize]);
        }
    }

    /// Does a step of the loop, or begins it.
    pub(super) fn perform(&mut self, step: LoopStep, env: &mut Env) -> Result<(), Crashed> {
        let done = match step {
            LoopStep::Examine(hello) if hello.machine == machine() => LoopDone::Examined(Ok(())),
            LoopStep::Examine(_) => LoopDone::Examined(Err("another machine".into())),
            LoopStep::MakeMemory { session, hello } => self.make_memory(session, &hello),
            LoopStep::ApplyBatch(batch) => {
                self.apply_pages(&batch);
                LoopDone::Done
            }
            LoopStep::ReadMemory { session, epoch } => {
                self.read_memory(session, epoch, env);
                return Ok(());
            }
            LoopStep::ApplyPages(epoch) => return self.begin_applying(epoch, env),
            LoopStep::Forget { void, .. } => {
                if let Some(session) = void {
                    self.voids.handle_void(session);
                    env.after(0, Event::Look { by: self.id, again: false });
                }
                self.storage.note_forgotten();
                LoopDone::Done
            }
            LoopStep::Disconnect => {
                self.unread.clear();
                if let Some(stream) = self.stream.take() {
                    env.close(stream.connection, self.id.host);
                }
                LoopDone::Done
            }
            LoopStep::Leave(Leaving::TakeOver { over, .. }) => {
                env.step(self.id.host, Step::TakeOver, false)?;
                self.begin_inheritance(over, env);
                LoopDone::Done
            }
            LoopStep::Leave(Leaving::Ended(_) | Leaving::Failed) => {
                self.has_ended = true;
                LoopDone::Done
            }
        };
        self.pipeline.handle_loop_done(env.time(), done);
        Ok(())
    }

    fn make_memory(&mut self, session: SessionId, hello: &Hello) -> LoopDone {
        if let Some(greeting) = hello.register {
            self.voids.handle_joined(session, greeting.primary);
        }
        LoopDone::MadeMemory(Ok(()))
    }

    fn begin_applying(&mut self, epoch: Arc<AssembledEpoch>, env: &mut Env) -> Result<(), Crashed> {
        env.step(self.id.host, Step::Apply, false)?;
        self.applying = Some(epoch);
        let delay = env.rng.range(0, env.plan.apply_delay);
        env.after(delay, Event::Lane { to: self.id, lane: Lane::Loop });
        Ok(())
    }

    fn read_memory(&mut self, session: SessionId, epoch: EpochId, env: &mut Env) {
        let is_blank = env.plan.broken == Some(Break::CopyOfOtherMemory);
        self.pipeline.handle_memory(env.time(), session, epoch, |gfn, page| {
            *page = if is_blank { [0; PAGE_SIZE] } else { self.memory[gfn.0 as usize] };
        });
    }
}
