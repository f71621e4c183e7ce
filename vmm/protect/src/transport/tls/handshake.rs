//! The handshake, over the halves of a connection in clear text, until a deadline.

use std::io;
use std::time::{Duration, Instant};

use rustls::{AlertDescription, CertificateError, Error};

use super::halves;
use crate::transport::{Connection, ReadHalf, ReadOutcome};

/// Type, version and length of a record.
const HEADER_BYTES: usize = 5;
/// A record's bytes beyond its header, at most (RFC 8446, 5.2).
const BODY_BYTES_MAX: usize = (1 << 14) + 256;
/// How long a peer that was refused has for reading why, and what it may say meanwhile.
const PARTING_TIME_MAX: Duration = Duration::from_millis(500);
const PARTING_BYTES_MAX: usize = 64 << 10;
/// A fatal alert for who does not speak this protocol: what `protocol_version` is as a record (RFC 8446, 6.2).
const PROTOCOL_VERSION: &[u8] = &[21, 3, 3, 0, 2, 2, 70];
/// What each of our frames begins with, in clear text.
const CLEAR: &[u8] = b"OUTL";

/// Agrees with the peer of `plain` on keys. `tls` has said nothing yet.
pub(super) fn perform(mut tls: rustls::Connection, mut plain: Connection, deadline: Instant) -> io::Result<Connection> {
    let mut record = Vec::new();
    while tls.is_handshaking() || tls.wants_write() {
        if tls.wants_write() {
            let mut said = Vec::new();
            tls.write_tls(&mut said)?;
            plain.writer.set_patience(Some(left(deadline)?))?;
            plain.writer.write_all(&said)?;
            continue;
        }
        if let Err(error) = hear(&mut tls, &mut *plain.reader, &mut record, deadline) {
            if error.kind() == io::ErrorKind::InvalidData {
                say_why(&mut tls, &mut plain, deadline.min(Instant::now() + PARTING_TIME_MAX));
            }
            return Err(error);
        }
    }
    plain.writer.set_patience(None)?;
    Ok(halves::connection(tls, plain))
}

/// Hears the peer's next record.
fn hear(
    tls: &mut rustls::Connection,
    reader: &mut dyn ReadHalf,
    record: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<()> {
    read_record(reader, record, deadline)?;
    let mut record = &record[..];
    while !record.is_empty() && tls.read_tls(&mut record)? > 0 {
        tls.process_new_packets().map_err(|error| broken(&error))?;
    }
    Ok(())
}

/// The peer hears what was wrong with it. What it has said meanwhile is read: closing over it would throw the reason away.
fn say_why(tls: &mut rustls::Connection, plain: &mut Connection, deadline: Instant) {
    let mut alert = Vec::new();
    let said = tls.write_tls(&mut alert);
    if alert.is_empty() {
        alert.extend_from_slice(PROTOCOL_VERSION);
    }
    if let Err(error) = said.and_then(|_| plain.writer.write_now(&alert)).and_then(|_| plain.writer.finish()) {
        return tracing::debug!(%error, "a peer that was refused does not hear why");
    }
    let mut ignored = vec![0; PARTING_BYTES_MAX];
    let _ = read_exactly(&mut *plain.reader, &mut ignored, deadline);
}

fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the peer did not end the TLS handshake in time"))
        }
        left => Ok(left),
    }
}

/// Reads one record, and nothing of the next.
fn read_record(reader: &mut dyn ReadHalf, record: &mut Vec<u8>, deadline: Instant) -> io::Result<()> {
    record.resize(HEADER_BYTES, 0);
    read_exactly(reader, record, deadline)?;
    check_header(record)?;
    let body = usize::from(u16::from_be_bytes([record[3], record[4]]));
    if body > BODY_BYTES_MAX {
        return Err(invalid("the peer does not speak TLS: a record is too long"));
    }
    record.resize(HEADER_BYTES + body, 0);
    read_exactly(reader, &mut record[HEADER_BYTES..], deadline)
}

fn check_header(header: &[u8]) -> io::Result<()> {
    match header {
        _ if header.starts_with(CLEAR) => Err(invalid("the peer speaks Outlast in clear text: give it --tls-dir too")),
        [20..=23, 3, ..] => Ok(()),
        _ => Err(invalid("the peer does not speak TLS; check the address and port")),
    }
}

fn read_exactly(reader: &mut dyn ReadHalf, mut bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match reader.read_within(bytes, left(deadline)?)? {
            ReadOutcome::Bytes(count) => bytes = &mut bytes[count..],
            ReadOutcome::Nothing => {}
            ReadOutcome::End => {
                let why = "the peer ended the connection during the TLS handshake: does it have --tls-dir?";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
        }
    }
    Ok(())
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A session that cannot go on.
pub(super) fn broken(error: &Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words(error))
}

/// Why a session cannot go on, in an operator's words.
pub(crate) fn words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => format!("the peer's certificate is refused: {}", of_certificate(error)),
        Error::NoCertificatesPresented => "the peer shows no certificate".into(),
        Error::AlertReceived(alert) => format!("the peer refuses this side: {}", of_alert(*alert)),
        Error::DecryptError => "a record was altered on the way, or came twice".into(),
        error => format!("TLS: {error}"),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "ca-cert.pem did not sign it".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is for the other role (extendedKeyUsage)".into()
        }
        error => error.to_string(),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "its ca-cert.pem did not sign the certificate that was shown".into()
        }
        AlertDescription::CertificateExpired => "the certificate that was shown has expired".into(),
        AlertDescription::CertificateRequired => "no certificate was shown".into(),
        alert => format!("{alert:?}"),
    }
}
