use super::*;
use crate::id::{Gfn, Term, VmId};
use crate::lineage::tests::line_of;
use crate::page::PageEncoder;
use crate::ship::EpochWriter;
use crate::state::ShippedState;
use crate::wire::{DiskInfo, FrameDecoder, Link, RamRange};

const SESSION: SessionId = SessionId([1; 16]);

fn link() -> Link {
    Link { vm: VmId(1), session: SESSION, term: Term(1) }
}

fn assembly(staged_bytes_max: usize) -> Assembly {
    let machine = MachineInfo {
        ram: vec![RamRange { first: Gfn(0), pages: 4 }],
        disks: vec![DiskInfo { len: 1 << 20, readonly: false }, DiskInfo { len: 1 << 20, readonly: true }],
        ..MachineInfo::default()
    };
    Assembly::new(SESSION, Term(1), machine, staged_bytes_max)
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = FrameDecoder::new(VmId(1));
    decoder.handle_bytes(bytes);
    std::iter::from_fn(|| decoder.poll_frame().unwrap()).collect()
}

fn input(tag: u8) -> Input {
    Input { device: 1, bytes: vec![tag] }
}

/// The epoch before `epoch`, where all have this state.
fn before(epoch: u64, state: &[u8]) -> EpochMark {
    line_of(Term(1), epoch - 1, |_| state.to_vec())
}

fn base(epoch: u64) -> EpochBegin {
    EpochBegin { base: Some(before(epoch, &[]).chain), released: EpochId(epoch - 1) }
}

fn end_of_base(writer: EpochWriter, out: &mut Vec<u8>) {
    writer.end(before(6, &[]).chain, out);
}

fn epoch_frames(epoch: u64, base: bool) -> Vec<Frame> {
    let mut out = Vec::new();
    let begin = EpochBegin { base: base.then(|| before(epoch, b"registers").chain), released: EpochId(epoch - 1) };
    let mut writer = EpochWriter::begin(link(), EpochId(epoch), begin, &mut out);
    writer.inputs(&[input(1), input(2)], &mut out);
    let mut encoder = PageEncoder::new();
    encoder.push(Gfn(2), &[9; 4096], None);
    encoder.take_batch(|body, pages| writer.pages(body, pages, &mut out));
    writer.state(b"registers", &mut out);
    writer.disk_write(0, 512, &[3; 600 << 10], &mut out);
    writer.outputs(&[Output { device: 1, kind: 0, bytes: vec![5; 60] }], &mut out);
    writer.end(before(epoch + 1, b"registers").chain, &mut out);
    frames(&out)
}

fn feed(assembly: &mut Assembly, frames: Vec<Frame>) -> Result<Option<AssembledEpoch>, PeerError> {
    let mut whole = None;
    for frame in frames {
        if let Assembled::Whole(epoch) = assembly.handle_frame(frame, 0)? {
            whole = Some(*epoch);
        }
    }
    Ok(whole)
}

#[test]
fn epoch_written_comes_out_as_it_went_in() {
    let epoch = feed(&mut assembly(1 << 20), epoch_frames(5, true)).unwrap().unwrap();
    assert_eq!((epoch.mark.count, epoch.base, epoch.session), (EpochId(5), true, SESSION));
    assert_eq!(epoch.inputs, [input(1), input(2)]);
    assert_eq!(epoch.pages.iter().map(PageBatch::page_count).sum::<u64>(), 1);
    assert_eq!(*epoch.state, b"registers");
    // A long write comes in parts that join again.
    assert_eq!(
        epoch.disk_writes.iter().map(|write| (write.offset, write.data.len())).collect::<Vec<_>>(),
        [(512, 256 << 10), (512 + (256 << 10), 256 << 10), (512 + (512 << 10), 88 << 10),]
    );
    assert_eq!(epoch.outputs.len(), 1);
    assert!(epoch.staged_bytes > 600 << 10);
}

