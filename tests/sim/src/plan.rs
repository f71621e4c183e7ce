//! What a seed decides before the run: speeds, limits, faults.

mod breaks;
mod random;
mod text;

use std::time::Duration;

use replication::page::PAGE_SIZE;
use replication::pipeline::primary::PipelineConfig;
use replication::primary::RoundsConfig;
use replication::wire::{DiskInfo, MachineInfo, RamRange};
use replication::{BackupConfig, Gfn, Origin, OutputQueue, PrimaryConfig, Term};
use serde::{Deserialize, Serialize};

use crate::disk::{SECTOR, SECTORS};
use crate::fault::{Dir, Fault, HOSTS, SPARE, Step, Stranger, What, When};
use crate::guest::{PAGES, Said};
use crate::rng::Rng;
pub use breaks::Break;
use random::random_fault;
pub use text::{Case, nanos, nanos_or_none};
pub(crate) use text::{time_of_text, time_text};

/// A microsecond, in nanoseconds.
pub const US: u64 = 1_000;
/// A millisecond, in nanoseconds.
pub const MS: u64 = 1_000_000;

/// Between two syncs of an image beside all else.
pub const UPKEEP: u64 = 9 * MS;

/// A primary waits so many times `detect` for an ack.
const ACK_WAIT_DETECTS: u64 = 4;

/// A filling that does nothing is told of after so many times `detect`, and given up after so many.
const FILL_NOTICE_DETECTS: u64 = 2;
const FILL_WAIT_DETECTS: u64 = 8;

/// An operator waits so many times `detect` for a pause, or its end.
pub const PAUSE_DETECTS: u64 = 8;

/// Tells the chance for several backups from all other chance of a seed.
const OF_SEVERAL: u64 = 0x5e0e_ba11;

/// What an epoch counts for of the bytes in flight.
pub const EPOCH_BYTES: u64 = 1000;
/// What an output counts for of the bytes held.
const HELD_BYTES: usize = Said::BYTES + OutputQueue::OVERHEAD;
/// What an epoch of the toy guest takes on a backup, at most: its memory, its disk, and what it says.
const STAGED_BYTES: usize = PAGES * PAGE_SIZE + 2 * SECTOR * SECTORS + (8 << 10);

/// Bytes that a backup must take beyond the guest's memory: of all epochs that are in flight, and of those that it acked
/// before it applied them.
fn staged_bytes_min(in_flight_epochs: u32, in_flight_bytes: u64, ack_bytes_max: usize) -> usize {
    let epochs = u64::from(in_flight_epochs).min(in_flight_bytes.div_ceil(EPOCH_BYTES)) as usize;
    (epochs + 1) * STAGED_BYTES + ack_bytes_max
}

/// A guest that writes more than its few pages, and the link that this is sent over, as bytes that are only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// What it writes again and again.
    pub set: u64,
    /// How fast, with all its time, in bytes a millisecond.
    pub speed: u64,
    /// What the link takes, in bytes a millisecond.
    pub link: u64,
}

/// What becomes of a guest that crashes, where its state directory can keep it. Elsewhere it is booted anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnCrash {
    /// It is booted anew.
    Boot,
    /// It goes back to an earlier epoch; stopped, if there is none.
    GoBack,
    /// It is stopped.
    Stop,
}

/// One run, decided. Times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Length of an epoch.
    #[serde(with = "nanos")]
    pub epoch: u64,
    /// Longest way of a piece of a stream.
    #[serde(with = "nanos")]
    pub link_delay: u64,
    /// Longest way of a packet between a host and the client.
    #[serde(with = "nanos")]
    pub client_delay: u64,
    /// Packets to and from the client that are lost, in percent.
    pub client_loss: u64,
    /// Longest time of a disk to sync.
    #[serde(with = "nanos")]
    pub disk_delay: u64,
    /// Longest time to apply an epoch.
    #[serde(with = "nanos")]
    pub apply_delay: u64,
    /// What is committed survives its hosts: both sync it first.
    pub durable: bool,
    /// Bytes after which a log is emptied.
    pub log_room: usize,
    /// Bytes of a filling that wait for its disk, at most.
    pub filling_bytes_max: usize,
    /// Commit needs the state directory too, and a primary that died is resumed from it.
    pub local: bool,
    /// A guest whose state directory takes no more epochs ends; it is resumed from there.
    pub stops_degraded: bool,
    /// What the state directory survives: the loss of power too.
    pub local_survives_power: bool,
    /// Nothing heard for so long: lost.
    #[serde(with = "nanos")]
    pub detect: u64,
    /// The backup waits so long after a disconnect.
    #[serde(with = "nanos")]
    pub grace: u64,
    /// Between two claims.
    #[serde(with = "nanos")]
    pub claim_retry: u64,
    /// Epochs in flight.
    pub in_flight_epochs_max: u32,
    /// Bytes in flight, of which an epoch counts as [`EPOCH_BYTES`].
    pub in_flight_bytes_max: u64,
    /// Bytes of output that are held, before the guest waits.
    pub hold_bytes_max: usize,
    /// Bytes that may wait unapplied before acks wait.
    pub ack_bytes_max: usize,
    /// Bytes that a backup takes beyond the guest's memory. Enough for all that may be in flight or unapplied.
    pub staged_bytes: usize,
    /// Host 1 sees a copy of the witness's directory until the faults stop.
    pub witness_is_copied: bool,
    /// The witness says which one it is, as an etcd cluster does.
    pub witness_names_itself: bool,
    /// What becomes of a guest that crashes.
    pub on_crash: OnCrash,
    /// Which host has a machine id.
    pub has_machine_id: [bool; HOSTS],
    /// The boots of both hosts have the same texts, as those of copied virtual machines or of containers on one kernel.
    pub has_same_boots: bool,
    /// The VM has two backups, on the two other hosts.
    pub has_several: bool,
    /// There is no witness: everything is granted.
    pub unwitnessed: bool,
    /// How much faster than the first host's clock each one's goes, in thousandths.
    pub clock_fast: [u64; HOSTS],
    /// How much a filling has to send, beyond the pages of the toy guest.
    pub load: Load,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// When faults stop.
    #[serde(with = "nanos")]
    pub heal_at: u64,
    /// A rule to break.
    pub broken: Option<Break>,
}

