use proptest::prelude::*;

use super::*;
use crate::id::Gfn;
use crate::lineage::{ChainHash, EpochMark};
use crate::output::{Input, Output};
use crate::view::{Greeting, Incarnation, Known, Location, Nonce, Place, PlaceKind, RecordHash, RegisterId};

const VM: VmId = VmId(77);

fn link() -> Link {
    Link { vm: VM, session: SessionId([3; 16]), term: Term(4) }
}

fn decode(bytes: &[u8]) -> Result<Vec<Frame>, WireError> {
    let mut decoder = FrameDecoder::new(VM);
    decoder.handle_bytes(bytes);
    std::iter::from_fn(|| decoder.poll_frame().transpose()).take(1000).collect()
}

fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_frame(&link(), kind, EpochId(9), body, &mut out);
    out
}

/// A frame with one header field changed and the header's checksum made right again.
fn with_header(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = frame(Kind::State, b"state");
    out[at..at + bytes.len()].copy_from_slice(bytes);
    let checksum = xxh3_64(&out[..64]);
    out[64..72].copy_from_slice(&checksum.to_le_bytes());
    out
}

fn greeting() -> Greeting {
    let known = Known { register: RegisterId([1; 16]), generation: 2, number: 7, hash: RecordHash([2; 16]) };
    Greeting { known, primary: Incarnation([3; 16]), nonce: Nonce([4; 16]) }
}

fn place() -> Place {
    let location = Location { host: "b".into(), machine: "m".into(), boot: "1".into(), lock: "/run/lock".into() };
    Place { id: Incarnation([5; 16]), kind: PlaceKind::Process, location }
}

fn mark() -> EpochMark {
    EpochMark { branch: Term(3), count: EpochId(11), chain: ChainHash([7; 16]) }
}

fn messages() -> Vec<Message> {
    let machine = MachineInfo {
        ram: vec![RamRange { first: Gfn(0), pages: 16 }, RamRange { first: Gfn(1 << 20), pages: 4 }],
        vcpus: 2,
        disks: vec![DiskInfo { len: 4096, readonly: false }, DiskInfo { len: 512, readonly: true }],
        nets: 1,
        config: b"{}".to_vec(),
    };
    vec![
        Message::Hello(Hello {
            register: Some(greeting()),
            writer: "outlast 0.1".into(),
            vm_name: "vm0".into(),
            durable: true,
            machine,
        }),
        Message::HelloAck(HelloAck {
            writer: "outlast 0.1".into(),
            place: Some(place()),
            nonce: Some(Nonce([6; 16])),
            holds: Some(mark()),
        }),
        Message::Refuse(Refuse { code: RefuseCode::Busy, text: "später".into() }),
        Message::ResyncPages(vec![1, 2, 3]),
        Message::ResyncDisk(ResyncDisk { disk: 1, offset: 512, data: vec![7; 600] }),
        Message::DiskOffer(DiskOffer { disk: 0, first_chunk: 3, chunk_bytes: 1 << 20, hashes: vec![[1; 16], [2; 16]] }),
        Message::DiskWant(DiskWant { disk: 0, first_chunk: 3, wanted: vec![true, false] }),
        Message::EpochBegin(EpochBegin { base: Some(ChainHash([7; 16])), released: EpochId(8) }),
        Message::EventLog(vec![Input { device: 1, bytes: vec![1; 60] }, Input { device: 2, bytes: vec![] }]),
        Message::Pages(vec![9; 11]),
        Message::State(vec![5; 100]),
        Message::DiskWrites(vec![DiskWrite { disk: 0, offset: 4096, data: vec![1; 512] }]),
        Message::Outputs(vec![Output { device: 1, kind: 2, bytes: vec![3; 64] }]),
        Message::EpochEnd(EpochEnd {
            inputs: 1,
            pages: 2,
            state_bytes: 3,
            disk_writes: 4,
            outputs: 5,
            checksum: 6,
            chain: ChainHash([7; 16]),
        }),
        Message::Ack(Ack { complete: EpochId(12), chain: ChainHash([7; 16]) }),
        Message::Heartbeat(Heartbeat { released: EpochId(1), complete: EpochId(3), committed: EpochId(2) }),
        Message::Goodbye(Goodbye { reason: GoodbyeReason::GuestEnded, text: "powered off".into() }),
        Message::StateDelta(StateDelta { len: 100, runs: vec![(3, vec![1, 2]), (99, vec![4])] }),
        Message::DiskCopies(vec![DiskCopy { disk: 1, offset: 8192, gfn: Gfn(3), at: 512, len: 3584 }]),
        Message::Forswear(Forswear { heir: RegisterId([9; 16]), proposal: b"{}".to_vec(), nonce: Nonce([8; 16]) }),
        Message::Forsworn(Forsworn { heir: RegisterId([9; 16]), result: Ok(Nonce([8; 16])) }),
        Message::Handover(Handover { last: EpochId(12), chain: ChainHash([7; 16]) }),
    ]
}