fn states(states: &[&[u8]]) -> Vec<u8> {
    let (mut out, mut shipped) = (Vec::new(), ShippedState::default());
    let mut last = before(5, &[]);
    for (epoch, state) in (5..).zip(states) {
        let base = (epoch == 5).then_some(last.chain);
        let begin = EpochBegin { base, released: EpochId(epoch - 1) };
        last = last.next(Some(StateDigest::of(state)));
        let mut writer = EpochWriter::begin(link(), EpochId(epoch), begin, &mut out);
        writer.state_after(&mut shipped, |_| state.to_vec(), &mut out);
        writer.end(last.chain, &mut out);
    }
    out
}

#[test]
fn state_that_goes_as_a_difference_comes_out_whole() {
    let (first, mut second) = (vec![7; 1000], vec![7; 1000]);
    second[500] = 8;
    let out = states(&[&first, &second, &[1, 2, 3], &[1, 2, 4]]);
    let mut assembly = assembly(1 << 20);
    let mut whole = Vec::new();
    for frame in frames(&out) {
        if let Assembled::Whole(epoch) = assembly.handle_frame(frame, 0).unwrap() {
            whole.push(epoch.state.to_vec());
        }
    }
    assert_eq!(whole, [first, second, vec![1, 2, 3], vec![1, 2, 4]]);
    assert!(out.len() < 1000 + 4 * 400, "the second one is shipped in {} bytes with the others", out.len());
}

#[test]
fn difference_to_a_state_that_is_not_there_is_refused() {
    let (first, second) = (vec![7; 1000], vec![7; 1000]);
    let mut later = frames(&states(&[&first, &second]));
    // The base with the difference of the epoch behind it.
    let at = later.iter().position(|frame| frame.kind == Kind::StateDelta).unwrap();
    let delta = Frame { epoch: EpochId(5), ..later.remove(at) };
    let base = later.remove(0);
    let refused = feed(&mut assembly(1 << 20), vec![base.clone(), delta.clone()]);
    assert!(matches!(refused, Err(PeerError::Unexpected { kind: Kind::StateDelta, .. })), "{refused:?}");
    // And one of two states.
    let refused = feed(&mut assembly(1 << 20), vec![base, later.remove(0), delta]);
    assert!(matches!(refused, Err(PeerError::Unexpected { kind: Kind::StateDelta, .. })), "{refused:?}");
}

#[test]
fn epoch_with_any_one_frame_missing_or_doubled_does_not_complete() {
    let count = epoch_frames(5, true).len();
    for index in 0..count {
        let mut missing = epoch_frames(5, true);
        let frame = missing.remove(index);
        assert!(!matches!(feed(&mut assembly(1 << 20), missing), Ok(Some(_))), "without frame {index}");
        let mut doubled = epoch_frames(5, true);
        doubled.insert(index, frame);
        assert!(feed(&mut assembly(1 << 20), doubled).is_err(), "frame {index} twice");
    }
}

#[test]
fn epoch_with_two_frames_exchanged_does_not_complete() {
    let mut swapped = epoch_frames(5, true);
    swapped.swap(4, 5);
    assert!(matches!(feed(&mut assembly(1 << 20), swapped), Err(PeerError::DoesNotAddUp { what: "the checksum", .. })));
}

