//! Frames that tell the network where a guest is now.
//!
//! After a takeover switches still send the guest's frames to the old host until they see one from the new. A RARP
//! request with the guest's address as its source moves the switches' tables and is otherwise ignored; it needs no IP
//! address, which the host does not know. A gratuitous ARP also refreshes neighbours, where the IP address is known.

use std::net::Ipv4Addr;

/// Without the padding to 60 bytes and the checksum, which the interface adds.
pub const ANNOUNCE_BYTES: usize = 42;

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_RARP: u16 = 0x8035;
const ARP_REQUEST: u16 = 1;
const RARP_REQUEST: u16 = 3;

/// A reverse ARP request (RFC 903) in which the guest asks about itself.
pub fn rarp(mac: [u8; 6]) -> [u8; ANNOUNCE_BYTES] {
    let unknown = Ipv4Addr::UNSPECIFIED;
    frame(ETHERTYPE_RARP, RARP_REQUEST, mac, unknown, mac)
}

/// A gratuitous ARP request (RFC 5227 calls it an announcement): sender and target are the same address.
pub fn gratuitous_arp(mac: [u8; 6], address: Ipv4Addr) -> [u8; ANNOUNCE_BYTES] {
    frame(ETHERTYPE_ARP, ARP_REQUEST, mac, address, [0; 6])
}

/// The layout of RFC 826 for Ethernet and IPv4, which reverse ARP shares.
fn frame(ethertype: u16, operation: u16, from: [u8; 6], ip: Ipv4Addr, target: [u8; 6]) -> [u8; ANNOUNCE_BYTES] {
    let mut bytes = [0; ANNOUNCE_BYTES];
    let mut at = 0;
    let mut put = |part: &[u8]| {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    };
    put(&BROADCAST);
    put(&from);
    put(&ethertype.to_be_bytes());
    put(&1_u16.to_be_bytes()); // hardware: Ethernet
    put(&0x0800_u16.to_be_bytes()); // protocol: IPv4
    put(&[6, 4]); // lengths of the two
    put(&operation.to_be_bytes());
    put(&from);
    put(&ip.octets());
    put(&target);
    put(&ip.octets());
    assert_eq!(at, ANNOUNCE_BYTES, "the parts fill the frame");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x02, 1, 2, 3, 4, 5];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn rarp_is_the_frame_of_rfc_903() {
        let expected = "ffffffffffff".to_owned() // to everybody
            + "020102030405" + "8035"
            + "0001" + "0800" + "06" + "04" + "0003"
            + "020102030405" + "00000000"
            + "020102030405" + "00000000";
        assert_eq!(hex(&rarp(MAC)), expected);
    }

    #[test]
    fn gratuitous_arp_has_the_address_as_sender_and_target() {
        let expected = "ffffffffffff".to_owned()
            + "020102030405"
            + "0806"
            + "0001"
            + "0800"
            + "06"
            + "04"
            + "0001"
            + "020102030405"
            + "0a4d000a"
            + "000000000000"
            + "0a4d000a";
        assert_eq!(hex(&gratuitous_arp(MAC, Ipv4Addr::new(10, 77, 0, 10))), expected);
    }
}
