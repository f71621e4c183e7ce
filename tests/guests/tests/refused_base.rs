//! A guest that the backup's host cannot run is refused before it is filled, and a base that its KVM cannot load when it
//! comes: neither when the primary is dead.
//!
//! Hosts whose CPUs or KVMs differ cannot be had here. So what the primary says is altered on its way. In its Hello the guest
//! was promised something of KVM that no kernel has. In its base one entry of the CPUID table becomes one that no KVM takes,
//! and the epoch's counts, checksum and chain hash are made right again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use guests::place::wait_progress;
use guests::{Guest, Place, console, needs};
use machine::state::MachineState;
use outlast_api::{BackupState, Occurrence};
use replication::wire::{EpochBegin, Frame, Hello, Message};
use replication::{EpochMark, EpochWriter, FrameDecoder, StateDigest, VmId};

/// The leaf that says how wide addresses are. KVM knows 48 and 57 bits of virtual address.
const ADDRESS_WIDTHS: u64 = 0x8000_0008;

/// The leaf in which KVM says what it has for its guests, and a bit of it that is not used.
const KVM_FEATURES: u64 = 0x4000_0001;
const UNKNOWN_FEATURE: u64 = 1 << 30;

/// What is altered on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Altered {
    Hello,
    Base,
}

/// The primary's Hello, of a guest that was promised what no kernel has.
fn with_an_unknown_feature(mut hello: Hello) -> Hello {
    let mut described: serde_json::Value = serde_json::from_slice(&hello.machine.config).expect("drivers speak JSON");
    let entries = described["cpuid"]["entries"].as_array_mut().expect("a table of entries");
    let entry = entries.iter_mut().find(|entry| entry["function"] == KVM_FEATURES).expect("every KVM has this leaf");
    let features = entry["registers"][0].as_u64().expect("a register");
    entry["registers"][0] = (features | UNKNOWN_FEATURE).into();
    hello.machine.config = serde_json::to_vec(&described).expect("it was JSON");
    hello
}

fn with_impossible_addresses(state: &[u8]) -> Vec<u8> {
    let mut state = MachineState::decode(state).expect("the state of a primary that is well");
    let mut table = serde_json::to_value(&state.cpuid).expect("the table is plain data");
    let entries = table["entries"].as_array_mut().expect("a table of entries");
    let entry = entries.iter_mut().find(|entry| entry["function"] == ADDRESS_WIDTHS).expect("every CPU has this leaf");
    let widths = entry["registers"][0].as_u64().expect("a register");
    entry["registers"][0] = ((widths & !0xff00) | (33 << 8)).into();
    state.cpuid = serde_json::from_value(table).expect("only a number was changed");
    state.encode()
}

/// The frames of one epoch, again, with another state.
fn altered(frames: Vec<Frame>) -> Vec<u8> {
    let (link, epoch) = (frames[0].link, frames[0].epoch);
    let mut messages: Vec<Message> = frames.into_iter().map(|f| f.into_message().expect("well formed")).collect();
    let Some(Message::EpochEnd(end)) = messages.pop() else { panic!("an epoch ends with its end") };
    let state: Vec<u8> = messages
        .iter()
        .filter_map(|m| if let Message::State(part) = m { Some(&part[..]) } else { None })
        .flatten()
        .copied()
        .collect();
    let (mut out, mut pages) = (Vec::new(), end.pages);
    let mut messages = messages.into_iter();
    let Some(Message::EpochBegin(begin)) = messages.next() else { panic!("an epoch begins with its beginning") };
    let mut writer = EpochWriter::begin(link, epoch, begin, &mut out);
    for message in messages {
        match message {
            Message::EventLog(inputs) => writer.inputs(&inputs, &mut out),
            // Only the sum of the counts is told.
            Message::Pages(body) => writer.pages(&body, std::mem::take(&mut pages), &mut out),
            Message::State(_) => {}
            Message::Outputs(outputs) => writer.outputs(&outputs, &mut out),
            other => panic!("a guest without disks sends no {:?}", other.kind()),
        }
    }
    let state = with_impossible_addresses(&state);
    writer.state(&state, &mut out);
    let chain = begin.base.expect("it is a base");
    let before = EpochMark { branch: link.term, count: epoch.prev(), chain };
    writer.end(before.next(Some(StateDigest::of(&state))).chain, &mut out);
    out
}

