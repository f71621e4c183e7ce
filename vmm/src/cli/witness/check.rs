//! `outlast witness check`: whether a witness works, what it is made of, and whether another host sees the same one.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use replication::view::Nonce;
use serde::Serialize;

use super::super::ctl::Output;
use super::{answer, nobody};
use crate::config::{TimeSpan, rooted_witness};
use crate::exit::{Exit, Failure};
use protect::witness::{Checkup, Facts, Health, Member, Mount, Trial, WitnessName};

/// Between two looks for what the other host does.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Check that a witness works: write, read back, measure; and what it is made of
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// The witness, as the VM has it, or is to have it
    #[arg(long, value_name = "file:DIR|etcd:URL[,URL…][,credentials=DIR]")]
    witness: WitnessName,
    /// Check too that another host sees the same witness: without a value, says what to type there, and waits; with that
    /// value, finds what the first one left
    #[arg(long, value_name = "VALUE", num_args = 0..=1, require_equals = true)]
    meet: Option<Option<String>>,
    /// How long to wait for the other host
    #[arg(long, value_name = "TIME", default_value = "60s", requires = "meet")]
    timeout: TimeSpan,
    /// Format of the answer
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Checked {
    witness: String,
    /// Of etcd: the cluster's id.
    cluster: Option<String>,
    append_us: u64,
    read_us: u64,
    /// Of a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_system: Option<FileSystem>,
    /// Of etcd.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<MemberLine>,
    /// What an operator should change.
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FileSystem {
    kind: String,
    source: String,
    /// Whether several hosts can have it; none: not known.
    is_shared: Option<bool>,
}

#[derive(Debug, Serialize)]
struct MemberLine {
    address: String,
    version: Option<String>,
    leads: bool,
    error: Option<String>,
}

pub(super) fn execute(args: CheckArgs) -> Result<Exit, Failure> {
    let CheckArgs { witness, meet, timeout, output } = args;
    let witness = rooted_witness(witness);
    let value = meet.map(|value| value.map(|text| nonce_of(&text)).transpose()).transpose()?;
    let checkup = Checkup::open(&witness)?.ok_or_else(|| nobody(&witness))?;
    let trial = checkup.trial()?;
    let checked = Checked::new(&witness, &trial, checkup.facts()?);
    answer(&checked, rows(&checked), output)?;
    match value {
        None => {}
        Some(None) => wait_for_answer(&checkup, &witness, timeout.0)?,
        Some(Some(nonce)) => find(&checkup, &witness, nonce, timeout.0)?,
    }
    Ok(Exit::Ok)
}

impl Checked {
    fn new(witness: &WitnessName, trial: &Trial, facts: Facts) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let warnings = warnings(&facts, trial);
        let (file_system, members) = match facts {
            Facts::Directory(Mount { file_system: kind, source, is_shared }) => {
                (Some(FileSystem { kind, source, is_shared }), Vec::new())
            }
            Facts::Cluster(members) => (None, members.into_iter().map(MemberLine::from).collect()),
        };
        let cluster = trial.id.map(|id| id.to_string());
        let (append_us, read_us) = (micros(trial.append), micros(trial.read));
        Self { witness: witness.to_string(), cluster, append_us, read_us, file_system, members, warnings }
    }
}

impl From<Member> for MemberLine {
    fn from(Member { address, health }: Member) -> Self {
        match health {
            Ok(Health { version, leads, cluster: _, errors }) => {
                let error = (!errors.is_empty()).then(|| errors.join("; "));
                Self { address, version: Some(version), leads, error }
            }
            Err(error) => Self { address, version: None, leads: false, error: Some(error) },
        }
    }
}

fn warnings(facts: &Facts, trial: &Trial) -> Vec<String> {
    match facts {
        Facts::Directory(mount) => of_directory(mount).into_iter().collect(),
        Facts::Cluster(members) => of_cluster(members, trial),
    }
}

fn of_directory(Mount { file_system, source, is_shared }: &Mount) -> Option<String> {
    match is_shared {
        Some(true) => None,
        Some(false) => Some(format!(
            "the directory is on {file_system} ({source}) of this host: no other host sees it, so it is a witness for tests only; \
             use a directory of a server that fails independently of both hosts, or etcd"
        )),
        None => Some(format!(
            "nothing is known here of {file_system} ({source}): make sure that both hosts have it mounted, and check with --meet"
        )),
    }
}

