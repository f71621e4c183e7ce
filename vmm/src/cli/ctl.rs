//! `outlast ctl`: what a running VM is asked through its control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use outlast_api::{
    Action, ActionType, GoalState, ProtectRequest, Since, SnapshotRequest, SwitchoverRequest, TakeOverRequest, VmState,
    WitnessRequest, verbs,
};
use serde_json::Value;

use super::answer::print;
use super::author::author;
use super::wait::{self, Goal};
use super::{list, table};
use crate::api::client::Client;
use crate::config::{EpochLength, Protect, TimeSpan, control_socket, rooted_witness};
use crate::exit::{Exit, Failure};
use protect::transport::Endpoint;
use protect::witness::WitnessName;

const EXAMPLES: &str = "\
Examples:
  outlast ctl --name vm0 status
  outlast ctl --name vm0 --output json info
  outlast ctl --api-socket /run/vm0.sock snapshot create /srv/snapshots/1
  outlast ctl --name vm0 protect tcp:10.78.0.1:7000 --epoch 20ms
  outlast ctl --name vm0 wait protected --timeout 300s
  outlast ctl --name vm0 switchover
  outlast ctl --name vm0 events --since 12
  outlast ctl --name vm0 witness set etcd:http://10.78.0.11:2379,http://10.78.0.12:2379

Exit codes:
  0 done, 1 failed, 2 wrong request, 3 no such VM, 4 the VM's state forbids it,
  5 no answer in time (of stop: the guest ended here, and its backup may continue it),
  6 refused to avoid split brain, 160 the guest runs at its backup already (stop).";

/// Query or control a running VM
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CtlArgs {
    /// Control socket of the VM
    #[arg(long, alias = "api-sock", value_name = "PATH", value_hint = ValueHint::FilePath, global = true)]
    api_socket: Option<PathBuf>,
    /// Name of the VM, if its state directory is at the default place
    #[arg(long, value_name = "NAME", conflicts_with = "api_socket", global = true)]
    name: Option<String>,
    /// Format of the answer
    #[arg(long, value_enum, default_value = "table", global = true)]
    output: Output,
    /// How long to wait for the answer, or for what `wait` waits for. A snapshot of a large guest takes long
    #[arg(long, value_name = "TIME", default_value = "60s", global = true)]
    timeout: TimeSpan,
    #[command(subcommand)]
    verb: Verb,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Aligned columns, for people
    Table,
    /// JSON, for programs
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what the VM is: name, state, configuration
    Info,
    /// Show how it is protected: role, epochs, peer, warnings
    Status,
    /// Stop the guest until `resume`; answered when the pause is committed
    Pause,
    /// Let a paused guest run again; answered when that is committed
    Resume,
    /// End the VM cleanly
    Stop,
    /// Take snapshots of the running VM
    #[command(subcommand)]
    Snapshot(SnapshotVerb),
    /// Start replicating to a backup
    Protect(ProtectArgs),
    /// Stop replicating; the guest keeps running without protection
    Unprotect,
    /// Hand the guest over to its backup, for maintenance of this host. It stands still for a moment and then runs there; the program here
    /// ends. Fails and lets the guest run on if the backup does not have all of it
    Switchover,
    /// The same, back to the host where the guest ran before its last takeover or switchover; refused if its backup is elsewhere
    Failback,
    /// DANGEROUS: have a backup continue the guest: from the copy that it kept when another side won it, or, with --witness, because
    /// its witness is gone. If a place named with --dead is alive, two guests run; what it did since is lost
    TakeOver {
        /// A place that the witness lists, by the id in the backup's message; repeatable
        #[arg(long, value_name = "ID", required = true)]
        dead: Vec<String>,
        /// The witness from now on, because the old one is gone for good or was restored
        #[arg(long, value_name = "file:DIR|etcd:URL[,URL…][,credentials=DIR]")]
        witness: Option<WitnessName>,
        /// Why, for the record at the witness
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
    },
    /// Exchange the witness that decides where this VM runs
    #[command(subcommand)]
    Witness(WitnessVerb),
    /// Print the events so far, one JSON object per line
    Events {
        /// Number of the first event to print
        #[arg(long, value_name = "N", default_value_t = 0)]
        since: u64,
    },
    /// Print metrics in Prometheus text format
    Metrics {
        /// Print nothing, but forget the distributions, so that the next time they cover only what follows
        #[arg(long)]
        reset: bool,
    },
    /// Wait until the VM has reached a state. Fails with exit code 5 after --timeout
    Wait {
        /// What to wait for
        #[arg(value_enum)]
        goal: Goal,
    },
    /// List the VMs that run on this host with their state directory at the default place. Takes no --name
    List,
}

