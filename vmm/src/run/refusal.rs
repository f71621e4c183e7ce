//! A resume that is refused, in words: what was found, the exit code, and what an operator does next. The rules are in
//! [`replication::pipeline::resuming`].

use replication::pipeline::resuming::NoCourse;
use snapshot::statedir::Item;

use super::incident::Incident;
use crate::config::VmConfig;
use crate::exit::{Exit, Failure};
use protect::local::{FILES, LocalError, RecordError};

/// Why the guest of `config`, whose crash is `incident`, is not resumed.
pub(super) fn of(no: NoCourse, config: &VmConfig, incident: Option<&Incident>) -> Failure {
    let crashed = |tell: fn(&VmConfig, &Incident) -> Failure| {
        tell(config, incident.expect("only a guest that crashed is refused for that"))
    };
    match no {
        NoCourse::NoGuest => LocalError::Nothing { dir: config.state.dir.clone() }.into(),
        NoCourse::NoEpoch => {
            LocalError::Record { path: Item::State.path_in(&config.state.dir), source: RecordError::Empty }.into()
        }
        NoCourse::TwoLives => two_lives(config),
        NoCourse::Crashed | NoCourse::Exhausted => crashed(stopped),
        NoCourse::HalfWay => crashed(half_way),
        NoCourse::NobodyKnows => nobody_knows(config),
    }
}

fn two_lives(config: &VmConfig) -> Failure {
    let dir = &config.state.dir;
    let (reset, [state, ram, undo, redo, disks]) = (Item::Reset.path_in(dir), FILES);
    Failure::new(
        Exit::Conflict,
        format!(
            "{} asks for a boot of the guest after its crash, and {} has an epoch of a guest that could continue",
            reset.display(),
            dir.display()
        ),
    )
    .with_hint(format!(
        "to boot it, remove {state}, {ram}, {undo}, {redo} and {disks} there; to continue it, remove {}",
        reset.display()
    ))
}

fn stopped(config: &VmConfig, incident: &Incident) -> Failure {
    let Incident { what, crashes, tried, .. } = incident;
    let mut message = format!("the guest crashed in epoch {}: {what}", incident.running());
    if !tried.is_empty() {
        let tried: Vec<String> = tried.iter().map(|fork| fork.name().to_string()).collect();
        let tried = tried.join(", ");
        message = format!(
            "{message}; it crashed {} times, was rolled back to {tried}, and no older epoch is kept",
            crashes.get()
        );
    }
    Failure::new(Exit::GuestCrashed, message).with_hint(format!(
        "its last epoch is kept; to continue from there all the same, remove {} and use `outlast resume`; to give \
         the guest up, remove the directory",
        Item::Crash.path_in(&config.state.dir).display()
    ))
}

/// What it was to go back to survived the death of the process, and it was more that happened.
fn half_way(config: &VmConfig, incident: &Incident) -> Failure {
    let what = format!(
        "the guest crashed in epoch {}, and its rollback was half done when the earlier epoch went missing",
        incident.running()
    );
    Failure::new(Exit::Incompatible, what).with_hint(format!(
        "it cannot continue: memory and disks are of two moments; remove the state directory {}, then `outlast run` boots it",
        config.state.dir.display()
    ))
}

fn nobody_knows(config: &VmConfig) -> Failure {
    Failure::new(
        Exit::SplitBrain,
        format!(
            "the backup of {} may have continued the guest, and there is no witness that could tell: if it were \
             resumed here too, its clients and disks would see two guests",
            config.name
        ),
    )
    .with_hint("look at the backup; if the guest neither runs nor waits there and never will, add --backup-is-gone")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use replication::{EpochId, EpochName, Term};

    use super::*;
    use crate::config::RunOptions;
    use machine::crash::Crash;

    #[test]
    fn each_refusal_has_its_code_and_says_what_is_next() {
        let mut options = RunOptions::default();
        (options.name.name, options.guest.kernel) = (Some("vm0".into()), Some("/k".into()));
        options.state.state_dir = Some("/s".into());
        let config = VmConfig::try_from(options).expect("enough");
        let running = EpochName { branch: Some(Term(3)), count: EpochId(7) };
        let incident = Incident::crashed(None, Crash::Panicked, running, Duration::ZERO);
        for (no, exit, says) in [
            (NoCourse::NoGuest, Exit::NotFound, "--protect local"),
            (NoCourse::NoEpoch, Exit::Incompatible, "start it again"),
            (NoCourse::TwoLives, Exit::Conflict, "/s/reset"),
            (NoCourse::Crashed, Exit::GuestCrashed, "remove /s/crash.json"),
            (NoCourse::Exhausted, Exit::GuestCrashed, "remove /s/crash.json"),
            (NoCourse::HalfWay, Exit::Incompatible, "state directory /s,"),
            (NoCourse::NobodyKnows, Exit::SplitBrain, "--backup-is-gone"),
        ] {
            let failure = of(no, &config, Some(&incident));
            assert_eq!(failure.exit, exit, "{no:?}");
            assert!(failure.to_string().contains(says), "{no:?}: {failure}");
        }
    }
}