impl Default for Plan {
    /// The plan in which the least happens: what the text of a plan does not say is as here, and a plan that fails is made as
    /// much like this one as it can be.
    fn default() -> Plan {
        Plan {
            epoch: 3 * MS,
            link_delay: 20 * US,
            client_delay: 100 * US,
            client_loss: 0,
            disk_delay: 0,
            apply_delay: 0,
            durable: true,
            log_room: 4096,
            filling_bytes_max: 4096,
            local: false,
            stops_degraded: false,
            local_survives_power: false,
            detect: 20 * MS,
            grace: 0,
            claim_retry: 3 * MS,
            in_flight_epochs_max: 4,
            in_flight_bytes_max: 1 << 20,
            hold_bytes_max: 1 << 20,
            ack_bytes_max: 1 << 20,
            staged_bytes: 4 << 20,
            has_several: false,
            unwitnessed: false,
            witness_is_copied: false,
            witness_names_itself: false,
            on_crash: OnCrash::Boot,
            has_machine_id: [true; HOSTS],
            has_same_boots: false,
            clock_fast: [0; HOSTS],
            load: Load { set: 0, speed: 0, link: 1 << 20 },
            faults: Vec::new(),
            heal_at: 70 * MS,
            broken: None,
        }
    }
}

impl Plan {
    /// The plan of a seed.
    pub fn of_seed(seed: u64, broken: Option<Break>) -> Plan {
        let mut rng = Rng::new(seed);
        let detect = rng.range(20, 40) * MS;
        // A few are storms: many faults, for long.
        let is_storm = broken.is_none() && rng.percent(6);
        let heal_at = rng.range(70, if is_storm { 500 } else { 200 }) * MS;
        let count = *rng.pick(if is_storm { &[8, 12, 20][..] } else { &[0, 1, 1, 1, 2, 2, 3, 4, 6, 9][..] });
        // Without a witness most faults make two guests: none but the one that a rule is broken for.
        // And where a rule is broken, other faults often hide what that does.
        let count =
            if broken.is_some() && (broken == Some(Break::ShipOn) || seed.is_multiple_of(2)) { 0 } else { count };
        let in_flight_epochs_max = *rng.pick(&[1, 2, 4, 16]);
        let in_flight_bytes_max = *rng.pick(&[1 << 20, 1 << 20, EPOCH_BYTES, 3 * EPOCH_BYTES]);
        let ack_bytes_max = *rng.pick(&[0, 4096, 1 << 20]);
        let staged_bytes = match rng.percent(30) {
            true => staged_bytes_min(in_flight_epochs_max, in_flight_bytes_max, ack_bytes_max),
            false => 4 << 20,
        };
        // Decided beside all else: runs with one backup are what they were before there were others.
        let by_chance = broken.is_none() && Rng::new(seed ^ OF_SEVERAL).percent(25);
        let has_several = by_chance || broken.is_some_and(Break::is_of_several);
        let has_spare = broken.is_none() && rng.percent(25) && !has_several;
        let spare = has_spare.then(|| Fault { when: When::At(rng.range(0, heal_at / 2)), what: What::StandBy(SPARE) });
        let hosts = if has_spare || has_several { HOSTS } else { SPARE };
        let has_same_boots = rng.percent(5) || matches!(broken, Some(Break::BootIsHost | Break::BirthUnread));
        let mut plan = Plan {
            epoch: rng.range(1, 6) * MS,
            link_delay: *rng.pick(&[20 * US, 200 * US, MS, 4 * MS]),
            client_delay: *rng.pick(&[100 * US, MS, 20 * MS]),
            client_loss: *rng.pick(&[0, 0, 5, 30]),
            disk_delay: *rng.pick(&[0, 100 * US, 2 * MS, 6 * MS]),
            apply_delay: *rng.pick(&[0, 100 * US, 3 * MS]),
            local: rng.percent(50) || broken.is_some_and(Break::is_of_local_protection),
            local_survives_power: rng.percent(50) || broken.is_some_and(Break::needs_files_after_power),
            detect,
            grace: rng.range(0, 10) * MS,
            claim_retry: rng.range(3, 15) * MS,
            in_flight_epochs_max,
            in_flight_bytes_max,
            hold_bytes_max: *rng.pick(&[1 << 20, 1 << 20, 1, 4 * HELD_BYTES]),
            ack_bytes_max,
            staged_bytes,
            has_several,
            unwitnessed: broken == Some(Break::ShipOn),
            witness_is_copied: rng.percent(4) || broken == Some(Break::MeetUnasked),
            has_machine_id: if broken == Some(Break::NamelessHosts) {
                [false; HOSTS]
            } else {
                [rng.percent(92) || has_same_boots, rng.percent(92) || has_same_boots, true]
            },
            has_same_boots,
            clock_fast: *rng.pick(&[[0; HOSTS], [0; HOSTS], [20, 0, 0], [0, 20, 0], [3, 0, 20], [0, 1, 2]]),
            load: Load {
                set: rng.range(0, 4) * (1 << 20),
                speed: if broken == Some(Break::RoundsWithoutEnd) { 8 << 20 } else { rng.range(0, 8) * (1 << 20) },
                link: 1 << 20,
            },
            faults: (0..count)
                .map(|_| random_fault(&mut rng, hosts, heal_at, detect))
                .chain(spare)
                .chain(faults_of(broken, heal_at))
                .collect(),
            heal_at,
            broken,
            ..Plan::default()
        };
        if by_chance {
            plan.faults.extend(faults_of_several(&mut Rng::new(seed ^ OF_SEVERAL ^ 1), heal_at, detect));
            // A second backup is filled beside epochs: a guest that writes as fast as the link may never be (decision 0044).
            plan.load.speed /= 8;
        }
        if broken.is_none() && rng.percent(25) {
            plan.faults.extend(exchanges(&mut rng, heal_at));
        }
        if broken.is_none() && rng.percent(15) {
            plan.faults.extend(switchovers(&mut rng, heal_at, detect));
        }
        plan.durable = rng.percent(80) || broken.is_some_and(Break::is_of_durable_files);
        plan.stops_degraded = rng.percent(20) || broken == Some(Break::CopyForOriginal);
        plan.log_room = *rng.pick(&[0, 300, 1000, 4096]);
        plan.filling_bytes_max = *rng.pick(&[1, 600, 4096]);
        if matches!(broken, Some(Break::DiscardedLogged | Break::KeepLogged)) {
            // A record that nobody counts on fills a small log: the pipeline sees that. And a small one is often empty.
            plan.log_room = 4096;
        }
        // One that knows which it is needs nobody who leaves something there.
        plan.witness_names_itself =
            (rng.percent(50) && broken != Some(Break::MeetUnasked)) || broken == Some(Break::AnyCluster);
        plan.leave_time_to_ack();
        plan.decide_on_crash(&mut rng);
        plan
    }