/// Passes on what a primary sends, with one thing altered.
fn pass_altered(mut primary: TcpStream, mut backup: TcpStream, what: Altered) {
    let mut decoder = FrameDecoder::new(VmId::of_name(guests::place::NAME));
    let (mut bytes, mut base) = (vec![0; 64 << 10], Vec::new());
    while let Ok(count @ 1..) = primary.read(&mut bytes) {
        decoder.handle_bytes(&bytes[..count]);
        while let Some(frame) = decoder.poll_frame().expect("a primary that is well sends frames") {
            let (link, epoch) = (frame.link, frame.epoch);
            let message = Message::decode(frame.kind, frame.body.clone()).expect("well formed");
            let message = match message {
                Message::Hello(hello) if what == Altered::Hello => Message::Hello(with_an_unknown_feature(hello)),
                other => other,
            };
            let begins =
                what == Altered::Base && matches!(message, Message::EpochBegin(EpochBegin { base: Some(_), .. }));
            let belongs = begins || (!base.is_empty() && !matches!(message, Message::Heartbeat(_)));
            let ends = belongs && matches!(message, Message::EpochEnd(_));
            if belongs {
                base.push(frame);
            }
            let out = match (belongs, ends) {
                (_, true) => altered(std::mem::take(&mut base)),
                (true, false) => continue,
                (false, _) => message.to_frame(&link, epoch),
            };
            if backup.write_all(&out).is_err() {
                drop(primary.shutdown(Shutdown::Both));
                return;
            }
        }
    }
}

fn altering_wire(to: u16, what: Altered) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        while let Ok((primary, _)) = listener.accept() {
            // When the backup is gone the primary finds the connection closed.
            let Ok(backup) = TcpStream::connect(("127.0.0.1", to)) else { return };
            let (mut from, mut answers) =
                (backup.try_clone().expect("a socket"), primary.try_clone().expect("a socket"));
            thread::spawn(move || {
                drop(std::io::copy(&mut from, &mut answers));
                drop(answers.shutdown(Shutdown::Both));
            });
            pass_altered(primary, backup, what);
        }
    });
    port
}

#[test]
fn guest_whose_processor_the_backup_has_not_is_refused_before_it_is_filled() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let backup = place.backup("b", &guest).start();
    let mut primary = place.primary("a", &guest, altering_wire(backup.port(), Altered::Hello)).start();
    for (side, event) in [(&backup, "refused"), (&primary, "solo")] {
        let reason = match side.wait_event(event) {
            Occurrence::Refused { reason } | Occurrence::Solo { reason } => reason,
            other => panic!("{other:?} has no reason"),
        };
        for says in
            ["run a kernel here that is as new", "CPUID leaf 0x40000001.0 eax is 0x", " for the guest, 0x", " here"]
        {
            assert!(reason.contains(says), "{event} says not {says:?}: {reason}");
        }
    }
    assert_eq!(backup.count("resync-started"), 0, "it was filled before it was refused");
    wait_progress(&primary, &guest, 20);
    assert_eq!(primary.ctl(&["stop"]).0, 0);
    assert_eq!(primary.wait(), 0);
    console::check(&guest, &primary.console()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn base_that_the_backups_kvm_cannot_load_is_not_acked_and_the_guest_goes_on() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut backup = place.backup("b", &guest).start();
    let mut primary = place.primary("a", &guest, altering_wire(backup.port(), Altered::Base)).start();
    // The connection ends, not the backup; and it is not filled with the same guest again.
    backup.wait_event("refused");
    assert!(backup.log().contains("set CPUID of vCPU 0"), "{}", backup.log());
    assert!(!backup.log().contains("panicked"), "{}", backup.log());
    primary.wait_event("solo");
    wait_progress(&primary, &guest, 20);
    assert_eq!(
        (primary.count("protected"), backup.count("protected")),
        (0, 0),
        "a base that cannot be loaded was acked"
    );
    primary.wait_event("solo");
    assert_eq!(backup.following().state, BackupState::Waiting, "{}", backup.log());
    assert_eq!(backup.ctl(&["stop"]).0, 0);
    assert_eq!(backup.wait(), 0);
    assert_eq!(primary.ctl(&["stop"]).0, 0);
    assert_eq!(primary.wait(), 0);
    console::check(&guest, &primary.console()).unwrap_or_else(|e| panic!("{e}"));
}
