//! Bytes of a peer: the stream, then the bodies.

use replication::wire::{BODY_MAX, HEADER_LEN};
use replication::{FrameDecoder, VmId};
use xxhash_rust::xxh3::xxh3_64;

use crate::input::Input;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let stream = if input.u8() & 1 == 0 { input.bytes(data.len()).to_vec() } else { frames(&mut input) };
    let mut decoder = FrameDecoder::new(VmId::of_name("vm0"));
    for piece in stream.chunks(97) {
        decoder.handle_bytes(piece);
    }
    while let Ok(Some(frame)) = decoder.poll_frame() {
        let (link, epoch) = (frame.link, frame.epoch);
        assert!(frame.body.len() <= BODY_MAX);
        if let Ok(message) = frame.into_message() {
            let again = message.to_frame(&link, epoch);
            assert!(again.len() <= HEADER_LEN + BODY_MAX, "what was read can be written");
        }
    }
}

/// Frames with any content, whose checksums are right.
fn frames(input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while input.has_more() && stream.len() < 1 << 16 {
        let mut header = [0; HEADER_LEN];
        header[..4].copy_from_slice(b"OUTL");
        header[4] = replication::wire::PROTOCOL_VERSION as u8;
        header[6] = input.u8() % 19;
        let odd = input.u8();
        header[8] = u8::from(odd == 1);
        header[16..24].copy_from_slice(&VmId::of_name("vm0").0.to_le_bytes());
        header[24] = input.u8();
        header[40..48].copy_from_slice(&input.edge().to_le_bytes());
        header[48..56].copy_from_slice(&input.edge().to_le_bytes());
        let body = input.some(2048);
        let len = if odd == 2 { input.edge() as u32 } else { body.len() as u32 };
        header[12..16].copy_from_slice(&len.to_le_bytes());
        header[56..64].copy_from_slice(&xxh3_64(body).to_le_bytes());
        let sum = xxh3_64(&header[..64]);
        header[64..].copy_from_slice(&sum.to_le_bytes());
        stream.extend_from_slice(&header);
        stream.extend_from_slice(body);
    }
    stream
}
