//! The command line. Each subcommand is one file; this one only tells them apart.
//!
//! What runs a machine is behind [`Commands`], so that the command line can be tested without one.

mod answer;
mod author;
mod backup;
mod bench;
mod ctl;
mod demo;
mod doctor;
mod list;
pub mod logging;
mod resume;
mod run;
mod table;
mod wait;
mod witness;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use snapshot::statedir::{Finding, StateDir};

pub use answer::print;

use crate::config::{BackupVmConfig, DemoConfig, VmConfig};
use crate::exit::{Exit, Failure, report};
use protect::witness::WitnessName;

/// What the command line hands over to, with everything checked that can be checked without the machine.
pub trait Commands {
    /// Runs a VM until it ends. `_named`: what nothing proves, and the operator says.
    fn run(&self, _config: VmConfig, _named: Named) -> Result<Exit, Failure> {
        Err(Failure::not_in_this_version("outlast run"))
    }

    /// Continues a VM whose VMM ended, by what was found in its state directory.
    fn resume(&self, _config: VmConfig, _found: (StateDir, Finding), _named: Named) -> Result<Exit, Failure> {
        Err(Failure::not_in_this_version("outlast resume"))
    }

    /// Waits as the backup of a VM, and runs it after a takeover until it ends.
    fn backup(&self, _config: BackupVmConfig) -> Result<Exit, Failure> {
        Err(Failure::not_in_this_version("outlast backup"))
    }

    /// Shows the whole story.
    fn demo(&self, _config: DemoConfig) -> Result<Exit, Failure> {
        Err(Failure::not_in_this_version("outlast demo"))
    }
}

/// What an operator says that nothing proves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Places at the witness that are dead, by the beginnings of their ids.
    pub dead: Vec<String>,
    /// The witness from now on, because the old one is gone.
    pub witness: Option<WitnessName>,
    /// Who says so, for the record.
    pub who: String,
    /// And why.
    pub why: Option<String>,
    /// Where there is no witness: that the backup did not continue the guest.
    pub backup_is_gone: bool,
}

/// What `run` and `resume` take of it.
#[derive(Args, Debug)]
struct Dead {
    /// DANGEROUS: declares a place that the witness lists to be dead, by the id in the message of refusal; repeatable.
    /// If it is alive, two guests run until it finds out; what it wrote since is lost
    #[arg(long, value_name = "ID")]
    dead: Vec<String>,
    /// Why --dead is said, for the record at the witness
    #[arg(long, value_name = "TEXT", requires = "dead")]
    why: Option<String>,
}

/// A virtual machine monitor whose guests outlast the machine they run on
#[derive(Debug, Parser)]
#[command(name = "outlast", bin_name = "outlast", version, about, after_help = AFTER_HELP, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 timeout,
  6 refused to avoid split brain, 160 self-fenced,
  163 state incompatible, 164 the guest crashed, 165 a mapped file lost its pages.

Start with `outlast doctor`: it shows what this host can do.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Backup(Box<backup::BackupArgs>),
    Ctl(ctl::CtlArgs),
    Doctor(doctor::DoctorArgs),
    Bench(bench::BenchArgs),
    Demo(demo::DemoArgs),
    Resume(resume::ResumeArgs),
    Witness(witness::WitnessArgs),
}

/// Runs the command line of this process.
pub fn main(commands: &dyn Commands) -> ExitCode {
    match Cli::try_parse_from(std::env::args_os()) {
        Ok(cli) => report(dispatch(cli.command, commands)),
        Err(error) => refuse(&error),
    }
}

/// Says what is wrong with a command line, or what it asks to be told, and gives the code to end with.
pub fn refuse(error: &clap::Error) -> ExitCode {
    // Help and version go to standard output and are no error.
    let printed = error.print().and_then(|()| std::io::stdout().flush());
    match answer::judge(printed) {
        Err(failure) if !error.use_stderr() => report(Err(failure)),
        _ => ExitCode::from(error.exit_code() as u8),
    }
}

fn dispatch(command: Command, commands: &dyn Commands) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => run::execute(*args, commands),
        Command::Backup(args) => backup::execute(*args, commands),
        Command::Ctl(args) => ctl::execute(args),
        Command::Doctor(args) => doctor::execute(args),
        Command::Bench(args) => bench::execute(args),
        Command::Demo(args) => demo::execute(args, commands),
        Command::Resume(args) => resume::execute(args, commands),
        Command::Witness(args) => witness::execute(args),
    }
}

/// Parses `args` (with the program's name in front) and does what they say. For tests.
pub fn execute_from(args: impl IntoIterator<Item: Into<OsString> + Clone>, to: &dyn Commands) -> Result<Exit, Failure> {
    match Cli::try_parse_from(args) {
        Ok(cli) => dispatch(cli.command, to),
        Err(error) => Err(Failure::new(Exit::Usage, error.to_string())),
    }
}
