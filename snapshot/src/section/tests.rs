use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Uart {
    divisor: u16,
    fifo: Vec<u8>,
}

impl Section for Uart {
    const NAME: &'static str = "uart";
    const VERSION: u16 = 1;
}

/// The same name, one version on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct UartLater {
    divisor: u16,
    fifo: Vec<u8>,
    parity: u8,
}

impl Section for UartLater {
    const NAME: &'static str = "uart";
    const VERSION: u16 = 2;
}

/// The same name and version, but another struct: a bug that only the body can show.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct UartShort {
    divisor: u16,
}

impl Section for UartShort {
    const NAME: &'static str = "uart";
    const VERSION: u16 = 1;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ram(Bytes);

impl Section for Ram {
    const NAME: &'static str = "ram-tail";
    const VERSION: u16 = 7;
}

fn uart() -> Uart {
    Uart { divisor: 12, fifo: b"login:".to_vec() }
}

fn state() -> Vec<u8> {
    let mut writer = StateWriter::new();
    writer.put(0, &uart());
    writer.put(1, &Uart { divisor: 1, fifo: vec![] });
    writer.put(0, &Ram(Bytes(vec![0xa5; 300])));
    writer.finish()
}

fn read_all(bytes: &[u8]) -> Result<(Uart, Uart, Ram), StateError> {
    let mut reader = StateReader::parse(bytes)?;
    let all = (reader.take(0)?, reader.take(1)?, reader.take(0)?);
    reader.finish()?;
    Ok(all)
}

#[test]
fn take_of_what_was_put_gives_it_back() {
    let (first, second, ram) = read_all(&state()).unwrap();

    assert_eq!(first, uart());
    assert_eq!(second.divisor, 1);
    assert_eq!(ram.0.0, vec![0xa5; 300]);
}

#[test]
fn take_of_another_version_names_both() {
    let bytes = state();
    let mut reader = StateReader::parse(&bytes).unwrap();

    let error = reader.take::<UartLater>(1).unwrap_err();

    assert_eq!(
        error.to_string(),
        "section uart/1 has version 1; this binary reads version 2: use the version of outlast that wrote it"
    );
}

#[test]
fn take_twice_or_of_absent_section_is_missing() {
    let bytes = state();
    let mut reader = StateReader::parse(&bytes).unwrap();
    reader.take::<Uart>(0).unwrap();

    assert!(matches!(reader.take::<Uart>(0), Err(StateError::Missing { .. })));
    assert!(matches!(reader.take::<Uart>(9), Err(StateError::Missing { .. })));
    assert!(reader.contains::<Ram>(0) && !reader.contains::<Uart>(0));
}

#[test]
fn contains_version_tells_versions_of_one_name_apart() {
    let bytes = state();
    let mut reader = StateReader::parse(&bytes).unwrap();
    assert!(reader.contains::<UartLater>(1) && !reader.contains_version::<UartLater>(1));
    assert!(reader.contains_version::<Uart>(1) && !reader.contains_version::<Uart>(2));
    reader.take::<Uart>(1).unwrap();
    assert!(!reader.contains_version::<Uart>(1), "it was taken");
}

#[test]
fn take_rest_is_what_was_not_taken_and_can_be_put_beside_others() {
    let bytes = state();
    let mut reader = StateReader::parse(&bytes).unwrap();
    let first: Uart = reader.take(0).unwrap();
    let rest = reader.take_rest();
    reader.finish().unwrap();

    let list = |bytes: &[u8]| StateReader::parse(bytes).unwrap().list().collect::<Vec<_>>();
    assert_eq!(list(rest.bytes()), list(&bytes)[1..]);
    let mut writer = StateWriter::new();
    writer.put(0, &first);
    assert_eq!(writer.first_of_both(&rest), None);
    writer.put_all(&rest);
    assert_eq!(writer.bytes(), bytes, "as they were");
    assert_eq!(writer.first_of_both(&rest).unwrap().to_string(), "uart/1");
    writer.clear();
    assert_eq!(writer, StateWriter::new());
    writer.put_all(&rest);
    assert_eq!(writer.finish(), rest.finish());
}

#[test]
#[should_panic(expected = "section ram-tail/0 written twice")]
fn put_all_of_a_section_that_is_there_panics() {
    let mut writer = StateWriter::new();
    writer.put(0, &Ram(Bytes(Vec::new())));
    let bytes = state();
    let mut reader = StateReader::parse(&bytes).unwrap();
    writer.put_all(&reader.take_rest());
}

#[test]
fn finish_with_untaken_sections_names_them() {
    let bytes = state();
    let mut reader = StateReader::parse(&bytes).unwrap();
    reader.take::<Uart>(0).unwrap();

    let error = reader.finish().unwrap_err();

    assert_eq!(error, StateError::Leftover { ids: "uart/1, ram-tail/0".to_owned() });
}

#[test]
fn parse_of_section_twice_is_duplicate() {
    let mut writer = StateWriter::new();
    writer.put(3, &uart());
    let mut bytes = writer.finish();
    let section = bytes[PRELUDE_LEN..].to_vec();
    bytes.extend_from_slice(&section);
    bytes[6] = 2;

    let error = StateReader::parse(&bytes).unwrap_err();

    assert_eq!(error.to_string(), "section uart/3 is there twice");
}

#[test]
#[should_panic(expected = "section uart/0 written twice")]
fn put_twice_panics() {
    let mut writer = StateWriter::new();
    writer.put(0, &uart());
    writer.put(0, &uart());
}

#[test]
fn take_of_body_with_bytes_left_over_is_refused() {
    let mut writer = StateWriter::new();
    writer.put(0, &uart());
    let bytes = writer.finish();
    let mut reader = StateReader::parse(&bytes).unwrap();

    let error = reader.take::<UartShort>(0).unwrap_err();

    assert_eq!(error.to_string(), "section uart/0 does not decode: 7 bytes left over");
}

#[test]
fn parse_of_every_cut_is_an_error() {
    let bytes = state();

    for len in 0..bytes.len() {
        assert!(StateReader::parse(&bytes[..len]).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn parse_of_every_flipped_bit_is_an_error() {
    let mut bytes = state();

    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(StateReader::parse(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(StateReader::parse(&bytes).is_ok());
}

#[test]
fn parse_of_longer_bytes_is_refused() {
    let mut bytes = state();
    bytes.push(0);

    assert!(matches!(StateReader::parse(&bytes), Err(StateError::Damaged { .. })));
}

#[test]
fn parse_of_other_layout_names_it() {
    let mut bytes = state();
    bytes[4] = 9;

    assert_eq!(StateReader::parse(&bytes).unwrap_err(), StateError::Format { found: 9 });
}

#[test]
fn parse_of_reserved_bytes_in_use_is_refused() {
    for at in [9, 14, 15] {
        let mut bytes = forged(&[12, 0]);
        assert!(StateReader::parse(&bytes).is_ok());
        let section = &mut bytes[PRELUDE_LEN..];
        section[at] = 1;
        let checksum = xxh3_64(&section[8..]);
        section[..8].copy_from_slice(&checksum.to_le_bytes());

        let error = StateReader::parse(&bytes).unwrap_err();

        assert!(matches!(error, StateError::Damaged { what: "reserved bytes in use", .. }), "{error}");
    }
}

#[test]
fn with_buffer_reuses_memory() {
    let first = state();
    let (at, capacity) = (first.as_ptr(), first.capacity());

    let mut writer = StateWriter::with_buffer(first);
    writer.put(0, &uart());
    let second = writer.finish();

    assert_eq!((second.as_ptr(), second.capacity()), (at, capacity));
}

#[test]
fn bytes_has_the_encoding_of_a_vector() {
    let data = vec![7u8; 200];

    let block = postcard::to_stdvec(&Bytes(data.clone())).unwrap();

    assert_eq!(block, postcard::to_stdvec(&data).unwrap());
}

#[test]
fn list_gives_name_version_and_length() {
    let bytes = state();

    let list: Vec<_> = StateReader::parse(&bytes).unwrap().list().map(|(id, v, n)| format!("{id} v{v} {n}")).collect();

    assert_eq!(list, ["uart/0 v1 8", "uart/1 v1 2", "ram-tail/0 v7 302"]);
}

/// A state of one section with this body, its checksum right: what a hostile writer can make.
fn forged(body: &[u8]) -> Vec<u8> {
    let mut writer = StateWriter::new();
    writer.put(0, &uart());
    let mut bytes = writer.finish();
    let body_at = PRELUDE_LEN + HEADER_LEN + Uart::NAME.len();
    bytes.truncate(body_at);
    bytes.extend_from_slice(body);
    let header = &mut bytes[PRELUDE_LEN..];
    header[16..20].copy_from_slice(&(body.len() as u32).to_le_bytes());
    let checksum = xxh3_64(&header[8..]);
    header[..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

proptest! {
    #[test]
    fn parse_of_any_bytes_never_panics(tail in proptest::collection::vec(any::<u8>(), 0..200), count in any::<u16>()) {
        let mut bytes = STATE_MAGIC.to_vec();
        bytes.extend_from_slice(&STATE_FORMAT.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&tail);

        let _ = StateReader::parse(&bytes);
        let _ = StateReader::parse(&tail);
    }

    #[test]
    fn take_of_any_body_is_a_value_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..64)) {
        let bytes = forged(&body);
        let mut reader = StateReader::parse(&bytes).unwrap();

        if let Ok(uart) = reader.take::<Uart>(0) {
            prop_assert!(uart.fifo.len() <= body.len());
        }
    }

    #[test]
    fn put_then_take_is_identity(divisor in any::<u16>(), fifo in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let saved = Uart { divisor, fifo };
        let mut writer = StateWriter::new();
        writer.put(5, &saved);
        let bytes = writer.finish();

        let mut reader = StateReader::parse(&bytes).unwrap();

        prop_assert_eq!(reader.take::<Uart>(5).unwrap(), saved);
        reader.finish().unwrap();
    }
}
