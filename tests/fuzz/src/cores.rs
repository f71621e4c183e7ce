//! The protocol's cores: any frames from a peer, in any order; answers of the world, late, twice or about something else.
//!
//! What the driver owes a core by contract is kept: what is persisted and applied is so in order and once.

use std::collections::VecDeque;
use std::time::Duration;

use replication::backup::BackupState;
use replication::id::Gfn;
use replication::primary::{GuestEnd, Left, Meeting, PeerId, RoundsConfig};
use replication::wire::{
    Ack, DiskCopy, DiskInfo, DiskOffer, DiskWant, EpochBegin, EpochEnd, Goodbye, GoodbyeReason, Handover, Heartbeat,
    Hello, HelloAck, MachineInfo, RamRange, Refuse, RefuseCode, ResyncDisk,
};
use replication::{
    Backup, BackupAction, BackupConfig, BranchSeed, ChainHash, ClaimResult, EpochId, EpochMark, EpochMeta, EpochWriter,
    Fork, FrameDecoder, Link, Message, Origin, Output, Primary, PrimaryAction, PrimaryConfig, SessionId, StateDigest,
    Term, Time, VmId,
};

use crate::input::Input;

pub const NAME: &str = "vm0";

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.u8() & 1 == 0 { backup(&mut input) } else { primary(&mut input) }
}

pub fn machine() -> MachineInfo {
    MachineInfo {
        ram: vec![RamRange { first: Gfn(0), pages: 16 }],
        vcpus: 1,
        disks: vec![DiskInfo { len: 1 << 20, readonly: false }],
        nets: 1,
        config: Vec::new(),
    }
}

pub fn session(input: &mut Input<'_>) -> SessionId {
    SessionId([input.u8() % 4; 16])
}

fn text(input: &mut Input<'_>) -> String {
    String::from_utf8_lossy(input.some(8)).into_owned()
}

pub fn claim(input: &mut Input<'_>) -> ClaimResult {
    match input.u8() % 3 {
        0 => ClaimResult::Granted,
        1 => ClaimResult::Denied { holder: "b".into() },
        _ => ClaimResult::Unreachable,
    }
}

pub fn epoch(input: &mut Input<'_>) -> EpochId {
    EpochId::try_from(input.edge()).unwrap_or(EpochId(1 << 62))
}

pub fn message(input: &mut Input<'_>) -> Message {
    match input.u8() % 16 {
        0 => Message::Hello(Hello {
            register: None,
            writer: text(input),
            vm_name: NAME.into(),
            durable: input.u8() & 1 == 0,
            machine: machine(),
        }),
        1 => Message::HelloAck(HelloAck {
            writer: text(input),
            place: None,
            nonce: None,
            holds: Some(EpochMark::default()),
        }),
        2 => Message::Refuse(Refuse { code: RefuseCode::Busy, text: text(input) }),
        3 => Message::ResyncPages(input.some(200).to_vec()),
        4 => Message::ResyncDisk(ResyncDisk { disk: input.u16(), offset: input.edge(), data: input.some(64).to_vec() }),
        5 => Message::DiskOffer(DiskOffer {
            disk: input.u16(),
            first_chunk: input.edge(),
            chunk_bytes: input.edge() as u32,
            hashes: vec![[0; 16]; usize::from(input.u8() % 8)],
        }),
        6 => Message::DiskWant(DiskWant {
            disk: input.u16(),
            first_chunk: input.edge(),
            wanted: vec![true; usize::from(input.u8() % 8)],
        }),
        7 => Message::EpochBegin(EpochBegin {
            base: (input.u8() & 1 == 0).then(ChainHash::default),
            released: epoch(input),
        }),
        8 => Message::Pages(input.some(200).to_vec()),
        9 => Message::State(input.some(64).to_vec()),
        10 => Message::EpochEnd(EpochEnd { pages: input.edge(), state_bytes: input.edge(), ..EpochEnd::default() }),
        11 => Message::Ack(Ack { complete: epoch(input), chain: ChainHash::default() }),
        12 => Message::Heartbeat(Heartbeat { released: epoch(input), complete: epoch(input), committed: epoch(input) }),
        13 => Message::Goodbye(Goodbye { reason: GoodbyeReason::GuestEnded, text: text(input) }),
        14 => Message::Handover(Handover { last: epoch(input), chain: ChainHash::default() }),
        _ => Message::Goodbye(Goodbye { reason: GoodbyeReason::Unprotected, text: text(input) }),
    }
}