    /// In half of the runs with a state directory a guest that crashes is not just booted anew.
    fn decide_on_crash(&mut self, rng: &mut Rng) {
        let of_rule = self.broken.and_then(Break::on_crash);
        if let Some(policy) = of_rule {
            self.on_crash = policy;
        } else if self.local && self.broken.is_none() {
            self.on_crash = *rng.pick(&[OnCrash::Boot, OnCrash::Boot, OnCrash::GoBack, OnCrash::GoBack, OnCrash::Stop]);
            if self.on_crash != OnCrash::Boot && rng.percent(60) {
                let host = usize::from(rng.percent(25));
                let when = When::At(rng.range(self.heal_at / 4, self.heal_at));
                self.faults.push(Fault { when, what: What::GuestCrash(host) });
            }
        }
    }

    /// Where acks wait until nearly all is applied, all that is in flight must be applied in less time than a primary waits.
    fn leave_time_to_ack(&mut self) {
        // Into the log, out of it, the image synced, the log emptied, and the record put there again.
        let in_order = 5 * self.disk_delay + 2 * self.apply_delay;
        if u64::from(self.in_flight_epochs_max) * in_order > ACK_WAIT_DETECTS / 2 * self.detect {
            self.ack_bytes_max = 1 << 20;
            self.staged_bytes = 4 << 20;
            self.log_room = self.log_room.max(1000);
        }
    }

    /// Whether a run can be made of it: what is said of hosts that are there, and no limit so small that a rule must break.
    pub fn check(&self) -> Result<(), String> {
        let least = Plan::default();
        let at_least = [
            ("epoch", self.epoch, MS),
            ("detect", self.detect, least.detect),
            ("claim_retry", self.claim_retry, least.claim_retry),
            ("heal_at", self.heal_at, least.heal_at),
            ("in_flight_epochs_max", u64::from(self.in_flight_epochs_max), 1),
            ("in_flight_bytes_max", self.in_flight_bytes_max, 1),
            ("load.link", self.load.link, 1),
        ];
        let staged = staged_bytes_min(self.in_flight_epochs_max, self.in_flight_bytes_max, self.ack_bytes_max);
        if self.staged_bytes < staged.min(4 << 20) {
            return Err(format!("staged_bytes is {}, and {staged} may have to wait", self.staged_bytes));
        }
        let small = at_least.iter().find(|(_, value, least)| value < least);
        if let Some((name, value, least)) = small {
            return Err(format!("{name} is {value}, and not below {least} in any run"));
        }
        let stray = self.faults.iter().find(|fault| !fault.is_of_hosts());
        stray.map_or(Ok(()), |fault| Err(format!("{fault:?} is of a host that is not there")))
    }

