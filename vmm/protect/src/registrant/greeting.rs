//! What two sides say to each other of the register when they meet.

use std::io;

use replication::pipeline::backup::Introduction;
use replication::primary::Meeting;
use replication::view::{Desk, Greeting, Nonce, Outcome, Wish};
use replication::wire::RefuseCode;

use super::Registrant;
use super::right::holder_of;

impl Registrant {
    /// What the primary says of the register in its Hello, with something for the backup to find at the witness.
    pub fn greeting(&self) -> Result<Option<Greeting>, io::Error> {
        let Some(witness) = self.own() else { return Ok(None) };
        let left = witness.leave(&self.vm_name);
        self.note_answer(Desk::Own, left.as_ref().err());
        // One that is only just given a witness has no record there yet.
        let known = self.known().ok_or_else(|| io::Error::other("this VM has no record at its witness yet"))?;
        Ok(Some(Greeting { known, primary: self.life.observer.place().id, nonce: left? }))
    }

    /// As the primary: whether the backup, which left `nonce`, sees the same witness.
    pub fn meet(&self, nonce: Option<Nonce>) -> Meeting {
        let (witness, nonce) = match (self.own(), nonce) {
            (None, None) => return Meeting::Same,
            (Some(witness), Some(nonce)) => (witness, nonce),
            _ => return Meeting::Other,
        };
        let found = witness.finds(&self.vm_name, nonce);
        self.note_answer(Desk::Own, found.as_ref().err());
        match found {
            Ok(true) => Meeting::Same,
            Ok(false) => Meeting::Other,
            Err(_) => Meeting::NoAnswer,
        }
    }

    /// As a backup: whether a primary that says this may be followed; if so, what to tell it.
    pub fn introduce(&self, greeting: Option<&Greeting>) -> Result<Introduction, (RefuseCode, String)> {
        self.check_rival(greeting)?;
        self.introduce_by_witness(greeting).map_err(|text| (RefuseCode::Witness, text))
    }

    /// Two registers of one generation are made by two overrides. Which of the two guests counts, nobody but a person can say.
    fn check_rival(&self, greeting: Option<&Greeting>) -> Result<(), (RefuseCode, String)> {
        let (Some(ours), Some(greeting)) = (self.known(), greeting) else { return Ok(()) };
        if !ours.is_rival_of(&greeting.known) {
            return Ok(());
        }
        let text = format!(
            "{} has two registers of generation {}: that of its primary, and that which this backup's host has seen; its witness was \
             overridden twice. Decide which guest counts, stop the other, and start the backup with an empty state directory",
            self.vm_name, ours.generation
        );
        tracing::error!(
            vm = self.vm_name,
            generation = ours.generation,
            "a primary has another register of the same generation"
        );
        Err((RefuseCode::Rival, text))
    }

    fn introduce_by_witness(&self, greeting: Option<&Greeting>) -> Result<Introduction, String> {
        let (witness, greeting) = match (self.own(), greeting) {
            (None, None) => return Ok(Introduction::default()),
            (None, Some(_)) => {
                return Err("the primary has a witness and the backup has none; give both the same".into());
            }
            (Some(_), None) => {
                return Err("the backup has a witness and the primary has none; give both the same".into());
            }
            (Some(witness), Some(greeting)) => (witness, greeting),
        };
        let no_answer = |error: io::Error| format!("the backup's witness does not answer: {error}");
        let found = witness.finds(&self.vm_name, greeting.nonce);
        self.note_answer(Desk::Own, found.as_ref().err());
        if !found.map_err(no_answer)? {
            let ours = self.known().map_or(0, |known| known.generation);
            let exchanged = if ours < greeting.known.generation {
                "; the primary's was exchanged: `outlast ctl witness set` on the backup gives it the same"
            } else {
                ""
            };
            return Err(format!("the backup does not see the primary's witness in {}{exchanged}", self.witness()));
        }
        let Greeting { known, primary, nonce: _ } = *greeting;
        match self.wish(Wish::Follow { known, primary }).expect("there is a witness") {
            Outcome::Won(_) => {}
            Outcome::Refused(refusal) => return Err(format!("the witness names {}", holder_of(&refusal))),
            Outcome::Forgotten => return Err("the backup's witness does not have the primary's records".into()),
            Outcome::NoAnswer => return Err("the backup's witness does not answer".into()),
        }
        // Its place goes into a record.
        self.life.publish().map_err(|error| format!("the backup's state directory takes no more: {error}"))?;
        let nonce = witness.leave(&self.vm_name).map_err(no_answer)?;
        Ok(Introduction { place: Some(self.life.observer.place().clone()), nonce: Some(nonce) })
    }
}
