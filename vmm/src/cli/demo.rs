//! `outlast demo`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{Commands, logging};
use crate::config::{DemoConfig, DemoGuest, LogFormat};
use crate::exit::{Exit, Failure};

/// Show the whole story on one screen: a guest, a backup, a power cut, and a client that loses nothing
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// Directory for report.json, and for the logs if it fails
    #[arg(long, value_name = "DIR", default_value = "target/demo", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Seed of the random moments; the summary shows it [default: a new one]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Root file system of the guest; the kernel is Debian's stock cloud kernel with either [default: debian, busybox
    /// on a busy machine]
    #[arg(long, value_enum)]
    guest: Option<DemoGuest>,
}

pub(super) fn execute(args: DemoArgs, commands: &dyn Commands) -> Result<Exit, Failure> {
    logging::start_at(LogFormat::Text, "info");
    let DemoArgs { out, seed, guest } = args;
    commands.demo(DemoConfig { out, seed, guest })
}