/// A whole epoch with something of everything, or one that is not ended.
pub fn whole_epoch(link: Link, last: &mut EpochMark, base: bool, input: &mut Input<'_>) -> Vec<u8> {
    let (mut out, epoch, before) = (Vec::new(), last.count.next(), last.chain);
    // Now and then of another line.
    let state = [7; 16];
    let digest = (input.u8() % 16 != 0).then(|| StateDigest::of(&state));
    *last = last.next(digest);
    let released = if base { epoch.prev() } else { EpochId(epoch.0.saturating_sub(u64::from(input.u8() % 4))) };
    let mut writer = EpochWriter::begin(link, epoch, EpochBegin { base: base.then_some(before), released }, &mut out);
    writer.inputs(&[replication::Input { device: 1, bytes: vec![1] }], &mut out);
    writer.state(&state, &mut out);
    writer.disk_write(0, u64::from(input.u8()) * 512, &[1; 512], &mut out);
    if input.u8() % 2 == 0 {
        let (gfn, at, len) = (Gfn(u64::from(input.u8())), u16::from(input.u8()) * 16, u16::from(input.u8()) * 17);
        writer.disk_copies(&[DiskCopy { disk: 0, offset: u64::from(input.u8()) * 16, gfn, at, len }], &mut out);
    }
    writer.outputs(&[Output { device: 1, kind: 0, bytes: vec![2] }], &mut out);
    if input.u8() % 8 != 0 {
        writer.end(last.chain, &mut out);
    }
    out
}

pub fn backup_config() -> BackupConfig {
    BackupConfig {
        vm_name: NAME.into(),
        writer: "fuzz".into(),
        heartbeat: Duration::from_millis(10),
        detect: Duration::from_millis(50),
        disconnect_grace: Duration::from_millis(5),
        claim_retry: Duration::from_millis(20),
        staged_bytes_beyond_ram: 1 << 16,
        ack_bytes_max: 4096,
    }
}

fn backup(input: &mut Input<'_>) {
    let mut core = Backup::new(backup_config());
    let vm = VmId::of_name(NAME);
    let (mut now, mut is_connected) = (Time(0), false);
    let (mut persist, mut apply) = (VecDeque::new(), VecDeque::new());
    let mut last = EpochMark { branch: Term(1), ..EpochMark::default() };
    for _ in 0..400 {
        if !input.has_more() {
            break;
        }
        match input.u8() % 16 {
            0 if !is_connected => {
                core.handle_connected(now);
                is_connected = true;
            }
            0 | 1 if is_connected => {
                core.handle_disconnected(now);
                is_connected = false;
            }
            2 | 3 => {
                let link = Link { vm, session: session(input), term: Term(input.edge() % 8) };
                let bytes = message(input).to_frame(&link, epoch(input));
                give(&mut core, now, &bytes);
            }
            4 => {
                let link = Link { vm, session: core.session_id().unwrap_or(SessionId([1; 16])), term: Term(1) };
                let hello = Hello {
                    register: None,
                    writer: String::new(),
                    vm_name: NAME.into(),
                    durable: true,
                    machine: machine(),
                };
                give(&mut core, now, &Message::Hello(hello).to_frame(&link, EpochId(0)));
            }
            5 | 6 => {
                let link = Link { vm, session: core.session_id().unwrap_or(SessionId([1; 16])), term: Term(1) };
                let base = core.state() == BackupState::Syncing;
                if base {
                    last.count = EpochId(epoch(input).0.max(1)).prev();
                }
                let bytes = whole_epoch(link, &mut last, base, input);
                give(&mut core, now, &bytes);
            }
            7 => now = now.after(Duration::from_millis(u64::from(input.u8()))),
            8 => core.handle_timeout(now),
            9 => core.handle_accept(now, None, None),
            10 if input.u8() % 4 == 0 => core.handle_refuse(now, RefuseCode::Machine, "no"),
            11 => {
                if let Some((session, epoch, is_base)) = persist.pop_front() {
                    if is_base && input.u8() % 4 == 0 {
                        core.handle_base_refused(now, session, "no");
                    } else {
                        core.handle_durable(now, session, epoch);
                    }
                }
            }
            12 => {
                if let Some((session, epoch)) = apply.pop_front() {
                    core.handle_applied(now, session, epoch);
                }
            }
            13 => core.handle_claim(now, core.session_id().unwrap_or_else(|| session(input)), claim(input)),
            14 => match input.u8() % 5 {
                0 => drop(core.handle_override()),
                4 => {
                    let session = core.session_id().unwrap_or(SessionId([1; 16]));
                    let handover = Handover { last: core.pointers().acked(), chain: last.chain };
                    let link = Link { vm, session, term: Term(1) };
                    give(&mut core, now, &Message::Handover(handover).to_frame(&link, EpochId(0)));
                }
                1 => drop(core.handle_stop(now, "stop")),
                2 => core.handle_base_refused(now, session(input), "no"),
                _ => core.handle_alive(now),
            },
            _ => core.handle_claim(now, session(input), claim(input)),
        }
        while let Some(action) = core.poll_action() {
            match action {
                BackupAction::ReadMemory { session, epoch } => core.handle_memory(session, epoch, |gfn, page| {
                    assert!(machine().has_page(gfn));
                    page.fill(gfn.0 as u8);
                }),
                BackupAction::Persist(epoch) => persist.push_back((epoch.session, epoch.mark.count, epoch.base)),
                BackupAction::Apply(epoch) => apply.push_back((epoch.session, epoch.mark.count)),
                BackupAction::Disconnect => is_connected = false,
                BackupAction::TakeOver(over) => {
                    let origin = Origin::after(Fork::Mark(over.fork), BranchSeed::default());
                    assert!(origin.first() > over.fork.count);
                }
                _ => {}
            }
        }
        while core.poll_transmit().is_some() {}
        let _ = (core.poll_timeout(), core.pointers().to_string(), core.waiting_bytes(), core.needs_memory());
    }
}

