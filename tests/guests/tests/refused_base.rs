//! A base that the backup's KVM cannot load is refused when it comes, not when the primary is dead.
//!
//! Hosts whose KVMs differ cannot be had here. So the base is altered on its way: of the CPUID table that is in it one
//! entry becomes one that no KVM takes, and the epoch's counts and checksum are made right again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use guests::place::wait_progress;
use guests::{Guest, Place, console, needs};
use replication::wire::{EpochBegin, Frame, Message};
use replication::{EpochWriter, FrameDecoder, VmId};
use vmm::machine::state::MachineState;

/// The leaf that says how wide addresses are. KVM knows 48 and 57 bits of virtual address.
const ADDRESS_WIDTHS: u64 = 0x8000_0008;

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
    writer.state(&with_impossible_addresses(&state), &mut out);
    writer.end(&mut out);
    out
}

/// Passes on what a primary sends, with its base altered.
fn pass_altered(mut primary: TcpStream, mut backup: TcpStream) {
    let mut decoder = FrameDecoder::new(VmId::of_name(guests::place::NAME));
    let (mut bytes, mut base) = (vec![0; 64 << 10], Vec::new());
    while let Ok(count @ 1..) = primary.read(&mut bytes) {
        decoder.handle_bytes(&bytes[..count]);
        while let Some(frame) = decoder.poll_frame().expect("a primary that is well sends frames") {
            let (link, epoch) = (frame.link, frame.epoch);
            let message = Message::decode(frame.kind, frame.body.clone()).expect("well formed");
            let begins = matches!(message, Message::EpochBegin(EpochBegin { base: true, .. }));
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

fn altering_wire(to: u16) -> u16 {
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
            pass_altered(primary, backup);
        }
    });
    port
}

#[test]
fn base_that_the_backups_kvm_cannot_load_is_not_acked_and_the_guest_goes_on() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut backup = place.backup("b", &guest).start();
    let mut primary = place.primary("a", &guest, altering_wire(backup.port())).start();
    assert_eq!(backup.wait(), 1, "{}", backup.log());
    assert!(backup.log().contains("set CPUID of vCPU 0"), "{}", backup.log());
    assert!(!backup.log().contains("panicked"), "{}", backup.log());
    primary.wait_event("solo");
    wait_progress(&primary, &guest, 20);
    assert_eq!(
        (primary.count("protected"), backup.count("protected")),
        (0, 0),
        "a base that cannot be loaded was acked"
    );
    assert_eq!(primary.ctl(&["stop"]).0, 0);
    assert_eq!(primary.wait(), 0);
    console::check(&guest, &primary.console()).unwrap_or_else(|e| panic!("{e}"));
}
