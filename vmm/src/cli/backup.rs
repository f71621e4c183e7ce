//! `outlast backup`.

use clap::Args;

use super::{Commands, logging};
use crate::config::{BackupOptions, BackupVmConfig, with_file};
use crate::exit::{Exit, Failure};

const EXAMPLES: &str = "\
Example, on a host whose address for replication is 10.78.0.2:
  outlast backup --listen tcp:10.78.0.2:7000 --name vm0 --disk path=replica.img --net tap=tap0 \\
    --witness file:/shared/witness --tls-dir /etc/outlast/tls

The two sides speak TLS with the certificates in --tls-dir; docs/TUTORIAL.md makes them.
Without it, give --listen tcp:10.78.0.2:7000,clear on a network that only the two hosts
reach, never all addresses.

The replica of a disk must be exactly as long as the primary's: `truncate -s 10G replica.img`
is enough, the primary fills in the content. A read-only disk is not replicated: copy it
before. Start the backup first, then `outlast run … --protect tcp:HOST:PORT`.

The backup ends when the guest ends, on either side, or with `outlast ctl stop`. It takes
over only if the witness gives it the guest. While the witness does not answer, it asks again,
and the guest does not run here. If the primary continues without it, the backup keeps its
last complete epoch and waits until a primary fills it again.

After a takeover the guest runs without a backup until one answers at --protect, or until
`outlast ctl protect tcp:HOST:PORT`. Two hosts may each name the other.";

/// Wait as the backup of a VM on another host, and take over when that host is lost
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    options: BackupOptions,
}

pub(super) fn execute(args: BackupArgs, commands: &dyn Commands) -> Result<Exit, Failure> {
    let config = BackupVmConfig::try_from(with_file(args.options)?)?;
    logging::start(&config.control);
    logging::warn_each(&config.name, &config.warnings());
    commands.backup(config)
}