    /// How a primary is configured.
    pub fn primary_config(&self, term: Term, origin: Origin, has_store: bool) -> PrimaryConfig {
        PrimaryConfig {
            vm_name: "toy".into(),
            writer: "sim".into(),
            machine: machine(),
            term,
            origin,
            heartbeat: Duration::from_nanos(self.detect / 4),
            detect: Duration::from_nanos(self.detect),
            ack_wait: Duration::from_nanos(ACK_WAIT_DETECTS * self.detect),
            fill_notice: Duration::from_nanos(FILL_NOTICE_DETECTS * self.detect),
            fill_wait: Duration::from_nanos(if self.broken == Some(Break::FillWithoutEnd) {
                u64::MAX / 2
            } else {
                FILL_WAIT_DETECTS * self.detect
            }),
            rounds: self.rounds_config(),
            fill_rest: Duration::from_nanos(self.claim_retry),
            fill_rest_max: Duration::from_nanos(4 * self.claim_retry),
            claim_retry: Duration::from_nanos(self.claim_retry),
            in_flight_epochs_max: self.in_flight_epochs_max,
            in_flight_bytes_max: self.in_flight_bytes_max,
            log_counts: self.durable || has_store,
            has_store,
            backup_durable: self.durable,
            members: Vec::new(),
            begins_afresh: true,
            is_witnessed: true,
        }
    }

    /// How a primary's host is configured.
    pub fn pipeline_config(&self, term: Term, origin: Origin, has_store: bool) -> PipelineConfig {
        PipelineConfig {
            primary: self.primary_config(term, origin, has_store),
            is_durable: self.durable,
            stops_degraded: self.stops_degraded,
            room_retry: Duration::from_nanos(2 * MS),
            console_wait: Duration::from_nanos(20 * MS),
            image_lag_max: usize::MAX,
            upkeep: Duration::from_nanos(UPKEEP),
        }
    }

    fn rounds_config(&self) -> RoundsConfig {
        let rounds = RoundsConfig {
            pause: Duration::from_millis(1),
            pause_max: Duration::from_millis(2),
            base_bytes: 4 << 20,
            base_bytes_max: 8 << 20,
            rounds_max: 20,
            time_max: Duration::from_millis(200),
            share_min: 5,
        };
        match self.broken {
            Some(Break::RoundsWithoutEnd) => {
                let time_max = Duration::from_secs(1 << 30);
                RoundsConfig { rounds_max: u32::MAX, time_max, share_min: 100, ..rounds }
            }
            _ => rounds,
        }
    }

    /// How a backup is configured.
    pub fn backup_config(&self) -> BackupConfig {
        BackupConfig {
            vm_name: "toy".into(),
            writer: "sim".into(),
            heartbeat: Duration::from_nanos(self.detect / 4),
            detect: Duration::from_nanos(self.detect),
            disconnect_grace: Duration::from_nanos(self.grace),
            claim_retry: Duration::from_nanos(self.claim_retry),
            staged_bytes_beyond_ram: self.staged_bytes,
            ack_bytes_max: self.ack_bytes_max,
        }
    }
}

/// The toy machine.
pub fn machine() -> MachineInfo {
    MachineInfo {
        ram: vec![RamRange { first: Gfn(0), pages: PAGES as u64 }],
        vcpus: 1,
        disks: vec![DiskInfo { len: (SECTOR * SECTORS) as u64, readonly: false }],
        nets: 1,
        config: Vec::new(),
    }
}

/// What matters most where there are two backups: links between two of three hosts, and two faults at nearly one time.
fn faults_of_several(rng: &mut Rng, heal_at: u64, detect: u64) -> Vec<Fault> {
    let at = rng.range(heal_at / 4, heal_at);
    let then = |what, after| Fault { when: When::At(at + after), what };
    let (one, other) = *rng.pick(&[(0, 1), (0, 2), (1, 2)]);
    let cut = What::CutPair(one, other, rng.range(1, 3 * detect));
    let power = rng.percent(30);
    let crash = |host| What::Crash { host, power, restart: None };
    match rng.range(0, 5) {
        0 => Vec::new(),
        1 => vec![then(cut, 0)],
        2 => vec![then(cut, 0), then(crash(0), detect / 2)],
        3 => vec![then(crash(0), 0), then(crash(1), detect / 2)],
        4 => vec![then(crash(0), 0), then(crash(1), 2 * detect)],
        _ => vec![then(cut, 0), then(crash(0), MS), then(crash(other), 2 * detect)],
    }
}

