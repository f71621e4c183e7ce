//! `outlast ctl wait`: ends when the VM has reached the requested state, so that a script or a page needs no "wait a
//! moment".
//!
//! It asks again and again, and a VM that is not there yet may still come. It gives up at once where waiting cannot
//! help, and otherwise when the time is over, with what it saw last.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::Value;

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
    let ask = |target: &str| {
        let reply = client.request("GET", target, None)?;
        // Without an object there is nothing to see yet.
        Ok(serde_json::from_slice::<Value>(&reply).unwrap_or_default())
    };
    Ok(judge(goal, &ask("/vm")?, &ask("/ft")?))
}

fn judge(goal: Goal, info: &Value, status: &Value) -> Seen {
    let here = info["state"].as_str().unwrap_or("unknown");
    match goal {
        Goal::Running if here == "Running" => Seen::There,
        Goal::Running => Seen::NotYet(format!("the VM is {here}")),
        Goal::Protected => protected(info, status),
        Goal::Ended => Seen::NotYet(format!("the VM is {here}")),
    }
}

/// A backup protects; a primary is protected by each of the places that were asked for.
fn protected(info: &Value, status: &Value) -> Seen {
    let state = status["state"].as_str().unwrap_or("unknown");
    let wants_backup = status["role"] == "backup" || !status["target"].is_null();
    let asked = info["config"]["protect"].as_array().is_some_and(|places| places.contains(&"local".into()));
    let wants_local = status["role"] == "primary" && asked;
    match (wants_backup, wants_local && status["local"].is_null()) {
        (false, _) if !wants_local => Seen::Never(
            "this guest has no protection to wait for: it was started \
         without --protect",
        ),
        (_, true) => Seen::NotYet("the state directory takes no epochs".into()),
        (true, _) if state != "Protected" => match status["connect_error"].as_str() {
            Some(error) => Seen::NotYet(format!("its state is {state}: {error}")),
            None => Seen::NotYet(format!("its state is {state}")),
        },
        _ => Seen::There,
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
    use serde_json::json;

    fn primary(protect: &[&str], target: Option<&str>, state: &str, local: Option<&str>) -> Seen {
        let status = json!({ "role": "primary", "target": target, "state": state, "local": local });
        judge(Goal::Protected, &json!({ "state": "Running", "config": { "protect": protect } }), &status)
    }

    #[test]
    fn protected_is_a_guest_that_all_that_was_asked_for_protects() {
        let (b, kept) = (Some("tcp:b:1"), Some("the end of the VMM"));
        assert_eq!(primary(&["tcp:b:1"], b, "Protected", None), Seen::There);
        assert_eq!(primary(&["local"], None, "Solo", kept), Seen::There);
        assert_eq!(primary(&["local", "tcp:b:1"], b, "Protected", kept), Seen::There);
        // Given one by `ctl protect`, after a takeover.
        assert_eq!(primary(&["none"], b, "Protected", None), Seen::There);
        for waits in [
            primary(&["tcp:b:1"], b, "Solo", None),
            primary(&["local", "tcp:b:1"], b, "Syncing", kept),
            primary(&["local", "tcp:b:1"], b, "Protected", None),
            primary(&["local"], None, "Solo", None),
        ] {
            assert!(matches!(waits, Seen::NotYet(_)), "{waits:?}");
        }
        assert!(matches!(primary(&["none"], None, "Solo", None), Seen::Never(_)));
    }

    #[test]
    fn running_is_not_a_backup_and_not_a_paused_guest() {
        let state = |state: &str| judge(Goal::Running, &json!({ "state": state }), &json!({}));
        assert_eq!(state("Running"), Seen::There);
        for other in ["Standby", "Paused", "Pausing", "Ended"] {
            assert_eq!(state(other), Seen::NotYet(format!("the VM is {other}")));
        }
    }
}
