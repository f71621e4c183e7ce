//! Opening what a configuration names: disks, taps, the console.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;

use snapshot::disk::OverlayDisk;

use super::outlet;
use crate::config::{Console, DeviceConfig, NetConfig};
use crate::exit::{Exit, Failure};
use machine::net::Tap;
use machine::{Card, Parts};

/// Everything opened; nothing connected yet.
pub(super) struct HostParts {
    pub(super) disks: Vec<OverlayDisk>,
    nets: Vec<(NetConfig, Arc<Tap>)>,
    console: Option<Box<dyn Write + Send>>,
    stdin: bool,
    balloon: bool,
}

/// What feeds input to a machine: the tap of each network slot, and whether the console is this process's own.
pub(super) struct Inputs {
    pub(super) taps: Vec<(usize, Arc<Tap>)>,
    pub(super) stdin: bool,
}

/// Opens disks, taps and the console, in this order; the first failure is the answer and nothing stays open.
pub(super) fn open(DeviceConfig { disks, nets, console, balloon }: &DeviceConfig) -> Result<HostParts, Failure> {
    let disks = disks.iter().map(|d| Ok(OverlayDisk::open(&d.path, d.readonly)?)).collect::<Result<_, Failure>>()?;
    let nets = nets.iter().map(|n| Ok((n.clone(), Arc::new(Tap::open(&n.tap)?)))).collect::<Result<_, Failure>>()?;
    let (console, stdin) = open_console(console)?;
    Ok(HostParts { disks, nets, console, stdin, balloon: !balloon.is_off() })
}

fn open_console(console: &Console) -> Result<(Option<Box<dyn Write + Send>>, bool), Failure> {
    match console {
        Console::Stdio => {
            // Not `Stdout`: a writer that is stuck would keep its lock.
            let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(|error| {
                Failure::new(Exit::Error, format!("cannot use standard output as the console: {error}"))
                    .with_hint("give --console file=PATH or --console off")
            })?;
            Ok((Some(Box::new(File::from(stdout))), true))
        }
        Console::Off => Ok((None, false)),
        Console::File(path) => {
            let file = outlet::open(path).map_err(|error| {
                Failure::new(Exit::Error, format!("cannot open the console file {}: {error}", path.display()))
                    .with_hint("check that its directory exists and can be written")
            })?;
            Ok((Some(Box::new(file)), false))
        }
    }
}

impl HostParts {
    /// Splits into the machine's side and the readers' side.
    pub(super) fn split(self) -> (Parts, Inputs) {
        let Self { disks, nets, console, stdin, balloon } = self;
        let taps = nets.iter().enumerate().map(|(i, (_, tap))| (disks.len() + i, Arc::clone(tap))).collect();
        let card =
            |(NetConfig { tap: _, mac, offload }, tap)| Card { mac: mac.0, has_offloads: offload, tap: Some(tap) };
        let nets = nets.into_iter().map(card).collect();
        (Parts { disks, nets, console, balloon }, Inputs { taps, stdin })
    }
}
