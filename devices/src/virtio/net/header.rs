//! The header in front of each frame, and the offloads that it may ask for.
//!
//! A frame with an offload is unfinished: its checksum is still to be made, or it is to be cut into segments. Whoever gets it
//! must have agreed to that, and works with offsets and lengths from the header. So a header is believed only if it asks for
//! what was agreed to and points into its frame; what nobody reads of it becomes zero.

use virtio_bindings::virtio_net as wire;

/// Bytes of the header, `virtio_net_hdr_v1`.
pub const HEADER_BYTES: usize = 12;
/// The header of a frame that asks for nothing.
pub const EMPTY_HEADER: [u8; HEADER_BYTES] = [0; HEADER_BYTES];

/// Shortest frame: an Ethernet header.
pub const FRAME_MIN: usize = 14;
/// Longest frame on a wire: a header with a VLAN tag and 1500 bytes.
pub const FRAME_MAX: usize = 1518;
/// Longest frame that is to be cut into segments: a header with a VLAN tag and the longest IP packet.
pub const LARGE_FRAME_MAX: usize = FRAME_MIN + 4 + 0xffff;
/// Longest header and frame.
pub const PACKET_MAX: usize = HEADER_BYTES + LARGE_FRAME_MAX;

/// Least bytes of a segment: the least segment of Linux's TCP (48 bytes) less the longest options. So one frame is at most 8,192.
const SEGMENT_MIN: u16 = 8;
const TCP_HEADER_MIN: u32 = 20;
const TCP_CHECKSUM_OFFSET: u16 = 16;

const NEEDS_CHECKSUM: u8 = wire::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
const CHECKSUM_VALID: u8 = wire::VIRTIO_NET_HDR_F_DATA_VALID as u8;
const WHOLE: u8 = wire::VIRTIO_NET_HDR_GSO_NONE as u8;
const TCP4: u8 = wire::VIRTIO_NET_HDR_GSO_TCPV4 as u8;
const TCP6: u8 = wire::VIRTIO_NET_HDR_GSO_TCPV6 as u8;
const ECN: u8 = wire::VIRTIO_NET_HDR_GSO_ECN as u8;

/// What a side finishes of the frames that it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums of TCP and UDP.
    pub checksum: bool,
    /// Segments of TCP over IPv4.
    pub tcp4: bool,
    /// Segments of TCP over IPv6.
    pub tcp6: bool,
    /// Segments of TCP with congestion marks.
    pub ecn: bool,
}

impl Offloads {
    /// What the host finishes of the guest's frames.
    pub(super) fn of_host(features: u64) -> Self {
        Self::of(
            features,
            [
                wire::VIRTIO_NET_F_CSUM,
                wire::VIRTIO_NET_F_HOST_TSO4,
                wire::VIRTIO_NET_F_HOST_TSO6,
                wire::VIRTIO_NET_F_HOST_ECN,
            ],
        )
    }

    /// What the guest finishes of the host's frames.
    pub(super) fn of_guest(features: u64) -> Self {
        Self::of(
            features,
            [
                wire::VIRTIO_NET_F_GUEST_CSUM,
                wire::VIRTIO_NET_F_GUEST_TSO4,
                wire::VIRTIO_NET_F_GUEST_TSO6,
                wire::VIRTIO_NET_F_GUEST_ECN,
            ],
        )
    }

    /// Segments need checksums, and marks need segments: a driver that agrees to one without the other gets neither.
    fn of(features: u64, bits: [u32; 4]) -> Self {
        let [checksum, tcp4, tcp6, ecn] = bits.map(|bit| features & (1 << bit) != 0);
        let (tcp4, tcp6) = (checksum && tcp4, checksum && tcp6);
        Self { checksum, tcp4, tcp6, ecn: (tcp4 || tcp6) && ecn }
    }
}

/// Who is to finish a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finisher {
    /// The host, of a frame of the guest.
    Host(Offloads),
    /// The guest, of a frame of the host.
    Guest(Offloads),
}