/// An operator has the guest go from host to host; and something goes wrong while it does.
fn switchovers(rng: &mut Rng, heal_at: u64, detect: u64) -> Vec<Fault> {
    let mut faults: Vec<_> = (0..rng.range(1, 5))
        .map(|_| Fault {
            when: When::At(rng.range(heal_at / 8, heal_at)),
            what: What::Switchover(rng.range(0, 1) as usize),
        })
        .collect();
    for _ in 0..rng.range(0, 2) {
        let (host, long) = (rng.range(0, 1) as usize, rng.range(1, 2 * detect));
        let steps =
            [Step::Handover, Step::TakeOver, Step::Claim, Step::Answer, Step::Send, Step::Rehearse, Step::Release];
        let when =
            When::Step { host, step: *rng.pick(&steps), nth: *rng.pick(&[1, 1, 1, 2, 4]), after: rng.percent(50) };
        let restart = rng.percent(50).then(|| rng.range(0, detect));
        let crash = What::Crash { host: *rng.pick(&[host, 1 - host]), power: rng.percent(50), restart };
        let what = [
            crash,
            What::Cut(long),
            What::CutOneWay(host, long),
            What::Pause(host, long),
            What::WitnessCut(host, long),
            What::WitnessLoses(long),
            What::Reset,
            What::Stop(host),
            What::Unprotect,
            What::Exchange(host),
        ];
        faults.push(Fault { when, what: *rng.pick(&what) });
    }
    faults
}

/// An operator exchanges the witness, once or again; or overrides it when all else is lost.
fn exchanges(rng: &mut Rng, heal_at: u64) -> Vec<Fault> {
    let at = |at, what| Fault { when: When::At(at), what };
    if rng.percent(30) {
        let begun = rng.range(heal_at / 4, heal_at / 2);
        let tries = (1..5).map(|tries| at(begun + tries * (heal_at - begun) / 5, What::Override(1)));
        let crash = What::Crash { host: 0, power: rng.percent(50), restart: None };
        return [at(begun, What::WitnessGone(1)), at(begun + MS, crash)].into_iter().chain(tries).collect();
    }
    let hosts = if rng.percent(80) { 0 } else { 1 };
    (0..rng.range(1, 3)).map(|_| at(rng.range(heal_at / 8, heal_at), What::Exchange(hosts))).collect()
}

