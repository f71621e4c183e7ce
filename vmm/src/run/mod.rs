//! `outlast run` and `outlast backup`: from a checked configuration to a machine, and from its end to an exit code.

mod advice;
mod announce;
mod console;
mod crash;
mod demo;
mod files;
mod incident;
mod late;
mod local;
mod node;
#[cfg(test)]
mod operators;
mod outlet;
mod parts;
mod primary;
mod refusal;
mod resume;
mod right;
mod rollback;
mod services;
mod signals;
mod standby;
mod status;
mod terminal;
mod uses;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use replication::view::Word;
use serde::Serialize;
use serde_json::Value;
use snapshot::statedir::{self, Finding, Item, StateDir, StateDirError};

use crate::api::Server;
use crate::cli::{Commands, Named};
use crate::config::{BackupVmConfig, ControlConfig, DemoConfig, EventMonitor, VmConfig};
use crate::exit::{Exit, Failure};
use machine::End;
use protect::Parting;
use protect::events::Events;
use protect::transport::Credentials;

/// What the command line hands over to: this program.
#[derive(Debug)]
pub struct Outlast;

impl Commands for Outlast {
    fn run(&self, config: VmConfig, named: Named) -> Result<Exit, Failure> {
        primary::run(&config, &said(&named))
    }

    fn resume(&self, config: VmConfig, found: (StateDir, Finding), named: Named) -> Result<Exit, Failure> {
        resume::resume(&config, found, &named)
    }

    fn backup(&self, config: BackupVmConfig) -> Result<Exit, Failure> {
        standby::backup(&config)
    }

    fn demo(&self, config: DemoConfig) -> Result<Exit, Failure> {
        match demo::demo(&config)? {}
    }
}

/// What an operator says, with the time at which it is heard.
fn said(Named { dead, witness, who, why, backup_is_gone: _ }: &Named) -> protect::Named {
    protect::Named { dead: dead.clone(), witness: witness.clone(), word: word(who.clone(), why.clone()) }
}

/// What is recorded of that.
/// What is kept of a name, and of a reason.
const WORD_CHARS_MAX: usize = 1000;

fn word(who: String, why: Option<String>) -> Word {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // A record is read up to a limit, and never changed.
    let cut = |text: String| text.chars().take(WORD_CHARS_MAX).collect();
    Word { who: cut(who), why: cut(why.unwrap_or_default()), at }
}

/// The exit code of a machine's end.
fn exit_of(end: End) -> Result<Exit, Failure> {
    match end {
        End::Guest(_) | End::Stopped => Ok(Exit::Ok),
        End::Fenced { holder } => Err(Failure::new(
            Exit::SelfFenced,
            format!("the guest runs on {holder} now; this VMM was fenced: it released nothing more and stopped"),
        )
        .with_hint("to protect the guest again, start `outlast backup` here and have the new primary connect to it")),
        End::HandedOver { holder } => {
            tracing::info!(
                "the guest was handed over and runs on {holder}; to protect it by this host, start `outlast backup` here and use \
                 `outlast ctl protect` there"
            );
            Ok(Exit::Ok)
        }
        End::Conflict { text } => Err(Failure::new(
            Exit::SplitBrain,
            format!("the backup of this VM has another guest of it, or knows of one: {text}; this one was stopped"),
        )
        .with_hint("look at the backup with `outlast ctl status` and decide which guest counts; to start afresh, stop it there first")),
        End::Failed(why) => Err(Failure::new(Exit::Error, why)),
    }
}

/// The exit code of a guest's clean end, by what its backup and the witness know of it. `successor`: who has it, of one that was taken
/// over.
fn exit_of_parting(parted: Parting, successor: Option<&str>) -> Result<Exit, Failure> {
    match parted {
        Parting::Alone | Parting::OnlyTold => Ok(Exit::Ok),
        Parting::Unrecorded => {
            tracing::warn!(
                "the guest has ended, and the witness does not know it: the next start in this state directory is accepted, and \
                 others are refused"
            );
            Ok(Exit::Ok)
        }
        Parting::TakenOver => Err(Failure::new(
            Exit::SelfFenced,
            format!(
                "the guest was ended here when its backup had taken it over: it runs on {}, from the last epoch that the backup had",
                successor.unwrap_or("the backup's host")
            ),
        )
        .with_hint("to end it, use `outlast ctl stop` there")),
        Parting::NoAnswer => Err(Failure::new(
            Exit::Timeout,
            "the guest was ended here, and the witness has not recorded that: its backup may continue it",
        )
        .with_hint(
            "make the witness answer, then look at the backup with `outlast ctl status`: if the guest runs there, use `outlast ctl stop` \
             there; if nobody has it, `outlast run` on this host starts it again",
        )),
    }
}

/// What a VM shows to its peers, if it was given certificates. They can be used now.
fn credentials(dir: Option<&Path>) -> Result<Option<Credentials>, Failure> {
    Ok(dir.map(Credentials::open).transpose()?)
}

/// The same for a guest that is continued, which does not wait for certificates: what is wrong with them keeps its backup away
/// until they are replaced.
fn credentials_or_warning(dir: Option<&Path>) -> Option<Credentials> {
    if let Err(failure) = credentials(dir) {
        tracing::warn!("the guest goes on without its backup: {failure}");
    }
    dir.map(Credentials::of)
}

fn open_events(monitor: Option<&EventMonitor>) -> Result<Arc<Events>, Failure> {
    let file = monitor.map(|monitor| {
        outlet::open(&monitor.path).map_err(|error| {
            Failure::new(
                Exit::Error,
                format!("cannot open the event monitor's file {}: {error}", monitor.path.display()),
            )
            .with_hint("check that its directory exists and can be written")
        })
    });
    Ok(Arc::new(Events::new(file.transpose()?)))
}

/// Opens the control socket, which keeps a second VM of this name out, and where events go.
fn open_control(
    ControlConfig { api_socket, event_monitor, .. }: &ControlConfig,
) -> Result<(Server, Arc<Events>), Failure> {
    Ok((Server::bind(api_socket)?, open_events(event_monitor.as_ref())?))
}

/// Writes what was configured. Only once the VM is sure to run here.
fn write_config(state_dir: &Path, config: &Value) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(config).expect("a JSON value is printable");
    let written = statedir::replace(state_dir, Item::Config, &text);
    Ok(written.map_err(|source| StateDirError::Unfit { dir: state_dir.to_owned(), source })?)
}

fn as_json(config: &impl Serialize) -> Value {
    serde_json::to_value(config).expect("a configuration is plain data")
}

#[cfg(feature = "fuzzing")]
pub(crate) use incident::{fuzzing_read as read_incident, fuzzing_valid as valid_incident};
