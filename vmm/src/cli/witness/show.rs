//! `outlast witness show`: the register of a VM, and what a start here would be answered.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use replication::view::evidence::Statement;
use replication::view::{Entry, Place, Record, Standing};
use serde::Serialize;

use super::super::ctl::Output;
use super::{answer, nobody};
use crate::config::{VmConfig, rooted_witness};
use crate::exit::{Exit, Failure};
use protect::local::LocalStore;
use protect::witness::WitnessName;
use protect::{Inspection, StartAnswer};

/// Show the register of a VM: who may run it, by which record, and what `outlast run` would be answered here
#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// The witness, as the VM has it
    #[arg(long, value_name = "file:DIR|etcd:URL[,URL…][,credentials=DIR]")]
    witness: WitnessName,
    /// Name of the VM
    #[arg(long)]
    name: String,
    /// State directory in which it would be started here [default: the default place for that name]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    state_dir: Option<PathBuf>,
    /// Format of the answer
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What is shown.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    witness: String,
    /// Of etcd: the cluster's id.
    cluster: Option<String>,
    records: Vec<&'a Record>,
    /// Places of the newest record that a statement says are gone, and joins that came to nothing.
    stated: Vec<String>,
    start: Start,
}

/// What a start would be answered.
#[derive(Debug, Serialize)]
struct Start {
    /// The code that `outlast run` would end with; 0: it would run the guest.
    exit: u8,
    message: String,
    hint: Option<String>,
}

pub(super) fn execute(args: ShowArgs) -> Result<Exit, Failure> {
    let ShowArgs { witness, name, state_dir, output } = args;
    let witness = rooted_witness(witness);
    let dir = VmConfig::state_dir_of(Some(&name), state_dir)?;
    let inspection = Inspection::of(&name, &witness, &dir, LocalStore::is_in(&dir))?.ok_or_else(|| nobody(&witness))?;
    if inspection.records.is_empty() {
        return Err(Failure::new(Exit::NotFound, format!("the witness {witness} has no record of {name}")).with_hint(
            "is it the witness that the VM was started with, and the VM's --name? A start here begins its register",
        ));
    }
    let shown = Shown {
        name: &name,
        witness: witness.to_string(),
        cluster: inspection.witness.map(|id| id.to_string()),
        records: inspection.records.iter().map(|entry| &entry.record).collect(),
        stated: inspection.stated.iter().map(stated).collect(),
        start: start(&inspection.start, &dir.display().to_string()),
    };
    answer(&shown, rows(&shown, &inspection.records), output)?;
    Ok(Exit::Ok)
}

fn start(answer: &StartAnswer, dir: &str) -> Start {
    let refused = |failure: Failure| Start { exit: failure.exit as u8, message: failure.message, hint: failure.hint };
    match answer {
        StartAnswer::Granted(record) => {
            Start { exit: 0, message: format!("granted: it would append record {}", record.number), hint: None }
        }
        StartAnswer::Refused(error) => refused(Failure::of(&**error)),
        StartAnswer::InUse => refused(Failure::new(
            Exit::Conflict,
            format!("a process runs in the state directory {dir}; another start there is refused"),
        )),
    }
}

fn stated(statement: &Statement) -> String {
    match statement {
        Statement::Dead(id) => format!("{} is gone, as a later process on its host found", short(id)),
        Statement::Void(join) => format!("the backup of join {} was not whole, and can never be", short(join)),
    }
}

/// Enough of an id for people to tell it from others, and for `--dead`.
fn short(id: &impl ToString) -> String {
    id.to_string()[..8].to_owned()
}

fn rows(shown: &Shown<'_>, records: &[Entry]) -> Vec<(String, String)> {
    let row = |name: &str, text: String| (name.to_owned(), text);
    let register = records.first().map(|entry| entry.record.register.to_string());
    let mut rows = vec![row("register", register.unwrap_or_default())];
    rows.extend(shown.cluster.iter().map(|cluster| row("cluster", cluster.clone())));
    for (at, Entry { record, .. }) in records.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| &records[before].record);
        rows.push((format!("record {}", record.number), line(record, before)));
        rows.extend(
            record.store.as_ref().filter(|_| is_new(record, before)).map(|store| place("", "commits to", store)),
        );
        rows.extend(record.backups.iter().map(|member| {
            let (name, text) = place("", "backup", &member.place);
            (name, format!("{text}, join {}", short(&member.join)))
        }));
        if !record.named_dead.is_empty() {
            let named: Vec<_> = record.named_dead.iter().map(short).collect();
            rows.push(row("", format!("an operator named as dead: {}", named.join(", "))));
        }
    }
    rows.extend(shown.stated.iter().map(|text| row("stated", text.clone())));
    let Start { exit, message, hint } = &shown.start;
    let message = if *exit == 0 { message.clone() } else { format!("refused with code {exit}: {message}") };
    rows.push(row("start here", message));
    rows.extend(hint.iter().map(|hint| row("", format!("hint: {hint}"))));
    rows
}

fn is_new(record: &Record, before: Option<&Record>) -> bool {
    before.is_none_or(|before| before.branch != record.branch || before.store != record.store)
}

fn place(name: &str, what: &str, place: &Place) -> (String, String) {
    let Place { location, .. } = place;
    (name.to_owned(), format!("{what}: {place}, lock {}", location.lock))
}

/// What a record says in one line.
fn line(record: &Record, before: Option<&Record>) -> String {
    let standing = match record.standing {
        Standing::Running => "running",
        Standing::Ended => "ended",
    };
    let branch = if before.is_some_and(|before| before.branch == record.branch) {
        format!("branch {}", record.branch)
    } else {
        match (record.parent, record.fork) {
            (Some(parent), Some(fork)) => {
                format!("branch {} begins, from epoch {} of branch {parent}", record.branch, fork.count())
            }
            _ => format!("branch {} begins, a boot", record.branch),
        }
    };
    format!("{standing}, {branch}; {}", record.primary)
}