#[test]
fn epoch_of_another_line_or_with_another_state_is_refused() {
    let written = |before: EpochMark, says: EpochMark, begins: Option<ChainHash>| {
        let (epoch, mut out) = (before.count.next(), Vec::new());
        let begin = EpochBegin { base: begins, released: before.count };
        let mut writer = EpochWriter::begin(link(), epoch, begin, &mut out);
        writer.state(b"state", &mut out);
        writer.end(says.chain, &mut out);
        frames(&out)
    };
    let digest = Some(StateDigest::of(b"state"));
    let fourth = before(5, b"state");
    let (fifth, other) = (fourth.next(digest), before(5, b"other").next(digest));
    let mut follower = assembly(1 << 20);
    let whole = feed(&mut follower, written(fourth, fifth, Some(fourth.chain))).unwrap().unwrap();
    assert_eq!(whole.mark, fifth);
    let sixth = fifth.next(digest);
    let wrong = [
        ("of another history", other.next(digest)),
        ("of another state", fifth.next(Some(StateDigest::of(b"stale")))),
        ("without a state", fifth.next(None)),
        ("of another branch", EpochMark { branch: Term(2), ..fifth }.next(digest)),
    ];
    for (how, says) in wrong {
        let mut follower = assembly(1 << 20);
        feed(&mut follower, written(fourth, fifth, Some(fourth.chain))).unwrap();
        let refused = feed(&mut follower, written(fifth, says, None));
        let error = PeerError::OtherLine { epoch: EpochId(6), ours: sixth.chain, theirs: says.chain };
        assert_eq!(refused, Err(error), "{how}");
    }
    // A base is checked from the epoch before it on.
    let refused = feed(&mut assembly(1 << 20), written(fourth, fifth, Some(other.chain)));
    assert!(matches!(refused, Err(PeerError::OtherLine { .. })), "{refused:?}");
    assert_eq!(feed(&mut follower, written(fifth, sixth, None)).unwrap().unwrap().mark, sixth);
}

#[test]
fn first_epoch_must_be_a_base_and_no_later_one() {
    assert!(feed(&mut assembly(1 << 20), epoch_frames(5, false)).is_err());
    let mut follower = assembly(1 << 20);
    feed(&mut follower, epoch_frames(5, true)).unwrap();
    assert!(feed(&mut follower, epoch_frames(6, true)).is_err());
    assert!(feed(&mut follower, epoch_frames(6, false)).unwrap().is_some());
}

#[test]
fn epoch_out_of_order_is_refused() {
    let mut follower = assembly(1 << 20);
    feed(&mut follower, epoch_frames(5, true)).unwrap();
    let error = feed(&mut follower, epoch_frames(7, false)).unwrap_err();
    let expected = EpochId(6);
    assert_eq!(error, PeerError::WrongEpoch { kind: Kind::EpochBegin, expected, theirs: EpochId(7) });
}

#[test]
fn inputs_of_an_epoch_that_never_ended_are_kept() {
    let mut follower = assembly(1 << 20);
    let mut part = epoch_frames(5, true);
    part.truncate(3);
    feed(&mut follower, part).unwrap();
    assert_eq!(follower.inputs_of_open(), [input(1), input(2)]);
    assert!(follower.is_open());
}

#[test]
fn log_after_other_frames_is_refused() {
    let mut late = epoch_frames(5, true);
    let log = late.remove(1);
    late.insert(2, log);
    assert!(matches!(feed(&mut assembly(1 << 20), late), Err(PeerError::Unexpected { kind: Kind::EventLog, .. })));
}

#[test]
fn staged_bytes_above_the_limit_are_refused() {
    let limit = 300 << 10;
    assert_eq!(feed(&mut assembly(limit), epoch_frames(5, true)), Err(PeerError::TooMuchStaged { limit }));
    let mut frames = epoch_frames(5, true);
    frames.truncate(2);
    let mut follower = assembly(limit);
    follower.handle_frame(frames.remove(0), limit).unwrap();
    assert!(follower.handle_frame(frames.remove(0), limit).is_err(), "what waits elsewhere counts too");
}

#[test]
fn disk_write_outside_or_to_a_read_only_disk_is_refused() {
    for (disk, offset, is_fine) in
        [(0, (1 << 20) - 4, true), (0, (1 << 20) - 3, false), (0, u64::MAX - 4, false), (1, 0, false), (2, 0, false)]
    {
        let mut out = Vec::new();
        let mut writer = EpochWriter::begin(link(), EpochId(5), base(5), &mut out);
        writer.disk_write(disk, offset, &[0; 4], &mut out);
        end_of_base(writer, &mut out);
        assert_eq!(feed(&mut assembly(1 << 20), frames(&out)).is_ok(), is_fine, "disk {disk} at {offset}");
    }
}