/// What goes wrong besides, so that a rule matters that seldom does: the guest crashes, and its backup does not hear of it.
fn faults_of(broken: Option<Break>, heal_at: u64) -> Vec<Fault> {
    let at = |what| Fault { when: When::At(heal_at / 2), what };
    match broken {
        Some(rule) if rule.is_of_several() => faults_that_several_show(rule, heal_at),
        Some(Break::AnewWithoutClaim) => vec![at(What::GuestCrash(0)), at(What::Cut(heal_at / 2))],
        Some(Break::BeginUnasked) => vec![at(What::RunAgain(0))],
        Some(Break::EndUnrecorded) => {
            // The third question of a primary: after that the backup is told.
            let when = When::Step { host: 0, step: Step::Claim, nth: 3, after: true };
            vec![at(What::Stop(0)), Fault { when, what: What::Cut(heal_at / 2) }]
        }
        Some(Break::MeetUnasked | Break::WitnessForgets) => vec![at(What::Cut(heal_at / 2))],
        Some(Break::EnlistUnasked) => vec![at(What::Crash { host: 0, power: false, restart: None })],
        Some(Break::ShipOn) => {
            let when = When::Step { host: 0, step: Step::Ship, nth: 1, after: false };
            vec![Fault { when, what: What::Unprotect }]
        }
        Some(Break::VoidUntold) => {
            let when = When::Step { host: 0, step: Step::Ship, nth: 1, after: false };
            vec![Fault { when, what: What::Crash { host: 0, power: true, restart: None } }]
        }
        Some(Break::VoidForgotten) => {
            // The second question of a primary, after whether its backup sees the same witness: may it be listed?
            let when = When::Step { host: 0, step: Step::Claim, nth: 2, after: true };
            vec![Fault { when, what: What::Reset }]
        }
        Some(Break::DeathUntold) => {
            let crash = |host| at(What::Crash { host, power: true, restart: None });
            vec![crash(1), crash(0)]
        }
        Some(Break::StoreUndelisted) => {
            let crash = What::Crash { host: 0, power: false, restart: Some(MS) };
            vec![at(What::StoreFails(0)), Fault { when: When::At(heal_at / 4 * 3), what: crash }]
        }
        Some(Break::PauseUnrecorded | Break::PauseForgotten) => {
            let crash = What::Crash { host: 0, power: false, restart: None };
            vec![at(What::PauseGuest(0)), Fault { when: When::At(heal_at - MS), what: crash }]
        }
        Some(Break::PauseUncommitted) => {
            let crash = What::Crash { host: 0, power: false, restart: None };
            vec![at(What::PauseGuest(0)), Fault { when: When::At(heal_at / 2), what: crash }]
        }
        Some(Break::SnapshotUncommitted) => {
            let crash = What::Crash { host: 0, power: false, restart: None };
            vec![at(What::Snapshot(0, MS / 2)), Fault { when: When::At(heal_at / 2), what: crash }]
        }
        Some(Break::RunUncommitted) => {
            let crash = What::Crash { host: 0, power: false, restart: None };
            let runs = Fault { when: When::At(heal_at - MS), what: What::RunGuest(0) };
            vec![at(What::PauseGuest(0)), runs, Fault { when: When::At(heal_at - MS), what: crash }]
        }
        Some(Break::DegradedUnlogged) => {
            let crash = What::Crash { host: 0, power: false, restart: Some(MS) };
            let full = Fault { when: When::At(heal_at / 2 + MS), what: What::DiskFull(0, heal_at / 2) };
            vec![at(What::StoreFails(0)), full, Fault { when: When::At(heal_at / 2 + 20 * MS), what: crash }]
        }
        Some(Break::LogUnrecovered) => {
            let crash = |host, power, restart| at(What::Crash { host, power, restart });
            vec![crash(1, false, None), crash(0, true, Some(0))]
        }
        Some(Break::LogRecoveredBeyond) => {
            let when = When::Step { host: 0, step: Step::LocalCommit, nth: 5, after: false };
            let crash = |host, restart| What::Crash { host, power: false, restart };
            vec![Fault { when: When::At(0), what: crash(1, None) }, Fault { when, what: crash(0, Some(MS)) }]
        }
        Some(Break::TermStands) => {
            // The backup lives through a guest that was resumed, of a higher term, and meets the next one.
            let when = When::At(heal_at / 2 + 30 * MS);
            vec![at(What::RunAgain(0)), Fault { when, what: What::GuestCrash(0) }]
        }
        Some(Break::FillWithoutEnd) => {
            (0..2).map(|host| Fault { when: When::At(0), what: What::StuckFilling(host) }).collect()
        }
        Some(Break::CommitBeforeLocal) => {
            let crash = |host, restart| at(What::Crash { host, power: false, restart });
            vec![crash(1, None), crash(0, Some(0))]
        }
        Some(Break::OldBytes) => {
            // What lags is a filling, and comes when the next one is on its way.
            let crash = What::Crash { host: 0, power: false, restart: None };
            let lags = Fault { when: When::At(heal_at / 8), what: What::Lags(0, heal_at / 2) };
            vec![lags, Fault { when: When::At(heal_at - MS), what: crash }]
        }
        Some(Break::BackInBranch | Break::BackUnrecorded) => vec![at(What::GuestCrash(0))],
        Some(Break::AttemptUnnoted) => {
            // With its power the host loses what it would go back to.
            let when = When::Step { host: 0, step: Step::GoBack, nth: 1, after: false };
            let crash = What::Crash { host: 0, power: true, restart: Some(MS) };
            vec![at(What::GuestCrash(0)), Fault { when, what: crash }]
        }
        Some(Break::StoppedResumed) => {
            vec![at(What::GuestCrash(0)), Fault { when: When::At(heal_at - MS), what: What::RunAgain(0) }]
        }
        Some(Break::EndedResumed) => {
            // The third question of a primary, or the first of one that is alone: it dies when that is on its way.
            let dies = |nth| Fault {
                when: When::Step { host: 0, step: Step::Claim, nth, after: true },
                what: What::Crash { host: 0, power: false, restart: Some(MS * 20) },
            };
            vec![at(What::Stop(0)), dies(3)]
        }
        Some(Break::BackWithoutHeld) => {
            // Nobody answers the primary any more, whose guest crashes with epochs that are not acked; and then it dies.
            let dies = |host, restart| What::Crash { host, power: false, restart };
            let then = |what, after| Fault { when: When::At(heal_at / 2 + after), what };
            let cut = at(What::WitnessCut(0, heal_at));
            vec![at(dies(1, None)), cut, then(What::GuestCrash(0), 10 * MS), then(dies(0, Some(MS)), 15 * MS)]
        }
        Some(Break::OverrideUnasked) => {
            let takes_over = Fault { when: When::At(heal_at - MS), what: What::TakeOverDead(1) };
            vec![at(What::Cut(heal_at / 2)), takes_over]
        }
        Some(Break::StrangerWins) => vec![at(What::Stranger(1, Stranger::Silent))],
        Some(Break::SecondPrimary) => {
            let second = What::Stranger(1, Stranger::Primary { term: 1000, is_met: true });
            vec![at(What::Reset), Fault { when: When::At(heal_at / 2 + 30 * MS), what: second }]
        }
        Some(Break::ForswearUnawaited) => {
            let when = When::Step { host: 0, step: Step::Exchange, nth: 1, after: false };
            vec![at(What::Exchange(0)), Fault { when, what: What::Cut(heal_at / 2) }]
        }
        Some(Break::OldRegisterAppended) => {
            // The heir stands, and its primary has not heard so.
            let after = |ms, what| Fault { when: When::At(heal_at / 2 + ms * MS), what };
            vec![at(What::Exchange(0)), after(3, What::WitnessLoses(heal_at / 4)), after(6, What::Cut(heal_at / 2))]
        }
        Some(Break::ForswearUnsynced) => {
            let crash = What::Crash { host: 0, power: true, restart: Some(heal_at / 8) };
            vec![at(What::Exchange(0)), Fault { when: When::At(heal_at / 4 * 3), what: crash }]
        }
        Some(Break::GenerationStands) => {
            vec![at(What::Exchange(0)), Fault { when: When::At(heal_at / 4 * 3), what: What::Exchange(0) }]
        }
        Some(Break::OverrideUnnamed) => {
            let overrides =
                (5..8).map(|eighths| Fault { when: When::At(heal_at / 8 * eighths), what: What::Override(1) });
            [at(What::WitnessGone(1)), at(What::Cut(heal_at / 2))].into_iter().chain(overrides).collect()
        }
        Some(Break::HandoverUnclaimed | Break::OfferForgotten | Break::HandedOverRuns) => {
            // The backup has the offer, and the two hear no more of each other.
            let when = When::Step { host: 1, step: Step::TakeOver, nth: 1, after: false };
            vec![at(What::Switchover(0)), Fault { when, what: What::Cut(heal_at / 2) }]
        }
        Some(Break::FullIsWon) => {
            vec![at(What::WitnessFull(heal_at / 2)), at(What::Cut(heal_at / 2))]
        }
        Some(Break::AnyCluster) => vec![at(What::OtherCluster(0, heal_at / 2)), at(What::Cut(heal_at / 2))],
        Some(Break::RestoredBelieved) => {
            // What is forgotten is the takeover, and who took over asks for the next thing.
            let restored = Fault { when: When::At(heal_at / 2 + 20 * MS), what: What::WitnessRestored(1) };
            vec![at(What::Crash { host: 0, power: false, restart: Some(0) }), restored]
        }
        Some(Break::StopUnnoticed) => {
            let when = When::Step { host: 0, step: Step::Ship, nth: 3, after: true };
            vec![Fault { when, what: What::Pause(0, heal_at / 2 + 30 * MS) }]
        }
        Some(Break::LogKept) => vec![at(What::Unprotect)],
        Some(Break::LeftBeforeOut) => {
            let when = When::Step { host: 0, step: Step::Release, nth: 9, after: true };
            vec![Fault { when, what: What::Crash { host: 0, power: false, restart: None } }]
        }
        Some(Break::ImageBeforeLog | Break::LogEmptiedEarly | Break::ImagesUnwritten) => {
            let crash = |host, after| Fault {
                when: When::At(heal_at / 2 + after),
                what: What::Crash { host, power: false, restart: Some(MS) },
            };
            vec![crash(1, 0), crash(0, 30 * MS)]
        }
        Some(
            Break::ReleaseBeforeAck
            | Break::ForgetHeld
            | Break::ForgetDiskWrites
            | Break::ForgetPage
            | Break::BranchKept
            | Break::NoHealing
            | Break::ForgetLeft
            | Break::CopyOfOtherMemory
            | Break::CollectForgotten
            | Break::MirrorForgotten,
        ) => {
            vec![at(What::Crash { host: 0, power: false, restart: None })]
        }
        Some(rule) if rule.is_of_durable_files() => faults_of_files(rule, heal_at),
        Some(rule) => faults_of_evidence(rule, heal_at),
        None => Vec::new(),
    }
}