fn give(core: &mut Backup, now: Time, bytes: &[u8]) {
    let mut decoder = FrameDecoder::new(VmId::of_name(NAME));
    decoder.handle_bytes(bytes);
    while let Ok(Some(frame)) = decoder.poll_frame() {
        if core.handle_frame(now, frame).is_err() {
            return;
        }
    }
}

pub fn primary_config(flags: u8) -> PrimaryConfig {
    PrimaryConfig {
        vm_name: NAME.into(),
        writer: "fuzz".into(),
        machine: machine(),
        term: Term(1),
        origin: Origin::boot(BranchSeed([1; 16])),
        heartbeat: Duration::from_millis(10),
        detect: Duration::from_millis(50),
        ack_wait: Duration::from_millis(500),
        fill_notice: Duration::from_millis(200),
        fill_wait: Duration::from_millis(1000),
        rounds: RoundsConfig {
            pause: Duration::from_millis(10),
            pause_max: Duration::from_millis(20),
            base_bytes: 1 << 20,
            base_bytes_max: 4 << 20,
            rounds_max: 12,
            time_max: Duration::from_millis(1000),
            share_min: 5,
        },
        fill_rest: Duration::from_millis(40),
        fill_rest_max: Duration::from_millis(100),
        claim_retry: Duration::from_millis(20),
        in_flight_epochs_max: 4,
        in_flight_bytes_max: 1 << 16,
        log_counts: flags & 1 != 0,
        has_store: flags & 1 != 0,
        backup_durable: flags & 2 != 0,
        members: Vec::new(),
        begins_afresh: flags & 4 != 0,
        is_witnessed: flags & 8 != 0,
    }
}

/// A branch that begins anywhere.
pub fn origin(input: &mut Input<'_>) -> Origin {
    let count = epoch(input);
    let fork = match input.u8() % 4 {
        0 => return Origin::boot(BranchSeed([1; 16])),
        1 => Fork::Number(count),
        _ => Fork::Mark(EpochMark { branch: Term(1), count, ..EpochMark::default() }),
    };
    Origin::after(fork, BranchSeed([1; 16]))
}