/// A code that was sent and not read made every refusal a malformed frame.
#[test]
fn every_refusal_decodes_to_what_was_encoded() {
    for code in RefuseCode::ALL {
        let message = Message::Refuse(Refuse { code, text: "no".into() });
        let [frame] = <[Frame; 1]>::try_from(decode(&message.to_frame(&link(), EpochId(0))).unwrap()).unwrap();
        assert_eq!(frame.into_message().unwrap(), message);
    }
}

#[test]
fn refusal_to_forswear_decodes_to_what_was_encoded() {
    let message = Message::Forsworn(Forsworn { heir: RegisterId([9; 16]), result: Err("the witness is full".into()) });
    let [frame] = <[Frame; 1]>::try_from(decode(&message.to_frame(&link(), EpochId(0))).unwrap()).unwrap();
    assert_eq!(frame.into_message().unwrap(), message);
}

#[test]
fn every_message_decodes_to_what_was_encoded() {
    let messages = messages();
    assert_eq!(messages.iter().map(Message::kind).collect::<Vec<_>>(), Kind::ALL);
    for message in messages {
        let frames = decode(&message.to_frame(&link(), EpochId(9))).unwrap();
        let [frame] = <[Frame; 1]>::try_from(frames).unwrap();
        assert_eq!((frame.link, frame.epoch), (link(), EpochId(9)));
        assert_eq!(frame.into_message().unwrap(), message);
    }
}

#[test]
fn every_message_cut_short_is_an_error() {
    for message in messages() {
        let frame = decode(&message.to_frame(&link(), EpochId(9))).unwrap().remove(0);
        if matches!(frame.kind, Kind::ResyncPages | Kind::Pages | Kind::State | Kind::ResyncDisk) {
            continue; // any length is a body of these
        }
        let short = frame.body[..frame.body.len() - 1].to_vec();
        assert!(Message::decode(frame.kind, short).is_err(), "{:?}", frame.kind);
        let long = [&frame.body[..], &[0]].concat();
        assert!(Message::decode(frame.kind, long).is_err(), "{:?}", frame.kind);
    }
}

#[test]
fn header_bytes_are_as_documented() {
    let bytes = frame(Kind::Ack, &12u64.to_le_bytes());
    assert_eq!(bytes.len(), HEADER_LEN + 8);
    assert_eq!(&bytes[..16], b"OUTL\x08\0\x0f\0\0\0\0\0\x08\0\0\0");
    assert_eq!(bytes[16..24], 77u64.to_le_bytes());
    assert_eq!(bytes[24..40], [3; 16]);
    assert_eq!(bytes[40..48], 4u64.to_le_bytes());
    assert_eq!(bytes[48..56], 9u64.to_le_bytes());
    assert_eq!(bytes[56..64], xxh3_64(&12u64.to_le_bytes()).to_le_bytes());
    assert_eq!(bytes[64..72], xxh3_64(&bytes[..64]).to_le_bytes());
}

#[test]
fn stranger_is_told_apart_by_its_first_four_bytes() {
    let mut decoder = FrameDecoder::new(VM);
    decoder.handle_bytes(b"GET ");
    let error = decoder.poll_frame().unwrap_err();
    assert_eq!(error, WireError::BadMagic { found: *b"GET " });
    assert!(error.to_string().contains("does not speak Outlast"), "{error}");
    let tls = WireError::BadMagic { found: [22, 3, 1, 2] };
    assert!(tls.to_string().contains("speaks TLS"), "{tls}");
    assert!(error.to_string().starts_with("the peer does not speak Outlast"));
}

