//! How this process serves the verbs of the control interface.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use outlast_api::{
    Action, ActionType, Event, Fault, GoalState, Info, Occurrence, PrometheusText, ProtectRequest, Protection, Service,
    Since, Snapshot, SnapshotRequest, Status, Switchover, SwitchoverRequest, TakeOverRequest, Version, VmState,
    WitnessRequest, metrics, openapi, verbs,
};
use serde_json::Value;

use super::node::{Node, Role, paused};
use crate::config::{EpochLength, Protect, TimeSpan};
use crate::exit::{Exit, Failure};
use machine::End;
use machine::checkpoint::CheckpointFailure;
use machine::gate::NotHeld;
use protect::witness::WitnessName;
use protect::{HandedOver, Named};

/// How long a snapshot waits for the guest to stop: shorter than `outlast ctl` waits for its answer.
const STOP_TIME_MAX: Duration = Duration::from_secs(30);

impl Service<verbs::GetRoot> for Node {
    fn serve(&self, (): ()) -> Result<Info, Fault> {
        Ok(self.info())
    }
}

impl Service<verbs::GetVm> for Node {
    fn serve(&self, (): ()) -> Result<Info, Fault> {
        Ok(self.info())
    }
}

impl Service<verbs::GetVersion> for Node {
    fn serve(&self, (): ()) -> Result<Version, Fault> {
        Ok(Version { version: env!("CARGO_PKG_VERSION").into() })
    }
}

impl Service<verbs::GetOpenapi> for Node {
    fn serve(&self, (): ()) -> Result<Value, Fault> {
        Ok(openapi::document())
    }
}

impl Service<verbs::GetFt> for Node {
    fn serve(&self, (): ()) -> Result<Status, Fault> {
        Ok(self.status())
    }
}

impl Service<verbs::GetMetrics> for Node {
    fn serve(&self, (): ()) -> Result<PrometheusText, Fault> {
        Ok(PrometheusText(metrics::text(&self.status())))
    }
}

impl Service<verbs::DeleteMetrics> for Node {
    fn serve(&self, (): ()) -> Result<(), Fault> {
        self.running()?.0.stats().reset_distributions();
        Ok(())
    }
}

impl Service<verbs::GetEvents> for Node {
    fn serve(&self, Since { since }: Since) -> Result<Vec<Event>, Fault> {
        Ok(self.events.since(since))
    }
}

impl Service<verbs::PatchVm> for Node {
    fn serve(&self, VmState { state }: VmState) -> Result<(), Fault> {
        match state {
            GoalState::Paused => self.pause(),
            GoalState::Resumed => self.resume(),
        }
    }
}

impl Service<verbs::PutAction> for Node {
    fn serve(&self, Action { action_type }: Action) -> Result<(), Fault> {
        match action_type {
            ActionType::Stop => self.stop_to_the_end(),
        }
    }
}

impl Service<verbs::DeleteFt> for Node {
    fn serve(&self, (): ()) -> Result<(), Fault> {
        self.running()?.1.unprotect("the operator ended protection");
        Ok(())
    }
}

impl Service<verbs::PutTakeOver> for Node {
    fn serve(&self, TakeOverRequest { dead, witness, who, why }: TakeOverRequest) -> Result<(), Fault> {
        let witness = witness.as_deref().map(|text| parse_witness("PUT /ft/take-over", text)).transpose()?;
        let named = Named { dead, witness, word: super::word(who.unwrap_or_default(), why) };
        match self.role() {
            Role::Backup(view) => Ok(view.fail_over(named).map_err(Failure::from)?),
            Role::Primary { .. } => Err(Fault::conflict("the guest runs here already")),
        }
    }
}

impl Service<verbs::PutSwitchover> for Node {
    fn serve(&self, SwitchoverRequest { back }: SwitchoverRequest) -> Result<Switchover, Fault> {
        let HandedOver { holder, stood } = self.running()?.1.hand_over(back).map_err(Failure::from)?;
        Ok(Switchover { holder, stood_ms: stood.as_secs_f64() * 1e3 })
    }
}

impl Service<verbs::PutWitness> for Node {
    fn serve(&self, WitnessRequest { witness, dead, who, why }: WitnessRequest) -> Result<(), Fault> {
        let to = parse_witness("PUT /ft/witness", &witness)?;
        let is_override = !dead.is_empty() || why.is_some();
        let named = is_override.then(|| Named { dead, witness: None, word: super::word(who.unwrap_or_default(), why) });
        match self.role() {
            Role::Primary { guardian, .. } => {
                Ok(guardian.exchange_witness(&to, named.as_ref()).map_err(Failure::from)?)
            }
            Role::Backup(_) if named.is_some() => Err(Fault::conflict(
                "a backup names nobody dead to get another witness",
            )
            .with_hint("to run its copy by another witness: `outlast ctl take-over --dead ID --witness WITNESS`")),
            Role::Backup(view) => Ok(view.use_witness(&to).map_err(Failure::from)?),
        }
    }
}

fn parse_witness(verb: &str, text: &str) -> Result<WitnessName, Fault> {
    text.parse().map_err(|why| Fault::bad_request(format!("{verb}: witness '{text}': {why}")))
}

