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
mod outlet;
mod parts;
mod primary;
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

use serde::Serialize;
use serde_json::Value;
use snapshot::{durable, private};

use crate::api::Server;
use crate::cli::{Commands, Named};
use crate::config::{BackupConfig, DemoConfig, EventMonitor, VmConfig};
use crate::exit::{Exit, Failure};
use machine::End;
use protect::Life;
use protect::events::Events;

/// What the command line hands over to: this program.
#[derive(Debug)]
pub struct Outlast;

impl Commands for Outlast {
    fn run(&self, config: VmConfig, dead: Vec<String>) -> Result<Exit, Failure> {
        primary::run(&config, &dead)
    }

    fn boot_again(&self, config: VmConfig, life: Life) -> Result<Exit, Failure> {
        primary::boot_again(&config, life)
    }

    fn resume(&self, config: VmConfig, named: Named) -> Result<Exit, Failure> {
        primary::resume(&config, &named)
    }

    fn backup(&self, config: BackupConfig) -> Result<Exit, Failure> {
        standby::backup(&config)
    }

    fn demo(&self, config: DemoConfig) -> Result<Exit, Failure> {
        match demo::demo(&config)? {}
    }
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
        End::Conflict { text } => Err(Failure::new(
            Exit::SplitBrain,
            format!("the backup of this VM already has a guest: {text}; this one was stopped"),
        )
        .with_hint("look at the backup with `outlast ctl status`; to start afresh, stop it there first")),
        End::Failed(why) => Err(Failure::new(Exit::Error, why)),
    }
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

/// Makes the state directory, which is to be ours alone, with the control socket, which keeps a second VM of this name out.
fn bind_api(socket: &Path, state_dir: &Path) -> Result<Server, Failure> {
    let claimed =
        private::claim_dir(state_dir).and_then(|is_new| if is_new { durable::sync_parent(state_dir) } else { Ok(()) });
    claimed.map_err(|error| unwritable(state_dir, &error))?;
    Ok(Server::bind(socket)?)
}

/// Writes what was configured. Only once the VM is sure to run here.
fn write_config(state_dir: &Path, config: &Value) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(config).expect("a JSON value is printable");
    durable::replace(&state_dir.join("vm.json"), &text).map_err(|error| unwritable(state_dir, &error))
}

fn unwritable(state_dir: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Error, format!("cannot use the state directory {}: {error}", state_dir.display()))
        .with_hint("give --state-dir a directory that this user can write and others cannot")
}

fn as_json(config: &impl Serialize) -> Value {
    serde_json::to_value(config).expect("a configuration is plain data")
}

#[cfg(feature = "fuzzing")]
pub(crate) use incident::{fuzzing_read as read_incident, fuzzing_valid as valid_incident};
