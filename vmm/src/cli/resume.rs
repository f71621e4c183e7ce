//! `outlast resume`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueHint};
use replication::Term;

use super::{Commands, Named, logging};
use crate::config::{Endpoint, VmConfig};
use crate::exit::{Exit, Failure};
use crate::protect::Life;

const EXAMPLES: &str = "\
The VM must have run with `--protect local`, and its VMM must be gone: killed, crashed, or lost with the host's kernel
where the state directory survives that. Everything it was configured with is taken from `vm.json` there.

Of a VM that had a backup too, the witness is asked first, and at most one of the two sides goes on. If the backup did, nothing
is run here, and the exit code is 6. The backup is connected to again, and filled.

What goes on is the last committed epoch: memory, devices and disks of one moment. All that anybody was shown had been
committed before. Output of that epoch may be repeated. The guest's clock goes on from where it was.

Examples:
    outlast run … --name vm0 --protect local      # and later its VMM is killed
    outlast resume --name vm0
    outlast resume --state-dir /mnt/pmem/vm0

Exit codes are those of `outlast run`; 3: there is nothing to resume, 4: it runs already, 5: the witness does not
answer, 6: the backup went on or may have gone on, 163: what is there cannot be used.";

/// Go on with a VM whose VMM or host crashed, from its last committed epoch
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("which").required(true))]
pub(super) struct ResumeArgs {
    /// The VM's name, when its state directory is the default one
    #[arg(long, group = "which")]
    name: Option<String>,
    /// Its state directory
    #[arg(long, value_name = "DIR", group = "which", value_hint = ValueHint::DirPath)]
    state_dir: Option<PathBuf>,
    /// DANGEROUS: with `--witness none` nobody can tell whether the VM's backup went on with the guest; this says that it
    /// neither did nor will. If that is wrong, two guests run. A witness's answer is not overruled by it
    #[arg(long)]
    backup_is_gone: bool,
    /// DANGEROUS: says that a place is dead which the witness lists, by the id in the message that refused; repeatable. If it
    /// lives, two guests run until it learns of this; what it wrote since is given up
    #[arg(long, value_name = "ID")]
    dead: Vec<String>,
    /// Boot it anew: how this program goes on after a crash of its guest
    #[arg(long, hide = true, requires = "term")]
    boot: bool,
    /// Of --boot: the primary's term
    #[arg(long, hide = true)]
    term: Option<u64>,
    /// Of --boot: the backup to fill
    #[arg(long, hide = true)]
    target: Option<Endpoint>,
}

pub(super) fn execute(args: ResumeArgs, commands: &dyn Commands) -> Result<Exit, Failure> {
    let ResumeArgs { name, state_dir, backup_is_gone, dead, boot, term, target } = args;
    let config = VmConfig::of_state_dir(name.as_deref(), state_dir).map_err(|error| match Failure::from(error) {
        failure if failure.exit == Exit::NotFound => failure.with_hint(
            "there is no such VM; a VM that runs with `--protect local` leaves its state in /dev/shm/outlast/NAME or its --state-dir",
        ),
        failure => failure,
    })?;
    logging::start(config.log_format);
    logging::warn_each(&config.name, &config.warnings());
    match (boot, term) {
        (true, Some(term)) => commands.boot_again(config, Life { term: Term(term), target }),
        _ => commands.resume(config, Named { dead, backup_is_gone }),
    }
}
