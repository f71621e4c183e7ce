//! `outlast run`.

use clap::Args;

use super::{Commands, logging};
use crate::config::{RunOptions, VmConfig, read_options};
use crate::exit::{Exit, Failure};

const EXAMPLES: &str = "\
Sizes are whole numbers with K, M or G; times are whole numbers with us, ms or s.

Examples:
  A VM, nothing protected, console here:
    outlast run --name vm0 --kernel vmlinuz --initramfs initrd.img --cmdline 'console=ttyS0 root=/dev/vda' \\
      --memory 512M --disk path=root.img

  The same with a network interface (once: ip tuntap add tap0 mode tap; ip link set tap0 up):
    outlast run … --net tap=tap0

  Protected by a backup on another host, whose address for replication is 10.78.0.2. There, first:
    outlast backup --listen tcp:10.78.0.2:7000 --name vm0 --disk path=replica.img --net tap=tap0 \\
      --witness file:/shared/witness
  and here:
    outlast run … --protect tcp:10.78.0.2:7000 --witness file:/shared/witness
  Replication is not encrypted: give --listen the address of a network that only the two hosts reach.

  A guest that crashes goes back to an earlier epoch, and what it acknowledged since then is lost:
    outlast run … --protect local --on-guest-panic rollback --retain 6

  The same from a file, with another epoch length:
    outlast run --config vm0.toml --epoch 10ms

  A vm0.toml:
    name = \"vm0\"
    kernel = \"vmlinuz\"
    memory = \"512M\"
    protect = [\"tcp:10.78.0.2:7000\"]
    witness = \"file:/shared/witness\"
    [[disk]]
    path = \"root.img\"
    [[net]]
    tap = \"tap0\"

  What it does meanwhile:
    outlast ctl --name vm0 status

The guest ends by power-off or reset (exit code 0), by `outlast ctl stop`, or with the VMM's own codes:
160 self-fenced, 163 state incompatible, 164 the guest crashed.";

/// Run a VM, alone or protected, until it ends
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    options: RunOptions,
    /// DANGEROUS: says that a place is dead which the witness lists, by the id in the message that refused; repeatable. If it
    /// lives, two guests run until it learns of this; what it wrote since is given up
    #[arg(long, help_heading = "Protection", value_name = "ID")]
    dead: Vec<String>,
}

pub(super) fn execute(args: RunArgs, commands: &dyn Commands) -> Result<Exit, Failure> {
    let RunArgs { options, dead } = args;
    let config = checked(options)?;
    logging::start(config.log_format);
    logging::warn_each(&config.name, &config.warnings());
    commands.run(config, dead)
}

/// Flags over the file, then the checks.
fn checked(flags: RunOptions) -> Result<VmConfig, Failure> {
    let typed = match &flags.config {
        Some(path) => {
            let file = read_options(path)?;
            flags.over(file)
        }
        None => flags,
    };
    Ok(VmConfig::try_from(typed)?)
}