fn of_cluster(members: &[Member], trial: &Trial) -> Vec<String> {
    let mut warnings = Vec::new();
    for Member { address, health } in members {
        match health {
            Err(error) if error.contains(address.as_str()) => warnings.push(error.clone()),
            Err(error) => warnings.push(format!("{address}: {error}")),
            Ok(health) if trial.id.is_some_and(|id| id != health.cluster) => {
                warnings.push(format!("{address} is of another cluster, {}: leave it out", health.cluster));
            }
            Ok(health) => warnings.extend(health.errors.iter().map(|error| format!("{address} reports: {error}"))),
        }
    }
    if members.len() < 3 {
        warnings.push(format!(
            "{} given: with three members of a cluster one may fail, and a client needs the addresses of all",
            if members.len() == 1 { "one address is".into() } else { format!("{} addresses are", members.len()) }
        ));
    }
    warnings
}

fn rows(checked: &Checked) -> Vec<(String, String)> {
    let row = |name: &str, text: String| (name.to_owned(), text);
    let time = |micros: u64| format!("{:.1} ms", micros as f64 / 1e3);
    let mut rows = vec![row("witness", checked.witness.clone())];
    rows.extend(checked.cluster.iter().map(|cluster| row("cluster", cluster.clone())));
    rows.push(row("append", time(checked.append_us)));
    rows.push(row("read", time(checked.read_us)));
    rows.extend(checked.file_system.iter().map(|FileSystem { kind, source, is_shared }| {
        let shared = match is_shared {
            Some(true) => "for several hosts",
            Some(false) => "of this host alone",
            None => "not known whether for several hosts",
        };
        row("file system", format!("{kind}, {source}; {shared}"))
    }));
    rows.extend(checked.members.iter().map(|member| {
        let version = member.version.as_deref().map_or_else(|| "no answer".into(), |version| format!("etcd {version}"));
        let leads = if member.leads { ", leads" } else { "" };
        row("member", format!("{}  {version}{leads}", member.address))
    }));
    rows.extend(checked.warnings.iter().map(|warning| row("warning", warning.clone())));
    rows
}

fn nonce_of(text: &str) -> Result<Nonce, Failure> {
    serde_json::from_value(text.into()).map_err(|_| {
        Failure::new(Exit::Usage, format!("'{text}' is not what --meet left"))
            .with_hint("type the command that `outlast witness check --meet` shows on the other host")
    })
}

/// Leaves a value, and waits until another host has taken it away.
fn wait_for_answer(checkup: &Checkup, witness: &WitnessName, patience: Duration) -> Result<(), Failure> {
    let nonce = checkup.leave()?;
    eprintln!("now on the other host: outlast witness check --witness {witness} --meet={nonce}");
    until(patience, || Ok((!checkup.finds(nonce)?).then_some(())))?.ok_or_else(|| {
        Failure::new(Exit::Timeout, format!("the other host took nothing away within {patience:?}"))
            .with_hint("was the command typed there, and did it find what this one left? Give a longer --timeout")
    })?;
    eprintln!("the other host sees this witness");
    Ok(())
}

/// Finds what another host left, and takes it away.
fn find(checkup: &Checkup, witness: &WitnessName, nonce: Nonce, patience: Duration) -> Result<(), Failure> {
    until(patience, || Ok(checkup.finds(nonce)?.then_some(())))?.ok_or_else(|| {
        Failure::new(Exit::SplitBrain, format!("what the other host left at its witness is not in {witness}"))
            .with_hint(
                "the two hosts do not see the same witness: compare what is mounted there, or the addresses; then begin anew with \
                 --meet, which waits",
            )
    })?;
    checkup.take_away(nonce)?;
    eprintln!("both hosts see this witness");
    Ok(())
}

/// What `look` gives at last; `None`: it does not within `patience`.
fn until<T>(patience: Duration, mut look: impl FnMut() -> Result<Option<T>, Failure>) -> Result<Option<T>, Failure> {
    let begun = Instant::now();
    loop {
        match look()? {
            None if begun.elapsed() < patience => thread::sleep(LOOK_EVERY),
            answer => return Ok(answer),
        }
    }
}