/// The fields of a header but for the count of buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    flags: u8,
    segments: u8,
    header_len: u16,
    segment_len: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

/// The header in front of a frame of `len` bytes as it may be passed on; `None` if it is not to be believed, or the frame has an
/// impossible length.
pub(super) fn checked(header: &[u8; HEADER_BYTES], len: usize, by: Finisher) -> Option<[u8; HEADER_BYTES]> {
    if !(FRAME_MIN..=LARGE_FRAME_MAX).contains(&len) {
        return None;
    }
    let frame_len = u32::try_from(len).expect("at most LARGE_FRAME_MAX");
    let header = Header::parse(header).with_known(by);
    let (Finisher::Host(agreed) | Finisher::Guest(agreed)) = by;
    let is_good = header.checksum_is_good(frame_len, agreed) && header.segments_are_good(frame_len, agreed);
    is_good.then(|| header.bytes())
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            segments: bytes[1],
            header_len: word(2),
            segment_len: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    fn bytes(self) -> [u8; HEADER_BYTES] {
        let Self { flags, segments, header_len, segment_len, checksum_start, checksum_offset } = self;
        let mut bytes = [0; HEADER_BYTES];
        (bytes[0], bytes[1]) = (flags, segments);
        let words = [header_len, segment_len, checksum_start, checksum_offset];
        for (place, word) in bytes[2..10].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Without the flags that the one who gets it does not know, and without the fields that then mean nothing.
    fn with_known(self, by: Finisher) -> Self {
        let known = match by {
            Finisher::Guest(Offloads { checksum: true, .. }) => NEEDS_CHECKSUM | CHECKSUM_VALID,
            Finisher::Host(_) | Finisher::Guest(_) => NEEDS_CHECKSUM,
        };
        let mut header = Self { flags: self.flags & known, ..self };
        if header.flags & NEEDS_CHECKSUM == 0 {
            (header.checksum_start, header.checksum_offset) = (0, 0);
        }
        if header.segments == WHOLE {
            (header.header_len, header.segment_len) = (0, 0);
        }
        header
    }

    fn needs_checksum(self) -> bool {
        self.flags & NEEDS_CHECKSUM != 0
    }

    fn checksum_is_good(self, frame_len: u32, agreed: Offloads) -> bool {
        let start = u32::from(self.checksum_start);
        let end = start + u32::from(self.checksum_offset) + 2;
        !self.needs_checksum() || (agreed.checksum && start >= FRAME_MIN as u32 && end <= frame_len)
    }

    fn segments_are_good(self, frame_len: u32, agreed: Offloads) -> bool {
        let is_agreed = match self.segments & !ECN {
            WHOLE => return self.segments == WHOLE && frame_len <= FRAME_MAX as u32,
            TCP4 => agreed.tcp4,
            TCP6 => agreed.tcp6,
            _ => false,
        };
        is_agreed
            && (self.segments & ECN == 0 || agreed.ecn)
            && self.needs_checksum()
            && self.checksum_offset == TCP_CHECKSUM_OFFSET
            && u32::from(self.checksum_start) + TCP_HEADER_MIN <= frame_len
            && u32::from(self.header_len) <= frame_len
            && self.segment_len >= SEGMENT_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offloads = Offloads { checksum: true, tcp4: true, tcp6: true, ecn: true };
    const NONE: Offloads = Offloads { checksum: false, tcp4: false, tcp6: false, ecn: false };
    const LARGE: Header =
        Header { flags: 1, segments: TCP4, header_len: 54, segment_len: 1448, checksum_start: 34, checksum_offset: 16 };

    fn passes(header: Header, len: usize, agreed: Offloads) -> bool {
        let verdicts = [Finisher::Host(agreed), Finisher::Guest(agreed)].map(|by| checked(&header.bytes(), len, by));
        assert_eq!(verdicts[0], verdicts[1], "both directions have the same rules");
        assert!(verdicts[0].is_none_or(|passed| passed == header.bytes()), "what is believed is passed on as it is");
        verdicts[0].is_some()
    }

    #[test]
    fn segments_pass_if_agreed_to_and_in_no_other_form() {
        assert!(passes(LARGE, 30_000, ALL));
        assert!(passes(LARGE, LARGE_FRAME_MAX, ALL));
        assert!(passes(Header { segments: TCP6, ..LARGE }, 30_000, Offloads { tcp4: false, ecn: false, ..ALL }));
        assert!(passes(Header { segments: TCP4 | ECN, ..LARGE }, 30_000, ALL));
        assert!(!passes(LARGE, LARGE_FRAME_MAX + 1, ALL));
        for agreed in [NONE, Offloads { tcp4: false, ..ALL }] {
            assert!(!passes(LARGE, 30_000, agreed));
        }
        assert!(!passes(Header { segments: TCP6, ..LARGE }, 30_000, Offloads { tcp6: false, ..ALL }));
        assert!(!passes(Header { segments: TCP4 | ECN, ..LARGE }, 30_000, Offloads { ecn: false, ..ALL }));
        for segments in [2, 3, 5, 6, 0x7f, ECN, 0xff] {
            assert!(!passes(Header { segments, ..LARGE }, 1000, ALL), "type {segments:#x}");
        }
    }

    #[test]
    fn numbers_that_point_out_of_the_frame_are_refused() {
        let bad = [
            Header { flags: 0, checksum_start: 0, checksum_offset: 0, ..LARGE },
            Header { header_len: 1001, ..LARGE },
            Header { segment_len: 0, ..LARGE },
            Header { segment_len: SEGMENT_MIN - 1, ..LARGE },
            Header { checksum_start: 13, ..LARGE },
            Header { checksum_start: 981, ..LARGE },
            Header { checksum_start: u16::MAX, checksum_offset: u16::MAX, ..LARGE },
            Header { checksum_offset: 6, ..LARGE },
        ];
        assert!(passes(LARGE, 1000, ALL));
        for header in bad {
            assert!(!passes(header, 1000, ALL), "{header:?}");
        }
        let udp = Header { segments: WHOLE, header_len: 0, segment_len: 0, checksum_offset: 6, ..LARGE };
        assert!(passes(udp, 42, ALL));
        assert!(!passes(udp, 41, ALL), "the checksum is the last two bytes");
        assert!(!passes(udp, 42, NONE));
        assert!(!passes(Header { checksum_offset: u16::MAX, ..udp }, 1000, ALL));
    }

    #[test]
    fn frame_that_is_whole_has_the_length_of_a_frame_on_a_wire() {
        let whole = |len| checked(&EMPTY_HEADER, len, Finisher::Guest(ALL)).is_some();
        assert_eq!([13, 14, FRAME_MAX, FRAME_MAX + 1].map(whole), [false, true, true, false]);
    }

    #[test]
    fn what_nobody_reads_becomes_zero() {
        let scribbled = [0xfe, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
        for by in [Finisher::Host(ALL), Finisher::Guest(NONE)] {
            assert_eq!(checked(&scribbled, 60, by), Some(EMPTY_HEADER));
        }
        let valid = [CHECKSUM_VALID, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(checked(&scribbled, 60, Finisher::Guest(ALL)), Some(valid), "the host has looked at its checksum");
    }

    #[test]
    fn agreed_segments_without_checksums_are_none() {
        let of = |bits: &[u32]| Offloads::of_guest(bits.iter().fold(0, |all, bit| all | 1 << bit));
        assert_eq!(of(&[7, 8, 9]), NONE);
        assert_eq!(of(&[1, 9]), Offloads { checksum: true, ..NONE });
        assert_eq!(of(&[1, 7, 9]), Offloads { tcp6: false, ..ALL });
        assert_eq!(of(&[0, 11, 12, 13]), NONE, "those are the host's");
        assert_eq!(Offloads::of_host(1 | 1 << 11 | 1 << 12 | 1 << 13), ALL);
    }
}