#[derive(Debug, Subcommand)]
enum WitnessVerb {
    /// Continue the VM's register at another witness; answered when that one counts. Both sides must reach the new one; the old one
    /// may be gone. On a backup that follows nobody: which witness it asks from now on
    Set(WitnessArgs),
}

#[derive(Args, Debug)]
struct WitnessArgs {
    /// The new witness, as both hosts name it
    #[arg(value_name = "file:DIR|etcd:URL[,URL…][,credentials=DIR]")]
    witness: WitnessName,
    /// DANGEROUS: where the backup or the old witness cannot take part, every other place that the newest view lists, by its id;
    /// repeatable. If one of them is alive and somebody does the same there, two guests run
    #[arg(long, value_name = "ID")]
    dead: Vec<String>,
    /// Why that is said, for the record at the witness. Without --dead: no other place is listed, and the old witness is gone for good
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
}

#[derive(Debug, Subcommand)]
enum SnapshotVerb {
    /// Write a snapshot into a new directory
    Create {
        /// The directory; it must not exist
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Args, Debug)]
struct ProtectArgs {
    /// The backup
    #[arg(value_name = "tcp:HOST:PORT|unix:PATH")]
    target: Endpoint,
    /// New epoch length
    #[arg(long, value_name = "TIME|auto")]
    epoch: Option<EpochLength>,
}

pub(super) fn execute(args: CtlArgs) -> Result<Exit, Failure> {
    let CtlArgs { api_socket, name, output, timeout, verb } = args;
    if let Verb::List = verb {
        return list::running(output);
    }
    let socket = socket(api_socket, name)?;
    if let Verb::Wait { goal } = verb {
        return wait::until(goal, &socket, timeout.0);
    }
    let client = Client::new(&socket, timeout.0.max(Duration::from_millis(1)));
    let text = match ask(&client, verb)? {
        Said::Object(reply) => shown(&reply, output),
        Said::Text(reply) => reply,
    };
    print(&text)?;
    Ok(Exit::Ok)
}

fn socket(api_socket: Option<PathBuf>, name: Option<String>) -> Result<PathBuf, Failure> {
    match (api_socket, name) {
        (Some(path), _) => Ok(path),
        (None, Some(name)) => Ok(control_socket(&name)?),
        (None, None) => Err(Failure::new(Exit::Usage, "which VM? give --name NAME or --api-socket PATH")
            .with_hint("`outlast ctl list` shows the VMs of this host")),
    }
}

/// What a VM said, as it said it.
enum Said {
    /// JSON, or nothing.
    Object(Vec<u8>),
    /// To be shown as it is.
    Text(Vec<u8>),
}