#[test]
fn disk_copy_outside_disk_page_or_memory_is_refused() {
    let refused = |copy: DiskCopy| {
        let mut out = Vec::new();
        let mut writer = EpochWriter::begin(link(), EpochId(5), base(5), &mut out);
        writer.disk_copies(&[copy], &mut out);
        end_of_base(writer, &mut out);
        feed(&mut assembly(1 << 20), frames(&out)).is_err()
    };
    let fine = DiskCopy { disk: 0, offset: (1 << 20) - 4096, gfn: Gfn(3), at: 0, len: 4096 };
    assert!(!refused(fine));
    assert!(!refused(DiskCopy { at: 4095, len: 1, ..fine }));
    let wrong = [
        DiskCopy { offset: (1 << 20) - 4095, ..fine },
        DiskCopy { offset: u64::MAX - 100, ..fine },
        DiskCopy { disk: 1, ..fine },
        DiskCopy { disk: 2, ..fine },
        DiskCopy { gfn: Gfn(4), ..fine },
        DiskCopy { at: 1, ..fine },
        DiskCopy { len: 0, ..fine },
        DiskCopy { at: u16::MAX, len: u16::MAX, ..fine },
    ];
    wrong.into_iter().for_each(|copy| assert!(refused(copy), "{copy:?}"));
}

#[test]
fn disk_write_behind_a_copy_is_refused() {
    let copy = DiskCopy { disk: 0, offset: 0, gfn: Gfn(1), at: 0, len: 4096 };
    let begin = base(5);
    let (mut out, mut other) = (Vec::new(), Vec::new());
    let mut writer = EpochWriter::begin(link(), EpochId(5), begin, &mut out);
    writer.disk_copies(&[copy], &mut out);
    // A peer that does not know the rule: a write of another writer's, in the middle.
    EpochWriter::begin(link(), EpochId(5), begin, &mut Vec::new()).disk_write(0, 4096, &[1; 512], &mut other);
    out.append(&mut other);
    let refused = feed(&mut assembly(1 << 20), frames(&out)).expect_err("the copy would lie over it");
    assert!(matches!(refused, PeerError::Unexpected { kind: Kind::DiskWrites, .. }), "{refused:?}");
}

#[test]
#[should_panic(expected = "behind the epoch's copies")]
fn writer_takes_no_disk_write_behind_a_copy() {
    let mut out = Vec::new();
    let mut writer = EpochWriter::begin(link(), EpochId(5), base(5), &mut out);
    writer.disk_copies(&[DiskCopy { disk: 0, offset: 0, gfn: Gfn(1), at: 0, len: 4096 }], &mut out);
    writer.disk_write(0, 0, &[1; 512], &mut out);
}

#[test]
fn disk_copies_count_as_the_bytes_that_they_will_be() {
    let mut out = Vec::new();
    let mut writer = EpochWriter::begin(link(), EpochId(5), base(5), &mut out);
    let copy = |index: u64| DiskCopy { disk: 0, offset: index * 4096, gfn: Gfn(1), at: 0, len: 4096 };
    writer.disk_copies(&(0..16).map(copy).collect::<Vec<_>>(), &mut out);
    end_of_base(writer, &mut out);
    assert_eq!(feed(&mut assembly(16 * 4096), frames(&out)), Err(PeerError::TooMuchStaged { limit: 16 * 4096 }));
    let epoch = feed(&mut assembly(1 << 20), frames(&out)).unwrap().unwrap();
    assert!(epoch.staged_bytes > 16 * 4096 && epoch.disk_copies.len() == 16);
}
