//! The answer to an operator who asks for a backup while there is one, or nearly.

use replication::primary::PrimaryState;

use crate::transport::{ChannelError, Endpoint};

/// Why a guest was not given another backup. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotProtected {
    /// It has one, or nearly, or can have none.
    #[error("{}", why(*.state, .by.as_ref()))]
    Has {
        /// How it is protected.
        state: PrimaryState,
        /// The backup that it has, if one is wanted.
        by: Option<Endpoint>,
    },
    /// The guest must not go there.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

fn why(state: PrimaryState, by: Option<&Endpoint>) -> String {
    match (state, by) {
        (PrimaryState::Arbitrating, _) => {
            "the backup was lost, and the witness has not decided yet which side has the guest".into()
        }
        (PrimaryState::Fenced, _) => "another host has the guest".into(),
        (PrimaryState::Ended, _) => "the guest has ended".into(),
        (PrimaryState::Protected, Some(by)) => format!("the guest is protected by {by}"),
        (_, Some(by)) => format!("the guest is being copied to {by}"),
        (_, None) => "its protection is being ended".into(),
    }
}

/// What is under way towards the backup `target`, which was asked for before; `None` where asking again must be refused.
pub(super) fn already(state: PrimaryState, target: &Endpoint, last_error: Option<&str>) -> Option<String> {
    Some(match (state, last_error) {
        (PrimaryState::Solo, Some(error)) => {
            format!("connecting to {target} is already being retried; the last attempt: {error}")
        }
        (PrimaryState::Solo, None) => format!("{target} is being connected to already"),
        (PrimaryState::Greeting | PrimaryState::Meeting, _) => {
            format!("{target} is connected already; the two sides compare what they have")
        }
        (PrimaryState::Syncing | PrimaryState::Basing, _) => format!("the guest is being copied to {target} already"),
        (PrimaryState::Protected, _) => format!("the guest is protected by {target} already"),
        (PrimaryState::Arbitrating | PrimaryState::Fenced | PrimaryState::Ended, _) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_that_was_asked_for_before_is_no_error_while_the_guest_can_have_it() {
        let target = Endpoint::Tcp { host: "b".into(), port: 7000, is_clear: false };
        for (state, says) in [
            (PrimaryState::Solo, "being connected"),
            (PrimaryState::Meeting, "connected already"),
            (PrimaryState::Syncing, "being copied"),
            (PrimaryState::Protected, "protected by tcp:b:7000"),
        ] {
            let said = already(state, &target, None).expect("it is under way");
            assert!(said.contains(says) && said.contains("tcp:b:7000"), "{said}");
        }
        assert!(already(PrimaryState::Solo, &target, Some("refused")).expect("it is").contains("refused"));
        assert_eq!(already(PrimaryState::Fenced, &target, None), None);
    }

    #[test]
    fn refusal_names_the_backup_that_the_guest_has() {
        let by = Some(Endpoint::Tcp { host: "b".into(), port: 7000, is_clear: false });
        let refusal = NotProtected::Has { state: PrimaryState::Syncing, by };
        assert_eq!(refusal.to_string(), "the guest is being copied to tcp:b:7000");
        let ending = NotProtected::Has { state: PrimaryState::Protected, by: None };
        assert!(ending.to_string().contains("being ended"), "{ending}");
    }
}
