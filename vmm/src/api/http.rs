//! HTTP/1.1 around the requests and replies of [`outlast_api`]. No socket, no clock.
//!
//! Limits are checked before anything is allocated for them: [`HEAD_BYTES_MAX`] and [`BODY_BYTES_MAX`].

use outlast_api::{Fault, Reply, Request};

/// Request line and headers together.
pub(super) const HEAD_BYTES_MAX: usize = 8 << 10;
/// The longest body that any request of ours needs is far below.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 32;
const HEAD_HINT: &str = "send at most 32 headers, of at most 8192 bytes together with the request line";
const LENGTH_HINT: &str = "send Content-Length once, with the length of the body in bytes";

/// Nonsense from a client: the status that it is answered with, a word about it, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadRequest {
    pub(super) status: u16,
    pub(super) message: &'static str,
    pub(super) hint: &'static str,
}

const fn bad(status: u16, message: &'static str, hint: &'static str) -> BadRequest {
    BadRequest { status, message, hint }
}

/// Reads a request from what has arrived so far; `None` while it is incomplete.
pub(super) fn parse_request(bytes: &[u8]) -> Result<Option<Request>, BadRequest> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let head_bytes = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Complete(_)) => return Err(bad(431, "the headers are too long", HEAD_HINT)),
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(bad(431, "the headers are too long", HEAD_HINT)),
        Err(httparse::Error::TooManyHeaders) => return Err(bad(431, "there are too many headers", HEAD_HINT)),
        Err(_) => return Err(bad(400, "this is not HTTP/1.1", "`outlast ctl` and `curl --unix-socket` speak it")),
    };
    let body_bytes = body_length(head.headers)?;
    let Some(body) = bytes[head_bytes..].get(..body_bytes) else {
        return Ok(None);
    };
    let target = head.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Some(Request {
        method: head.method.unwrap_or_default().into(),
        path: path.into(),
        query: query.into(),
        body: body.into(),
    }))
}

/// The length that the headers announce, within bounds.
fn body_length(headers: &[httparse::Header<'_>]) -> Result<usize, BadRequest> {
    let named = |name: &'static str| move |h: &&httparse::Header<'_>| h.name.eq_ignore_ascii_case(name);
    if headers.iter().any(|h| named("transfer-encoding")(&h)) {
        return Err(bad(501, "Transfer-Encoding is not supported", "send the body at once, with Content-Length"));
    }
    let mut lengths = headers.iter().filter(named("content-length"));
    let Some(first) = lengths.next() else {
        return Ok(0);
    };
    if lengths.next().is_some() {
        return Err(bad(400, "Content-Length is given twice", LENGTH_HINT));
    }
    let digits = std::str::from_utf8(first.value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match digits.and_then(|text| text.parse().ok()) {
        Some(length @ 0..=BODY_BYTES_MAX) => Ok(length),
        Some(_) => Err(bad(413, "the body is too long", "no request needs more than 65536 bytes")),
        None => Err(bad(400, "Content-Length is not a number", LENGTH_HINT)),
    }
}

/// A reply as it is sent.
pub(super) fn to_bytes(reply: &Reply) -> Vec<u8> {
    let mut head =
        format!("HTTP/1.1 {} {}\r\nServer: outlast\r\nConnection: close\r\n", reply.status, reason(reply.status));
    if let Some(allow) = &reply.allow {
        head.push_str(&format!("Allow: {allow}\r\n"));
    }
    if reply.status != 204 {
        let (kind, length) = (reply.content_type, reply.body.len());
        head.push_str(&format!("Content-Type: {kind}\r\nContent-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&reply.body);
    bytes
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        504 => "Gateway Timeout",
        _ => "Internal Server Error",
    }
}
impl From<BadRequest> for Reply {
    fn from(BadRequest { status, message, hint }: BadRequest) -> Self {
        Reply::fault(status, &Fault::bad_request(message).with_hint(hint))
    }
}

#[cfg(test)]
mod tests {
    use outlast_api::{Answer, Exit};

    use super::*;

    fn status_of(bytes: &[u8]) -> u16 {
        parse_request(bytes).expect_err("bad").status
    }

    #[test]
    fn parse_request_with_body_and_query() {
        let bytes = b"PUT /ft?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}tail";
        let request = parse_request(bytes).expect("well formed").expect("complete");
        assert_eq!((request.method.as_str(), request.path.as_str(), request.query.as_str()), ("PUT", "/ft", "x=1"));
        assert_eq!(request.body, b"{}");
    }

    #[test]
    fn parse_request_every_prefix_is_incomplete() {
        let bytes = b"PUT /ft HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
        for length in 0..bytes.len() {
            assert_eq!(parse_request(&bytes[..length]), Ok(None), "{length}");
        }
    }

    #[test]
    fn parse_request_beyond_a_limit_is_refused_before_the_body_arrives() {
        assert_eq!(status_of(b"PUT / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n"), 413);
        assert_eq!(status_of(b"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n"), 400);
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(status_of(long.as_bytes()), 431);
        let whole = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX - 22));
        assert_eq!(status_of(whole.as_bytes()), 431, "one byte too many, all at once");
        assert!(parse_request(whole.replacen('x', "", 1).as_bytes()).is_ok());
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(status_of(many.as_bytes()), 431);
    }

    #[test]
    fn parse_request_ambiguous_length_is_refused() {
        assert_eq!(status_of(b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), 400);
        assert_eq!(status_of(b"PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\n"), 400);
        assert_eq!(status_of(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 501);
    }

    #[test]
    fn parse_request_garbage_is_400() {
        for bytes in [b"\x16\x03\x01\x02\x00".as_slice(), b"\0\0\0\0", b"GET / HTTP/9\r\n\r\n"] {
            assert_eq!(status_of(bytes), 400);
        }
    }

    #[test]
    fn reply_without_content_has_no_length() {
        let bytes = String::from_utf8(to_bytes(&().encode())).expect("ASCII");
        assert!(bytes.starts_with("HTTP/1.1 204 No Content\r\n") && bytes.ends_with("\r\n\r\n"), "{bytes}");
        assert!(!bytes.contains("Content-Length"));
    }

    #[test]
    fn nonsense_is_a_fault_with_what_to_do() {
        let long = parse_request(b"PUT / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n").expect_err("too long");
        let reply = Reply::from(long);
        let fault = Fault::decode(reply.status, &reply.body);
        assert_eq!((reply.status, fault.code), (413, Exit::Usage));
        assert_eq!(fault.hint, Some(format!("no request needs more than {BODY_BYTES_MAX} bytes")));
    }
}