fn ask(client: &Client, verb: Verb) -> Result<Said, Failure> {
    let of = |state| VmState { state };
    Ok(match verb {
        Verb::Info => Said::Object(client.ask::<verbs::GetVm>(&())?),
        Verb::Status => Said::Object(client.ask::<verbs::GetFt>(&())?),
        Verb::Pause => Said::Object(client.ask::<verbs::PatchVm>(&of(GoalState::Paused))?),
        Verb::Resume => Said::Object(client.ask::<verbs::PatchVm>(&of(GoalState::Resumed))?),
        Verb::Stop => Said::Object(client.ask::<verbs::PutAction>(&Action { action_type: ActionType::Stop })?),
        Verb::Snapshot(SnapshotVerb::Create { dir }) => {
            Said::Object(client.ask::<verbs::PutSnapshot>(&SnapshotRequest { snapshot_path: absolute(&dir)? })?)
        }
        Verb::Protect(args) => Said::Object(client.ask::<verbs::PutFt>(&protect_request(args))?),
        Verb::Unprotect => Said::Object(client.ask::<verbs::DeleteFt>(&())?),
        Verb::Switchover => Said::Object(client.ask::<verbs::PutSwitchover>(&SwitchoverRequest { back: false })?),
        Verb::Failback => Said::Object(client.ask::<verbs::PutSwitchover>(&SwitchoverRequest { back: true })?),
        Verb::TakeOver { dead, witness, why } => {
            let witness = witness.map(|witness| rooted_witness(witness).to_string());
            let request = TakeOverRequest { dead, witness, who: Some(author()), why };
            Said::Object(client.ask::<verbs::PutTakeOver>(&request)?)
        }
        Verb::Witness(WitnessVerb::Set(WitnessArgs { witness, dead, why })) => {
            // The program that it is for may have another working directory.
            let witness = rooted_witness(witness).to_string();
            let request = WitnessRequest { witness, dead, who: Some(author()), why };
            Said::Object(client.ask::<verbs::PutWitness>(&request)?)
        }
        Verb::Events { since } => Said::Text(client.ask::<verbs::GetEvents>(&Since { since })?),
        Verb::Metrics { reset: false } => Said::Text(client.ask::<verbs::GetMetrics>(&())?),
        Verb::Metrics { reset: true } => Said::Text(client.ask::<verbs::DeleteMetrics>(&())?),
        Verb::Wait { .. } | Verb::List => unreachable!("they are more or less than one request"),
    })
}

/// The VMM may have another working directory than we.
fn absolute(dir: &Path) -> Result<String, Failure> {
    let failed = |why: String| Failure::new(Exit::Usage, format!("directory {}: {why}", dir.display()));
    let path = std::path::absolute(dir).map_err(|error| failed(error.to_string()))?;
    path.into_os_string().into_string().map_err(|_| failed("its path is not UTF-8, and JSON has no other".into()))
}

fn protect_request(args: ProtectArgs) -> ProtectRequest {
    let ProtectArgs { target, epoch } = args;
    // The program that it is for may have another working directory.
    let protect = Protect::Backup(target).rooted().to_string();
    ProtectRequest { protect, epoch: epoch.map(|epoch| epoch.to_string()) }
}

/// An object in the form that was asked for; nothing when there is nothing to say.
fn shown(reply: &[u8], output: Output) -> Vec<u8> {
    match (serde_json::from_slice::<Value>(reply), output) {
        (Ok(value), Output::Table) => table::of_object(&value).into(),
        (Ok(value), Output::Json) => format!("{value:#}\n").into(),
        (Err(_), _) => reply.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_without_name_or_path_is_usage() {
        assert_eq!(socket(None, None).expect_err("neither").exit, Exit::Usage);
        assert_eq!(socket(None, Some("../x".into())).expect_err("no name").exit, Exit::Usage);
        assert_eq!(socket(None, Some("vm0".into())).expect("default"), PathBuf::from("/dev/shm/outlast/vm0/api.sock"));
    }

    #[test]
    fn protect_request_leaves_out_what_was_not_given() {
        let request = |epoch: Option<&str>| {
            let epoch = epoch.map(|epoch| epoch.parse().expect("well formed"));
            let args = ProtectArgs { target: "tcp:b:7000".parse().expect("well formed"), epoch };
            serde_json::to_string(&protect_request(args)).expect("plain data")
        };
        assert_eq!(request(Some("10ms")), r#"{"protect":"tcp:b:7000","epoch":"10ms"}"#);
        assert_eq!(request(None), r#"{"protect":"tcp:b:7000"}"#);
    }

    #[test]
    fn absolute_is_what_another_program_finds() {
        assert!(absolute(Path::new("s")).expect("a path").starts_with('/'));
        let strange = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"/s\xff");
        assert_eq!(absolute(Path::new(strange)).expect_err("no text").exit, Exit::Usage);
    }
}
