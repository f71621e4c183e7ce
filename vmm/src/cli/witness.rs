//! `outlast witness`: what a witness has of a VM, and whether it is fit to be one.

mod check;
mod show;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::answer::print;
use super::ctl::Output;
use crate::exit::{Exit, Failure};
use protect::witness::WitnessName;

const EXAMPLES: &str = "\
Examples:
  outlast witness check --witness file:/shared/witness
  outlast witness check --witness etcd:https://e1:2379,https://e2:2379,credentials=/etc/outlast/etcd
  outlast witness show --witness file:/shared/witness --name vm0

Exit codes:
  0 done, 1 the witness failed, 2 wrong request, 3 there is no such directory or no such VM,
  5 no answer in time, 6 another host does not see this witness.";

/// Look at a witness: what it has of a VM, and whether it works
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct WitnessArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Show(show::ShowArgs),
    Check(check::CheckArgs),
}

pub(super) fn execute(args: WitnessArgs) -> Result<Exit, Failure> {
    match args.verb {
        Verb::Show(args) => show::execute(args),
        Verb::Check(args) => check::execute(args),
    }
}

fn answer(shown: &impl Serialize, rows: Vec<(String, String)>, output: Output) -> Result<(), Failure> {
    let text = match output {
        Output::Table => super::table::of_rows(&rows),
        Output::Json => format!("{:#}\n", serde_json::to_value(shown).expect("it has string keys only")),
    };
    print(text.as_bytes())
}

fn nobody(witness: &WitnessName) -> Failure {
    Failure::new(Exit::Usage, format!("there is nothing to look at in --witness {witness}"))
        .with_hint("give --witness file:DIR or etcd:URL[,URL…], as the VM has it")
}
