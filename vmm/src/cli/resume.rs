//! `outlast resume`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueHint};
use snapshot::statedir::StateDir;

use super::author::author;
use super::{Commands, Dead, Named, logging};
use crate::config::{VmConfig, rooted_witness};
use crate::exit::{Exit, Failure};
use protect::witness::WitnessName;

const EXAMPLES: &str = "\
The VM must have run with `--protect local`, and its VMM must be gone: killed, crashed, or
lost with the host's kernel if the state directory survives that. All that is needed is in the
state directory. A guest that was being reset after a crash boots, with any protection.

If the VM also had a backup, the witness decides, and at most one of the two sides continues
the guest. If the backup has it, nothing is run here, and the exit code is 6. Otherwise this
side connects to the backup and fills it again.

The guest continues from its last committed epoch: memory, devices and disks of one moment.
Everything that clients had seen was committed before. Output of that epoch may be repeated.
The guest's clock continues from where it was.

Examples:
    outlast run … --name vm0 --protect local      # and later its VMM is killed
    outlast resume --name vm0
    outlast resume --state-dir /mnt/pmem/vm0

Exit codes are those of `outlast run`, and:
  3 there is nothing to resume, 4 it runs already, 5 the witness does not answer,
  6 the backup continued the guest or may have, 163 the state directory cannot be used.";

/// Continue a VM whose VMM or host crashed, from its last committed epoch
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("which").required(true))]
pub(super) struct ResumeArgs {
    /// Name of the VM, if its state directory is at the default place
    #[arg(long, group = "which")]
    name: Option<String>,
    /// State directory of the VM
    #[arg(long, value_name = "DIR", group = "which", value_hint = ValueHint::DirPath)]
    state_dir: Option<PathBuf>,
    /// Directory with certificates for TLS with its backup, see `outlast run --help` [default: as it ran before]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    tls_dir: Option<PathBuf>,
    /// DANGEROUS: declares that the VM's backup neither continued the guest nor will. Only for a VM with `--witness
    /// none`, where nothing else can tell. If it is wrong, two guests run. It does not overrule a witness
    #[arg(long)]
    backup_is_gone: bool,
    #[command(flatten)]
    dead: Dead,
    /// DANGEROUS: the witness from now on, because the old one is gone for good or was restored. Name every other place that the newest
    /// view lists with --dead. If somebody else does the same elsewhere, two guests run
    #[arg(long, value_name = "file:DIR|etcd:URL[,URL…]", requires = "dead")]
    witness: Option<WitnessName>,
}

pub(super) fn execute(args: ResumeArgs, commands: &dyn Commands) -> Result<Exit, Failure> {
    let ResumeArgs { name, state_dir, tls_dir, backup_is_gone, dead: Dead { dead, why }, witness } = args;
    let dir = StateDir::open(&VmConfig::state_dir_of(name.as_deref(), state_dir)?)?;
    let found = dir.find()?;
    let mut config = VmConfig::of_state_dir(&found.config, dir.path())?;
    config.detection.name_tls_dir(tls_dir);
    logging::start(&config.control);
    logging::warn_each(&config.name, &config.warnings());
    commands.resume(
        config,
        (dir, found),
        Named { dead, witness: witness.map(rooted_witness), who: author(), why, backup_is_gone },
    )
}