impl Service<verbs::PutSnapshot> for Node {
    fn serve(&self, SnapshotRequest { snapshot_path }: SnapshotRequest) -> Result<Snapshot, Fault> {
        let (machine, guardian) = self.running()?;
        // Before the guest stands still for it.
        let place = machine.prepare_checkpoint(snapshot_path.as_ref()).map_err(Failure::from)?;
        let started = Instant::now();
        let held = machine.gate().hold_until(started + STOP_TIME_MAX).map_err(|not_held| match not_held {
            NotHeld::Ended => Fault::conflict("the machine has ended"),
            NotHeld::TooLate => Fault::new(
                Exit::Timeout,
                format!("no snapshot was made: within {} s the guest could not be stopped", STOP_TIME_MAX.as_secs()),
            )
            .with_hint("look at the storage of its disks"),
        })?;
        let bytes = machine.write_checkpoint(&place).map_err(Failure::from)?;
        let (epoch, is_paused) = (machine.epochs().running(), machine.is_paused());
        drop(held);
        let pause_ms = started.elapsed().as_secs_f64() * 1e3;
        guardian.commit_snapshot(epoch, is_paused).map_err(Failure::from)?;
        place.publish().map_err(CheckpointFailure::from).map_err(Failure::from)?;
        Ok(Snapshot { path: snapshot_path, bytes, pause_ms })
    }
}

impl Service<verbs::PutFt> for Node {
    fn serve(&self, request: ProtectRequest) -> Result<Option<Protection>, Fault> {
        let (protect, epoch) = parse(&request)?;
        let (machine, guardian) = self.running()?;
        let Protect::Backup(target) = protect else {
            let what = "protecting a running VM other than by tcp:HOST:PORT or unix:PATH";
            return Err(Failure::not_in_this_version(what).into());
        };
        if self.described().lacks_witness {
            return Err(Fault::conflict("this VM was started without --witness, and a backup needs one to be named")
                .with_hint("stop it and start it with --witness file:DIR, or with --witness none if you accept that a network cut makes two guests"));
        }
        if let Some(epoch) = epoch {
            check_epoch(epoch, machine.pacer().min_epoch())?;
        }
        let already = guardian.protect(target).map_err(Failure::from)?;
        // Only now: a request that is refused changes nothing.
        if let Some(epoch) = epoch {
            machine.pacer().set_length(epoch.into());
        }
        Ok(already.map(|already| Protection { already }))
    }
}

impl Node {
    /// Stops the guest at a boundary; returns when that is committed. Pausing a paused VM is fine.
    fn pause(&self) -> Result<(), Fault> {
        let (machine, guardian) = self.running()?;
        if machine.is_paused() {
            return Ok(());
        }
        self.pausing.store(true, Ordering::Release);
        let done = guardian.pause();
        self.pausing.store(false, Ordering::Release);
        done.map_err(Failure::from)?;
        self.events.note(paused(false));
        Ok(())
    }

    /// Runs the guest on. Resuming a running VM is fine.
    fn resume(&self) -> Result<(), Fault> {
        let (machine, guardian) = self.running()?;
        if machine.is_paused() {
            self.events.note(Occurrence::Unpaused {});
            guardian.unpause().map_err(Failure::from)?;
        }
        Ok(())
    }

    /// Ends the VM cleanly. Returns when that is under way.
    pub(super) fn stop(&self) {
        match self.role() {
            Role::Primary { machine, .. } => machine.end(End::Stopped),
            Role::Backup(view) => view.stop(),
        }
    }

    /// The same; of a guest that runs here it returns when it is known what became of it.
    fn stop_to_the_end(&self) -> Result<(), Fault> {
        if let Role::Backup(view) = self.role()
            && view.inherits()
        {
            return Err(Fault::conflict(
                "this backup was offered the guest, and cannot leave before the witness has said whose it is",
            )
            .with_hint(
                "make the witness answer, and stop the guest where it runs then; or, if that witness is gone, \
                 `outlast ctl take-over --dead ID --witness WITNESS` has it run here",
            ));
        }
        let runs_here = self.guest().is_some();
        self.stop();
        if runs_here { self.conclusion.wait() } else { Ok(()) }
    }
}

/// What a request for protection says, in the words of the configuration.
fn parse(ProtectRequest { protect, epoch }: &ProtectRequest) -> Result<(Protect, Option<EpochLength>), Fault> {
    let bad = |field: &str, text: &str, why: String| {
        Fault::bad_request(format!("PUT /ft: {field} '{text}': {why}"))
            .with_hint("GET /openapi.json says what PUT /ft takes")
    };
    let place = protect.parse().map_err(|why| bad("protect", protect, why))?;
    let length = epoch.as_ref().map(|text| text.parse().map_err(|why| bad("epoch", text, why))).transpose()?;
    Ok((place, length))
}

/// Whether epochs may have this length in a VM whose shortest one is `min_epoch`.
fn check_epoch(epoch: EpochLength, min_epoch: Duration) -> Result<(), Fault> {
    match epoch {
        EpochLength::Fixed(length) if length.get() < min_epoch => Err(Fault::bad_request(format!(
            "epoch {epoch} is shorter than this VM's --min-epoch, {}",
            TimeSpan(min_epoch)
        ))
        .with_hint("give a longer one, or auto")),
        EpochLength::Fixed(_) | EpochLength::Auto => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_for_protection_out_of_its_range_is_refused() {
        let request = |protect: &str, epoch: Option<&str>| {
            parse(&ProtectRequest { protect: protect.into(), epoch: epoch.map(String::from) })
        };
        // Any was taken once: of 2^64 s the pacer's arithmetic overflowed, and the guest ended.
        for text in ["0us", "999us", "10000001us", "11s", "18446744073709551615s"] {
            let fault = request("tcp:b:7000", Some(text)).expect_err("out of range");
            assert_eq!(fault.http_status(), 400);
            assert!(fault.message.ends_with(": must be 1ms to 10s, or auto"), "{fault}");
        }
        for text in ["1ms", "10s", "auto"] {
            request("tcp:b:7000", Some(text)).expect("in range");
        }
        let fault = request("udp:b:7000", None).expect_err("no such place");
        assert!(fault.message.contains("'udp:b:7000'") && fault.hint.is_some(), "{fault}");
    }
}
