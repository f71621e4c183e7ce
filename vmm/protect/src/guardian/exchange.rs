//! An operator's exchange of the witness, from the wish to its answer.

use std::sync::Arc;
use std::time::Duration;

use replication::primary::{NotNow, PrimaryState};

use super::Guardian;
use crate::fault;
use crate::registrant::{ExchangeError, Named};
use crate::witness::WitnessName;
use machine::spawn;

/// How long an operator waits for an exchange: a few questions to two witnesses that take their time for each.
const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(30);

/// Why the witness was not exchanged.
#[derive(Debug, thiserror::Error)]
pub enum NotExchanged {
    /// It was not begun.
    #[error("{}", why(*.0))]
    NotNow(NotNow),
    /// It was not begun.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// It was begun and came to nothing: the old witness counts.
    #[error("the witness stays {witness}: {reason}")]
    Kept {
        /// The old witness.
        witness: WitnessName,
        /// Why.
        reason: String,
    },
    /// A guest without a witness has a backup that cannot be asked.
    #[error("a guest that has no witness gets one while it has no backup")]
    HasBackup,
    /// It is not settled yet, and will be as soon as the witnesses answer.
    #[error("whether {witness} counts from now on is not settled: it did not answer within {} s, and is asked until it does", EXCHANGE_TIME_MAX.as_secs())]
    UnderWay {
        /// The new witness.
        witness: WitnessName,
    },
}

fn why(not_now: NotNow) -> &'static str {
    match not_now {
        NotNow::UnderWay => "an exchange of the witness is under way already",
        NotNow::HandingOver => "the guest is being handed over to its backup",
        NotNow::Filling(_) => "a backup is being connected to or filled, and is neither a member nor none",
        NotNow::Arbitrating => "the backup is lost, and the witness has not said which side goes on",
        NotNow::Connected => "the backup is connected, so nobody is to be named dead",
        NotNow::Unsettled => "a place was lost, and whether it still counts is being asked",
        NotNow::Over => "the guest has ended here",
    }
}

impl Guardian {
    /// Continues the VM's register at the witness `to`. With `named`: by an override, the other places of the newest view are dead. When
    /// this returns without an error, `to` counts, and nothing else.
    pub fn exchange_witness(self: &Arc<Self>, to: &WitnessName, named: Option<&Named>) -> Result<(), NotExchanged> {
        if self.registrant.witness() == *to && !self.lock().pipeline.core().is_exchanging() {
            return match self.registrant.look() {
                replication::ClaimResult::Granted => Ok(()),
                _ => Err(NotExchanged::Kept {
                    witness: to.clone(),
                    reason: "it is the witness already, and does not answer, or not as it should: name another place"
                        .into(),
                }),
            };
        }
        if !self.registrant.is_witnessed() {
            return self.adopt_witness(to);
        }
        self.may_exchange(named.is_some())?;
        self.lock().exchange_refused = None;
        let opened = self.registrant.open_exchange(to, named, None)?;
        fault::reached(fault::EXCHANGE_NOTED);
        self.with_core(|core, now| match named {
            None => core.handle_exchange_opened(now, opened.heir, opened.proposal, opened.nonce),
            Some(_) => core.handle_override_opened(opened.heir),
        });
        self.note_settlement();
        let deadline = self.clock.now().after(EXCHANGE_TIME_MAX);
        if !self.wait_until(deadline, |inner| !inner.pipeline.core().is_exchanging()) {
            return Err(NotExchanged::UnderWay { witness: to.clone() });
        }
        let witness = self.registrant.witness();
        if witness == *to {
            // Whoever still uses the old one is to be told where to look.
            self.registrant.depart();
            return Ok(());
        }
        let reason = self.lock().exchange_refused.take();
        let reason =
            reason.unwrap_or_else(|| format!("{to} was taken by somebody else, or the backup was lost meanwhile"));
        Err(NotExchanged::Kept { witness, reason })
    }

    fn may_exchange(&self, is_override: bool) -> Result<(), NotExchanged> {
        let deadline = self.clock.now().after(self.config.detect * 2);
        loop {
            let (seen, may) = {
                let inner = self.lock();
                let core = inner.pipeline.core();
                (inner.moves, if is_override { core.may_override() } else { core.may_exchange() })
            };
            match may {
                Ok(()) => return Ok(()),
                // Between two tries to reach a backup that does not take it there is a rest.
                Err(NotNow::Filling(PrimaryState::Greeting | PrimaryState::Meeting)) if self.clock.now() < deadline => {
                    self.wait_for_move(seen, Some(deadline));
                }
                Err(not_now) => return Err(NotExchanged::NotNow(not_now)),
            }
        }
    }

    /// A guest that had no witness has one from here on, and its first record.
    fn adopt_witness(self: &Arc<Self>, to: &WitnessName) -> Result<(), NotExchanged> {
        let opened = self.with_inner(|inner, now| {
            inner.pipeline.with(now, |core| core.handle_adoption_opened()).map(|()| inner.local)
        });
        let is_local = match opened {
            Ok(local) => local.is_some(),
            Err(NotNow::Connected | NotNow::Filling(_)) => return Err(NotExchanged::HasBackup),
            Err(not_now) => return Err(NotExchanged::NotNow(not_now)),
        };
        let store = is_local.then(|| self.registrant.store(self.config.store));
        let adopted = self.registrant.adopt(to, store, self.config.durability.into(), self.config.term);
        self.with_pipeline(|pipeline, now| pipeline.handle_adoption_settled(now, adopted.is_ok()));
        adopted?;
        let asker = Arc::clone(self);
        spawn("ft-witness".into(), move || asker.run_witness());
        self.note(outlast_api::Occurrence::WitnessExchanged { witness: to.to_string() });
        Ok(())
    }
}