fn primary(input: &mut Input<'_>) {
    let config = primary_config(input.u8());
    let mut core = Primary::new(PrimaryConfig { origin: origin(input), ..config });
    let mut now = Time(0);
    let mut release = None;
    for _ in 0..400 {
        if !input.has_more() {
            break;
        }
        let asked = core.link(PeerId::FIRST).map_or_else(|| session(input), |link| link.session);
        match input.u8() % 20 {
            0 => core.handle_connected(now, PeerId::FIRST, session(input), None),
            1 => core.handle_disconnected(now, PeerId::FIRST),
            2 | 3 => {
                let link = Link { vm: VmId::of_name(NAME), session: asked, term: Term(1) };
                let bytes = message(input).to_frame(&link, epoch(input));
                give_primary(&mut core, now, &bytes);
            }
            4 => now = now.after(Duration::from_millis(u64::from(input.u8()))),
            5 => core.handle_timeout(now),
            6 | 7 => {
                let base = core.may_seal_base(asked).then_some(asked);
                // A base waits for all before it; anything else does not come while one is due.
                if core.may_seal() {
                    let meta = EpochMeta { epoch: core.pointers().running(), ship_bytes: u64::from(input.u16()), base };
                    let _ = core.handle_sealed(meta);
                    if core.pointers().sealed() == meta.epoch {
                        core.handle_identified(meta.epoch, Some(StateDigest::default()));
                    }
                }
            }
            8 => core.handle_shipping(now, asked, core.pointers().sealed()),
            9 => core.handle_shipped(now, asked, core.pointers().sealed()),
            10 => core.handle_logged(now, core.pointers().sealed()),
            11 => {
                if let Some(upto) = release.take() {
                    core.handle_released(now, upto);
                }
            }
            12 => match input.u8() % 3 {
                0 => core.handle_met(now, asked, Meeting::Same),
                1 => core.handle_met(now, asked, Meeting::Other),
                _ => core.handle_met(now, asked, Meeting::NoAnswer),
            },
            13 => match input.u8() % 4 {
                0 => core.handle_filled(asked),
                1 => core.handle_fill_sent(asked, input.edge(), input.edge()),
                2 => core.handle_fill_failed(now, asked),
                _ => {
                    let left = Left { page_bytes: input.edge(), write_bytes: u64::from(input.u16()) };
                    let _ = core.handle_fill_left(now, asked, left);
                }
            },
            14 => core.handle_enlisted(now, asked, claim(input)),
            15 => core.handle_claim(now, asked, claim(input)),
            16 => match input.u8() % 8 {
                0 => core.handle_unasked_look(ClaimResult::Denied { holder: "b".into() }),
                1 => core.handle_looked(now, claim(input)),
                2 => core.handle_delisted(now, session(input), claim(input)),
                3 => core.handle_end_recorded(now, claim(input)),
                4 => core.handle_unprotect(now, "operator"),
                5 => core.handle_guest_ended(now, GuestEnd { text: "off".into(), begins_anew: input.u8() & 1 == 0 }),
                6 => core.handle_broken_stream(now, PeerId::FIRST),
                _ => core.handle_alive(now, PeerId::FIRST),
            },
            17 => core.handle_disk_offered(asked, input.u16(), input.edge(), usize::from(input.u8() % 8)),
            18 => {
                let link = Link { vm: VmId::of_name(NAME), session: asked, term: Term(1) };
                let ack = Ack { complete: core.pointers().sealed(), chain: core.last_mark().chain };
                let ack = Message::Ack(ack);
                give_primary(&mut core, now, &ack.to_frame(&link, EpochId(0)));
            }
            _ => {
                let link = Link { vm: VmId::of_name(NAME), session: asked, term: Term(1) };
                let ack = Message::HelloAck(HelloAck { writer: String::new(), place: None, nonce: None, holds: None });
                give_primary(&mut core, now, &ack.to_frame(&link, EpochId(0)));
            }
        }
        while let Some(action) = core.poll_action() {
            if let PrimaryAction::Release { upto } = action {
                release = Some(upto);
            }
        }
        while core.poll_transmit().is_some() {}
        let _ = (core.fill_figures(PeerId::FIRST), core.poll_timeout(), core.pointers().to_string(), core.in_flight());
    }
}

fn give_primary(core: &mut Primary, now: Time, bytes: &[u8]) {
    let mut decoder = FrameDecoder::new(VmId::of_name(NAME));
    decoder.handle_bytes(bytes);
    while let Ok(Some(frame)) = decoder.poll_frame() {
        if core.handle_frame(now, PeerId::FIRST, frame).is_err() {
            return;
        }
    }
}