/// The same for rules about several backups.
fn faults_that_several_show(rule: Break, heal_at: u64) -> Vec<Fault> {
    let at = |at, what| Fault { when: When::At(at), what };
    let crash = |host| What::Crash { host, power: false, restart: None };
    match rule {
        Break::AckForAll => vec![at(heal_at / 2, What::CutPair(0, 2, heal_at))],
        Break::RemovalUnasked => vec![at(heal_at / 2, What::CutPair(0, 1, heal_at))],
        // Who wins cannot reach the other one, and dies.
        Break::ForgetMembers => {
            vec![at(heal_at / 4, What::CutPair(1, 2, heal_at)), at(heal_at / 4, crash(0)), at(heal_at - MS, crash(1))]
        }
        // Who wins has epochs that the other one lacks, and dies.
        Break::HeldBeforeReport => {
            let wins = When::Step { host: 1, step: Step::TakeOver, nth: 1, after: true };
            let lags = at(heal_at / 2 - 8 * MS, What::CutPair(0, 2, heal_at));
            vec![lags, at(heal_at / 2, crash(0)), Fault { when: wins, what: crash(1) }]
        }
        _ => Vec::new(),
    }
}

/// The same for rules about a backup's files.
fn faults_of_files(rule: Break, heal_at: u64) -> Vec<Fault> {
    let at = |what| Fault { when: When::At(heal_at / 2), what };
    let cut = What::Crash { host: 1, power: true, restart: Some(MS) };
    let cut_here = What::Crash { host: 0, power: true, restart: Some(MS) };
    let amid = |step, nth| When::Step { host: 1, step, nth, after: false };
    match rule {
        Break::BackupImageBeforeLog => vec![Fault { when: amid(Step::Persist, 5), what: cut }],
        Break::AppendUnsynced => vec![at(cut)],
        Break::TruncateUnsynced => vec![Fault { when: amid(Step::LogTruncate, 3), what: cut }],
        // The first epoch in the log is the base.
        Break::BaseUnsynced => vec![Fault { when: amid(Step::Persist, 2), what: cut }],
        Break::DiscardedLogged => vec![at(What::Unprotect), Fault { when: When::At(heal_at / 4 * 3), what: cut }],
        Break::HandOverLogged => vec![at(What::Crash { host: 0, power: false, restart: Some(MS) })],
        Break::KeepLogged => vec![at(What::Cut(heal_at / 3))],
        Break::ApplyOutOfOrder => vec![at(cut)],
        Break::LogUnsynced => vec![at(cut_here)],
        Break::LogEmptiedUnsynced => {
            let when = When::Step { host: 0, step: Step::LogTruncate, nth: 2, after: true };
            vec![Fault { when, what: cut_here }]
        }
        Break::BaseUnsyncedHere => {
            // The first epoch in the log is the base.
            let when = When::Step { host: 0, step: Step::Persist, nth: 2, after: false };
            vec![Fault { when, what: cut_here }]
        }
        Break::CacheBelieved => {
            // What the first filling brought is compared by the next one, which sends what differs. It comes when there is much to bring.
            let fails = |nth| Fault { when: amid(Step::ImageSync, nth), what: What::DiskFails(1) };
            let late = What::Crash { host: 1, power: false, restart: Some(heal_at / 3) };
            let cut = Fault { when: amid(Step::Persist, 2), what: cut };
            vec![Fault { when: When::At(0), what: late }, fails(1), fails(2), cut]
        }
        Break::FullIsLogged => {
            let crash = What::Crash { host: 0, power: false, restart: Some(MS) };
            vec![at(What::DiskFull(0, heal_at / 3)), Fault { when: When::At(heal_at / 4 * 3), what: crash }]
        }
        Break::AckWithoutRoom => {
            let crash = What::Crash { host: 1, power: false, restart: Some(MS) };
            vec![at(What::DiskFull(1, heal_at / 3)), Fault { when: When::At(heal_at / 4 * 3), what: crash }]
        }
        _ => Vec::new(),
    }
}