#[test]
fn header_fields_out_of_bounds_are_typed_errors() {
    let error = |at, bytes: &[u8]| decode(&with_header(at, bytes)).unwrap_err();
    for theirs in 1..PROTOCOL_VERSION {
        let mismatch = WireError::VersionMismatch { ours: PROTOCOL_VERSION, theirs };
        assert_eq!(error(4, &theirs.to_le_bytes()), mismatch, "versions do not pair");
    }
    assert_eq!(error(6, &[0, 0]), WireError::UnknownKind { kind: 0 });
    assert_eq!(error(6, &[23, 0]), WireError::UnknownKind { kind: 23 });
    assert_eq!(error(8, &[1, 0, 0, 0]), WireError::ReservedFlags { flags: 1 });
    let len = (BODY_MAX as u32 + 1).to_le_bytes();
    assert_eq!(error(12, &len), WireError::TooLong { len: BODY_MAX as u64 + 1, max: BODY_MAX as u64 });
    assert_eq!(error(16, &[78]), WireError::WrongVm { ours: VM, theirs: VmId(78) });
    assert_eq!(error(48, &[0xff; 8]), WireError::EpochTooLarge { epoch: u64::MAX });
    assert!(decode(&with_header(48, &(1u64 << 62).to_le_bytes())).is_ok());
}

#[test]
fn version_mismatch_is_seen_before_the_checksum() {
    let mut bytes = frame(Kind::State, b"state");
    bytes[4] = 9;
    assert_eq!(decode(&bytes).unwrap_err(), WireError::VersionMismatch { ours: PROTOCOL_VERSION, theirs: 9 });
}

#[test]
fn frames_before_an_error_are_given_and_the_error_stays() {
    let mut decoder = FrameDecoder::new(VM);
    decoder.handle_bytes(&[frame(Kind::State, b"one"), frame(Kind::State, b""), b"garbage".to_vec()].concat());
    assert_eq!(decoder.poll_frame().unwrap().unwrap().body[..], b"one"[..]);
    assert_eq!(decoder.poll_frame().unwrap().unwrap().body[..], b""[..]);
    assert!(decoder.poll_frame().is_err());
    decoder.handle_bytes(&frame(Kind::State, b"two"));
    assert!(decoder.poll_frame().is_err());
}

#[test]
fn memory_ranges_that_overlap_are_refused() {
    let ram = |ranges: &[(u64, u64)]| {
        let ram = ranges.iter().map(|(first, pages)| RamRange { first: Gfn(*first), pages: *pages }).collect();
        let machine = MachineInfo { ram, ..MachineInfo::default() };
        let hello = Hello { register: None, writer: String::new(), vm_name: String::new(), durable: false, machine };
        decode(&Message::Hello(hello).to_frame(&link(), EpochId(0))).unwrap().remove(0).into_message().is_ok()
    };
    assert!(ram(&[(0, 4), (4, 4)]));
    assert!(!ram(&[(0, 5), (4, 4)]));
    assert!(!ram(&[(0, 0)]));
    assert!(!ram(&[(u64::MAX, 2)]));
    assert!(!ram(&[(0, 1 << 35)]));
}

proptest! {
    #[test]
    fn frames_in_any_pieces_come_out_whole(cuts in prop::collection::vec(1usize..200, 1..40)) {
        let stream: Vec<u8> = messages().iter().flat_map(|message| message.to_frame(&link(), EpochId(9))).collect();
        let mut decoder = FrameDecoder::new(VM);
        let (mut rest, mut got) = (&stream[..], Vec::new());
        for cut in cuts.iter().cycle() {
            let (piece, left) = rest.split_at((*cut).min(rest.len()));
            decoder.handle_bytes(piece);
            while let Some(frame) = decoder.poll_frame().unwrap() {
                got.push(frame.into_message().unwrap());
            }
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(!decoder.is_inside_frame());
        prop_assert_eq!(got, messages());
    }

    #[test]
    fn one_flipped_bit_never_passes(at in 0usize..100, bit in 0u8..8) {
        let mut bytes = frame(Kind::State, &[7; 28]);
        bytes[at] ^= 1 << bit;
        // A longer length leaves the frame unfinished; everything else is an error. Nothing comes out.
        prop_assert!(decode(&bytes).map_or(true, |frames| frames.is_empty()));
    }

    #[test]
    fn any_bytes_never_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..400), prefix in 0usize..72) {
        let mut stream = frame(Kind::State, b"")[..prefix].to_vec();
        stream.extend(&bytes);
        let mut decoder = FrameDecoder::new(VM);
        decoder.handle_bytes(&stream);
        while let Ok(Some(_)) = decoder.poll_frame() {}
        prop_assert!(decoder.poll_frame().is_err() || stream.len() < HEADER_LEN + BODY_MAX);
    }

    #[test]
    fn any_body_never_panics_and_what_decodes_encodes_alike(kind in 0usize..17, body in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::decode(Kind::ALL[kind], body.clone()) {
            let again = decode(&message.to_frame(&link(), EpochId(1))).unwrap().remove(0);
            prop_assert_eq!(&again.body[..], &body[..]);
        }
    }
}
