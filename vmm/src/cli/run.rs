//! `outlast run`.

use clap::Args;

use super::author::author;
use super::{Commands, Dead, Named, logging};
use crate::config::{RunOptions, VmConfig, with_file};
use crate::exit::{Exit, Failure};

const EXAMPLES: &str = "\
Sizes are whole numbers with K, M or G; times are whole numbers with us, ms or s.

Examples:
  A VM without protection, with its console in this terminal:
    outlast run --name vm0 --kernel vmlinuz --initramfs initrd.img \\
      --cmdline 'console=ttyS0 root=/dev/vda' --memory 512M --disk path=root.img

  The same with a network interface (once: ip tuntap add tap0 mode tap; ip link set tap0 up):
    outlast run … --net tap=tap0

  Protected by a backup on another host, whose address for replication is 10.78.0.2.
  First, on that host:
    outlast backup --listen tcp:10.78.0.2:7000 --name vm0 --disk path=replica.img --net tap=tap0 \\
      --witness file:/shared/witness --tls-dir /etc/outlast/tls
  then here:
    outlast run … --protect tcp:10.78.0.2:7000 --witness file:/shared/witness --tls-dir /etc/outlast/tls
  On a network that only the two hosts reach, tcp:10.78.0.2:7000,clear on both sides does
  without certificates.

  A guest that goes back to an earlier epoch when it crashes, and loses what it acknowledged since:
    outlast run … --protect local --on-guest-panic rollback --retain 6

  Options from a file, with another epoch length:
    outlast run --config vm0.toml --epoch 10ms

  where vm0.toml is, for example:
    name = \"vm0\"
    kernel = \"vmlinuz\"
    memory = \"512M\"
    protect = [\"tcp:10.78.0.2:7000\"]
    witness = \"file:/shared/witness\"
    tls-dir = \"/etc/outlast/tls\"
    [[disk]]
    path = \"root.img\"
    [[net]]
    tap = \"tap0\"

  To see how the VM is doing:
    outlast ctl --name vm0 status

Exit codes: 0 after a power-off or reset by the guest or `outlast ctl stop`; 160 self-fenced,
163 state incompatible, 164 the guest crashed, 165 a mapped file lost its pages; others as in `outlast --help`.";

/// Run a VM, alone or protected, until it ends
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    options: RunOptions,
    #[command(flatten, next_help_heading = "Protection")]
    dead: Dead,
}

pub(super) fn execute(args: RunArgs, commands: &dyn Commands) -> Result<Exit, Failure> {
    let RunArgs { options, dead: Dead { dead, why } } = args;
    let config = VmConfig::try_from(with_file(options)?)?;
    logging::start(&config.control);
    logging::warn_each(&config.name, &config.warnings());
    commands.run(config, Named { dead, who: author(), why, ..Named::default() })
}
