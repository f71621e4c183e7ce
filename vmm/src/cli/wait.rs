//! `outlast ctl wait`: ends when the VM has reached the requested state, so that a script or a page needs no "wait a
//! moment".
//!
//! It asks again and again, and a VM that is not there yet may still come. It gives up at once where waiting cannot
//! help, and otherwise when the time is over, with what it saw last.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use outlast_api::{BackupState, Config, PrimaryState, RunState, Status, verbs};

use crate::api::client::{Client, ClientError};
use crate::config::format_time;
use crate::exit::{Advice, Exit, Failure};

/// Between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// A VM that answered and no longer does has ended, unless its program starts again after a crash of its guest.
const GONE_AFTER: Duration = Duration::from_secs(2);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Goal {
    /// The guest runs here: it was started, resumed or taken over
    Running,
    /// The guest is protected by everything that --protect and `ctl protect` asked for
    Protected,
    /// No VM answers here any more
    Ended,
}

/// What one look shows.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The state is reached.
    There,
    /// The state may still be reached.
    NotYet(String),
    /// The state will not be reached without a command.
    Never(&'static str),
}

/// Waits until the VM behind `socket` has come to `goal`.
pub(super) fn until(goal: Goal, socket: &Path, timeout: Duration) -> Result<Exit, Failure> {
    let begin = Instant::now();
    let mut answered: Option<Instant> = None;
    loop {
        let left = timeout.saturating_sub(begin.elapsed()).max(ASK_AGAIN);
        let seen = match look(goal, &Client::new(socket, left)) {
            Ok(seen) => {
                answered = Some(Instant::now());
                seen
            }
            Err(error) if error.exit() == Exit::NotFound && goal == Goal::Ended => Seen::There,
            Err(error) if error.exit() == Exit::NotFound || has_just_ended(&error) => {
                if answered.is_some_and(|last| last.elapsed() > GONE_AFTER) {
                    return Err(gone(socket));
                }
                Seen::NotYet(format!("no VM answers at {}", socket.display()))
            }
            Err(error) => return Err(error.into()),
        };
        match seen {
            Seen::There => return Ok(Exit::Ok),
            Seen::Never(why) => return Err(Failure::new(Exit::Conflict, why).with_hint(advice(goal))),
            Seen::NotYet(why) if begin.elapsed() >= timeout => return Err(late(timeout, &why)),
            Seen::NotYet(_) => thread::sleep(ASK_AGAIN),
        }
    }
}

/// Its end came between the question and the answer.
fn has_just_ended(error: &ClientError) -> bool {
    matches!(error, ClientError::Broken { .. } | ClientError::NotHttp { .. })
}

fn look(goal: Goal, client: &Client) -> Result<Seen, ClientError> {
    let info = client.call::<verbs::GetVm>(&())?;
    Ok(match goal {
        Goal::Running if info.state == RunState::Running => Seen::There,
        Goal::Running | Goal::Ended => Seen::NotYet(format!("the VM is {:?}", info.state)),
        Goal::Protected => protected(&info.config, &client.call::<verbs::GetFt>(&())?),
    })
}

/// A backup protects; a primary is protected by each of the places that were asked for.
fn protected(config: &Config, status: &Status) -> Seen {
    let primary = match status {
        Status::Backup(backup) if backup.following.state == BackupState::Protected => return Seen::There,
        Status::Backup(backup) => return Seen::NotYet(format!("its state is {:?}", backup.following.state)),
        Status::Primary(primary) => &primary.protecting,
    };
    let wants_local = config.protect.iter().any(|place| place == "local");
    match &primary.target {
        _ if wants_local && primary.local.is_none() => Seen::NotYet("the state directory takes no epochs".into()),
        None if wants_local => Seen::There,
        None => Seen::Never("this guest has no protection to wait for: it was started without --protect"),
        Some(_) if primary.state == PrimaryState::Protected => Seen::There,
        Some(_) => Seen::NotYet(match &primary.connect_error {
            Some(error) => format!("its state is {:?}: {error}", primary.state),
            None => format!("its state is {:?}", primary.state),
        }),
    }
}

fn advice(goal: Goal) -> &'static str {
    match goal {
        Goal::Protected => "`outlast ctl protect tcp:HOST:PORT` gives it a backup",
        Goal::Running | Goal::Ended => "`outlast ctl status` says more",
    }
}

fn late(timeout: Duration, why: &str) -> Failure {
    Failure::new(Exit::Timeout, format!("waited {}: {why}", format_time(timeout)))
        .with_hint("`outlast ctl status` and `outlast ctl events` say more; --timeout waits longer")
}

fn gone(socket: &Path) -> Failure {
    Failure::new(Exit::Error, format!("the VM at {} ended meanwhile", socket.display())).with_hint("its log says why")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(protect: &[&str], target: Option<&str>, state: PrimaryState, local: Option<&str>) -> Seen {
        let protect = protect.iter().map(|place| place.to_string()).collect();
        let mut status = outlast_api::testing::primary_status();
        status.protecting.state = state;
        status.protecting.target = target.map(String::from);
        status.protecting.local = local.map(String::from);
        protected(&Config { protect, ..Config::default() }, &Status::Primary(Box::new(status)))
    }

    #[test]
    fn protected_is_a_guest_that_all_that_was_asked_for_protects() {
        use PrimaryState::{Protected, Solo, Syncing};
        let (b, kept) = (Some("tcp:b:1"), Some("the end of the VMM"));
        assert_eq!(primary(&["tcp:b:1"], b, Protected, None), Seen::There);
        assert_eq!(primary(&["local"], None, Solo, kept), Seen::There);
        assert_eq!(primary(&["local", "tcp:b:1"], b, Protected, kept), Seen::There);
        // Given one by `ctl protect`, after a takeover.
        assert_eq!(primary(&["none"], b, Protected, None), Seen::There);
        assert_eq!(primary(&[], b, Protected, None), Seen::There);
        for waits in [
            primary(&["tcp:b:1"], b, Solo, None),
            primary(&["local", "tcp:b:1"], b, Syncing, kept),
            primary(&["local", "tcp:b:1"], b, Protected, None),
            primary(&["local"], None, Solo, None),
        ] {
            assert!(matches!(waits, Seen::NotYet(_)), "{waits:?}");
        }
        assert!(matches!(primary(&["none"], None, Solo, None), Seen::Never(_)));
    }
}