/// The same for rules about proofs of death.
fn faults_of_evidence(rule: Break, heal_at: u64) -> Vec<Fault> {
    let then = |what, after| Fault { when: When::At(heal_at / 2 + after), what };
    let crash = |host, power, restart| What::Crash { host, power, restart };
    match rule {
        Break::CopiedLock => vec![
            then(What::ReplaceDir(0), 0),
            then(What::Beside { host: 0, dir: Dir::Other, delay: 0 }, MS),
            then(What::RunAgain(1), 2 * MS),
        ],
        Break::BirthUnread => vec![
            Fault { when: When::At(0), what: crash(1, true, Some(0)) },
            then(crash(0, true, None), 0),
            then(What::Beside { host: 0, dir: Dir::CopyOf(1), delay: 0 }, MS),
        ],
        Break::HeldLock => {
            vec![then(What::Beside { host: 0, dir: Dir::Other, delay: 0 }, 0), then(What::RunAgain(1), MS)]
        }
        Break::CopiedStore => vec![
            then(What::Beside { host: 0, dir: Dir::CopyOf(0), delay: 30 * MS }, 0),
            then(crash(1, false, None), 0),
            then(crash(0, false, None), 29 * MS),
        ],
        Break::CopyForOriginal => {
            // The guest's host fails so late that an operator is asked when the copy is found.
            let late = |what| Fault { when: When::At(heal_at - MS), what };
            let fails = [late(What::StoreFails(0)), late(What::Pause(0, 110 * MS))];
            [then(What::ReplaceDir(0), 0), then(crash(1, false, None), 0)].into_iter().chain(fails).collect()
        }
        Break::BareMount => vec![
            then(crash(1, true, Some(0)), 0),
            then(crash(0, true, None), 0),
            then(What::Beside { host: 0, dir: Dir::Bare, delay: 0 }, 5 * MS),
        ],
        Break::StoreDiesWithBoot => vec![
            then(crash(1, true, Some(0)), 0),
            then(crash(0, true, None), 0),
            then(What::Beside { host: 0, dir: Dir::Bare, delay: 0 }, 5 * MS),
        ],
        Break::NamelessHosts | Break::ForeignBoot => vec![then(What::RunAgain(1), 0)],
        Break::BootIsHost | Break::AnyDisks => {
            // Before the other host is listed, whose disks are then as new.
            let early = |what, time| Fault { when: When::At(time), what };
            let elsewhere = if rule == Break::AnyDisks { SPARE } else { 1 };
            vec![early(crash(0, false, Some(0)), 6 * MS), early(What::RunAgain(elsewhere), 9 * MS)]
        }
        Break::LifeUnpublished => vec![then(crash(1, false, None), 0), then(crash(0, false, None), 0)],
        Break::PublishUnsynced => vec![then(crash(1, true, None), 0), then(crash(0, true, None), 0)],
        Break::KnownUnsynced => vec![
            then(What::OtherWitness(0, heal_at / 2), 0),
            then(crash(0, true, None), MS),
            then(What::RunAgain(0), 2 * MS),
        ],
        _ => Vec::new(),
    }
}
