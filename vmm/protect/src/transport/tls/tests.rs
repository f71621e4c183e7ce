//! Peers that are not who they should be, that say nothing, and what is done to bytes on their way.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};

use super::*;
use crate::transport::tests::accept;
use crate::transport::{Endpoint, READ_BYTES_MIN, ReadOutcome};

const SOON: Duration = Duration::from_secs(30);

/// An operator's own authority.
pub(crate) struct TestAuthority(CertifiedIssuer<'static, KeyPair>);

/// Whom a certificate is for.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    Server,
    Client,
}

impl TestAuthority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("random numbers");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// A directory in `parent` with what both hosts need, for 127.0.0.1.
    pub(crate) fn directory(&self, parent: &Path) -> PathBuf {
        let dir = tempfile::tempdir_in(parent).expect("a directory").keep();
        fs::write(dir.join("ca-cert.pem"), self.0.pem()).expect("room");
        self.issue(&dir, Role::Server, |_| {});
        self.issue(&dir, Role::Client, |_| {});
        dir
    }

    /// Writes one role's files into `dir`, with what `change` makes of the certificate.
    pub(crate) fn issue(&self, dir: &Path, role: Role, change: impl FnOnce(&mut CertificateParams)) {
        let (name, usage) = match role {
            Role::Server => ("server", ExtendedKeyUsagePurpose::ServerAuth),
            Role::Client => ("client", ExtendedKeyUsagePurpose::ClientAuth),
        };
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("a name");
        params.extended_key_usages = vec![usage];
        change(&mut params);
        let key = KeyPair::generate().expect("random numbers");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        fs::write(dir.join(format!("{name}-cert.pem")), certificate.pem()).expect("room");
        let path = dir.join(format!("{name}-key.pem"));
        fs::write(&path, key.serialize_pem()).expect("room");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
    }
}

fn tls(dir: &Path, host: &str, port: u16) -> Tls {
    Tls { tcp: Tcp { host: host.into(), port }, credentials: Credentials::of(dir) }
}

fn port_of(listener: &dyn Listener) -> u16 {
    match listener.endpoint().expect("it listens") {
        Endpoint::Tcp { port, .. } => port,
        Endpoint::Unix(_) => unreachable!("it is TCP"),
    }
}

/// What the listener hears of a peer that came.
fn heard(listener: &mut dyn Listener) -> io::Result<Connection> {
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < SOON => thread::yield_now(),
            other => return other,
        }
    }
}

/// How `client` fares at `server`, at its first read at the latest; and what the server hears of it.
fn meet(client: &Path, server: &Path) -> (io::Result<Connection>, io::Result<Connection>) {
    let mut listener = tls(server, "127.0.0.1", 0).listen().expect("it is free");
    let there = tls(client, "127.0.0.1", port_of(&*listener));
    thread::scope(|scope| {
        let ours = scope.spawn(move || {
            let mut connection = there.connect()?;
            // As a primary: what it says first is on its way when it is refused.
            let _ = connection.writer.write_all(b"hello");
            let mut bytes = [0; READ_BYTES_MIN];
            connection.reader.read_within(&mut bytes, Duration::from_millis(500)).map(|_| connection)
        });
        let theirs = heard(&mut *listener);
        (ours.join().expect("no panic"), theirs)
    })
}

fn said(result: io::Result<Connection>) -> String {
    result.expect_err("it is refused").to_string()
}

#[test]
fn peers_of_one_authority_meet_and_those_of_another_are_refused_on_both_sides() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ours, other) = (TestAuthority::new(), TestAuthority::new());
    let (a, b, stranger) = (ours.directory(dir.path()), ours.directory(dir.path()), other.directory(dir.path()));
    let (client, server) = meet(&a, &b);
    assert!(client.is_ok() && server.is_ok(), "{client:?} {server:?}");
    let (client, server) = meet(&stranger, &b);
    let (client, server) = (said(client), said(server));
    assert!(client.contains("peer's certificate is refused: ca-cert.pem did not sign it"), "{client}");
    assert!(server.contains("the peer refuses this side: its ca-cert.pem did not sign"), "{server}");
    // One that accepts the server's, and shows a stranger's.
    fs::copy(b.join("ca-cert.pem"), stranger.join("ca-cert.pem")).expect("copied");
    let config = config_without_checks(&stranger);
    let (client, server) = meet_with(config, &b);
    let (client, server) = (said(client), said(server));
    assert!(server.contains("peer's certificate is refused: ca-cert.pem did not sign it"), "{server}");
    assert!(client.contains("the peer refuses this side: its ca-cert.pem did not sign"), "{client}");
}

/// A client that shows what it has, without looking at it first.
fn config_without_checks(dir: &Path) -> rustls::ClientConfig {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = |name: &str| CertificateDer::from_pem_file(dir.join(name)).expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate("ca-cert.pem")).expect("an authority");
    let key = PrivateKeyDer::from_pem_file(dir.join("client-key.pem")).expect("a key");
    builder(roots).with_client_auth_cert(vec![certificate("client-cert.pem")], key).expect("they fit")
}

fn builder(
    roots: rustls::RootCertStore,
) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("there is TLS 1.3")
        .with_root_certificates(roots)
}

/// The same as `meet`, with a client of our own making.
fn meet_with(config: rustls::ClientConfig, server: &Path) -> (io::Result<Connection>, io::Result<Connection>) {
    let mut listener = tls(server, "127.0.0.1", 0).listen().expect("it is free");
    let tcp = Tcp { host: "127.0.0.1".into(), port: port_of(&*listener) };
    thread::scope(|scope| {
        let ours = scope.spawn(move || {
            let name = ServerName::try_from("127.0.0.1").expect("a name");
            let client = ClientConnection::new(config.into(), name).expect("a configuration");
            let mut connection = handshake::perform(client.into(), tcp.connect()?, Instant::now() + SOON)?;
            let _ = connection.writer.write_all(b"hello");
            let mut bytes = [0; READ_BYTES_MIN];
            connection.reader.read_within(&mut bytes, SOON).map(|_| connection)
        });
        let theirs = heard(&mut *listener);
        (ours.join().expect("no panic"), theirs)
    })
}

#[test]
fn client_without_a_certificate_is_refused_and_both_sides_say_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestAuthority::new().directory(dir.path());
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::pem::PemObject::from_pem_file(server.join("ca-cert.pem")).expect("a certificate");
    roots.add(ca).expect("an authority");
    let (client, server) = meet_with(builder(roots).with_no_client_auth(), &server);
    let (client, server) = (said(client), said(server));
    assert!(server.contains("the peer shows no certificate"), "{server}");
    assert!(client.contains("no certificate was shown"), "{client}");
}

#[test]
fn server_must_be_the_host_that_was_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new();
    let (client, server) = (authority.directory(dir.path()), authority.directory(dir.path()));
    authority.issue(&server, Role::Server, |params| {
        params.subject_alt_names = CertificateParams::new(vec!["10.0.0.2".into()]).expect("a name").subject_alt_names;
    });
    let (client, _) = meet(&client, &server);
    let client = said(client);
    assert!(client.contains("127.0.0.1") && client.contains("10.0.0.2"), "{client}");
}

#[test]
fn certificate_that_expires_while_a_side_runs_is_told_by_that_side() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new();
    let (client, server) = (authority.directory(dir.path()), authority.directory(dir.path()));
    authority.issue(&client, Role::Client, |params| params.not_after = date_time_ymd(2020, 1, 1));
    let there = tls(&client, "127.0.0.1", 1);
    let error = there.connect().expect_err("it is not valid").to_string();
    assert!(error.contains("client-cert.pem is not valid now"), "{error}");
    // One that is replaced is used for the next connection.
    authority.issue(&client, Role::Client, |_| {});
    let (client, server) = meet(&client, &server);
    assert!(client.is_ok() && server.is_ok(), "{client:?} {server:?}");
}

#[test]
fn directory_is_checked_when_it_is_opened() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new();
    let broken = |spoil: &dyn Fn(&Path)| {
        let dir = authority.directory(dir.path());
        spoil(&dir);
        Credentials::open(&dir).expect_err("it cannot be used")
    };
    Credentials::open(&authority.directory(dir.path())).expect("all is well");
    for name in ["ca-cert.pem", "server-cert.pem", "server-key.pem", "client-cert.pem", "client-key.pem"] {
        let error = broken(&|dir| fs::remove_file(dir.join(name)).expect("it is there"));
        assert!(matches!(&error, CredentialsError::Unreadable { path, .. } if path.ends_with(name)), "{error}");
        let error = broken(&|dir| fs::write(dir.join(name), "nothing of PEM").expect("ours"));
        assert!(matches!(&error, CredentialsError::Unusable { path, .. } if path.ends_with(name)), "{error}");
    }
    let error = broken(&|dir| {
        fs::copy(dir.join("client-key.pem"), dir.join("server-key.pem")).map(drop).expect("copied");
    });
    assert!(matches!(error, CredentialsError::Unfit { .. }), "{error}");
    let error = broken(&|dir| {
        fs::set_permissions(dir.join("server-key.pem"), Permissions::from_mode(0o644)).expect("ours");
    });
    assert!(matches!(error, CredentialsError::Exposed { mode: 0o644, .. }), "{error}");
    let error =
        broken(&|dir| authority.issue(dir, Role::Server, |params| params.not_after = date_time_ymd(2020, 1, 1)));
    assert!(matches!(error, CredentialsError::Dated { .. }), "{error}");
    let error =
        broken(&|dir| authority.issue(dir, Role::Client, |params| params.not_before = date_time_ymd(2990, 1, 1)));
    assert!(matches!(error, CredentialsError::Dated { .. }), "{error}");
    let error = broken(&|dir| TestAuthority::new().issue(dir, Role::Server, |_| {}));
    assert!(matches!(error, CredentialsError::Foreign { .. }), "{error}");
    let error = broken(&|dir| {
        authority.issue(dir, Role::Client, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
    });
    assert!(matches!(error, CredentialsError::Foreign { .. }), "{error}");
}

#[test]
fn peers_without_tls_are_told_apart_from_those_that_speak_something_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = TestAuthority::new().directory(dir.path());
    let mut listener = tls(&ours, "127.0.0.1", 0).listen().expect("it is free");
    let port = port_of(&*listener);
    for (says, why) in [(&b"OUTL\x01\0\0\0"[..], "Outlast in clear text"), (b"GET / HTTP/1.1\r\n\r\n", "not speak TLS")]
    {
        let mut peer = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        peer.write_all(says).expect("open");
        let error = said(thread::scope(|scope| {
            let answer = scope.spawn(move || {
                let mut answer = Vec::new();
                peer.read_to_end(&mut answer).map(|_| answer)
            });
            let heard = heard(&mut *listener);
            // An alert: one of ours in clear text tells its operator.
            assert_eq!(answer.join().expect("no panic").expect("it is told and ended")[..2], [21, 3]);
            heard
        }));
        assert!(error.contains(why), "{error}");
    }
    // Zero bytes, and a record of which only a part comes.
    for says in [&b""[..], b"\x16\x03\x01\x02\x00half"] {
        TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| stream.write_all(says)).expect("it listens");
        let error = heard(&mut *listener).expect_err("it is gone");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    }
    TcpStream::connect(("127.0.0.1", port)).and_then(|mut s| s.write_all(b"\x16\x03\x01\xff\xff")).expect("it listens");
    let error = said(heard(&mut *listener));
    assert!(error.contains("too long"), "{error}");
}

#[test]
fn strangers_who_say_nothing_keep_no_peer_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = TestAuthority::new().directory(dir.path());
    let mut listener = tls(&ours, "127.0.0.1", 0).listen().expect("it is free");
    let port = port_of(&*listener);
    let begun = Instant::now();
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("it listens")).collect();
    let there = tls(&ours, "127.0.0.1", port);
    let (ours, theirs) = thread::scope(|scope| {
        let ours = scope.spawn(|| there.connect());
        // Those that the newer ones pushed out are told of meanwhile.
        let theirs = loop {
            if let Ok(connection) = heard(&mut *listener) {
                break connection;
            }
        };
        (ours.join().expect("no panic").expect("it is served"), theirs)
    });
    assert!(begun.elapsed() < SOON, "it waited for strangers, one after the other: {:?}", begun.elapsed());
    drop((silent, ours, theirs));
}

#[test]
fn handshake_that_does_not_end_is_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = TestAuthority::new().directory(dir.path());
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let there = tls(&ours, "127.0.0.1", mute.local_addr().expect("it listens").port());
    let begun = Instant::now();
    let error = there.connect().expect_err("nobody answers");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!(begun.elapsed() < HANDSHAKE_TIME_MAX + SOON);
}

/// Does what is asked with each direction's bytes, between a client and a server.
struct Between {
    client: TcpStream,
    server: TcpStream,
}

/// Both ends of a connection, whose records pass through the test.
fn apart(dir: &Path) -> (Connection, Connection, Between) {
    let mut listener = tls(dir, "127.0.0.1", 0).listen().expect("it is free");
    let middle = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let there = tls(dir, "127.0.0.1", middle.local_addr().expect("it listens").port());
    thread::scope(|scope| {
        let ours = scope.spawn(move || there.connect().expect("the middle passes it on"));
        let (client, _) = middle.accept().expect("it comes");
        let server = TcpStream::connect(("127.0.0.1", port_of(&*listener))).expect("it listens");
        let between = Between { client, server };
        let passes = scope.spawn(move || {
            // Hello, Hello with certificate, certificate: then the two are agreed.
            between.pass_until_quiet();
            between
        });
        let theirs = accept(&mut *listener);
        (ours.join().expect("no panic"), theirs, passes.join().expect("no panic"))
    })
}

impl Between {
    fn pass_until_quiet(&self) {
        for stream in [&self.client, &self.server] {
            stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a time");
        }
        let mut bytes = [0; 16 << 10];
        let mut quiet = 0;
        while quiet < 2 {
            quiet += 1;
            for (mut from, mut to) in [(&self.client, &self.server), (&self.server, &self.client)] {
                if let Ok(count @ 1..) = from.read(&mut bytes) {
                    to.write_all(&bytes[..count]).expect("it is open");
                    quiet = 0;
                }
            }
        }
    }

    /// What the client says next.
    fn take(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 16 << 10];
        self.client.set_read_timeout(Some(SOON)).expect("a time");
        let count = self.client.read(&mut bytes).expect("it says something");
        bytes.truncate(count);
        bytes
    }
}

fn read(connection: &mut Connection) -> io::Result<ReadOutcome> {
    connection.reader.read_within(&mut [0; READ_BYTES_MIN], SOON)
}

#[test]
fn connection_that_is_cut_is_told_apart_from_one_that_is_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = TestAuthority::new().directory(dir.path());
    let (mut client, mut server, mut between) = apart(&ours);
    client.writer.write_all(b"first").expect("open");
    let record = between.take();
    between.server.write_all(&record[..record.len() - 1]).expect("open");
    drop(between);
    let error = read(&mut server).expect_err("the end of the record is missing");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    let (mut client, mut server, mut between) = apart(&ours);
    client.writer.write_all(b"first").expect("open");
    client.writer.finish().expect("open");
    loop {
        let record = between.take();
        if record.is_empty() {
            break;
        }
        between.server.write_all(&record).expect("open");
    }
    drop(between);
    assert_eq!(read(&mut server).expect("all of it came"), ReadOutcome::Bytes(5));
    assert_eq!(read(&mut server).expect("it was ended"), ReadOutcome::End);
    assert_eq!(read(&mut server).expect("it stays so"), ReadOutcome::End);
}

#[test]
fn record_that_comes_twice_or_altered_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = TestAuthority::new().directory(dir.path());
    let (mut client, mut server, mut between) = apart(&ours);
    client.writer.write_all(b"first").expect("open");
    let record = between.take();
    between.server.write_all(&record).expect("open");
    assert_eq!(read(&mut server).expect("it is well"), ReadOutcome::Bytes(5));
    between.server.write_all(&record).expect("open");
    let error = read(&mut server).expect_err("it came before");
    assert!(error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("came twice"), "{error}");
    let (mut client, mut server, mut between) = apart(&ours);
    client.writer.write_all(b"first").expect("open");
    let mut record = between.take();
    *record.last_mut().expect("it is not empty") ^= 1;
    between.server.write_all(&record).expect("open");
    assert_eq!(read(&mut server).expect_err("it was altered").kind(), io::ErrorKind::InvalidData);
}

#[test]
fn bulk_goes_both_ways_while_one_side_reads_slowly_and_what_one_hears_is_not_kept_waiting() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = TestAuthority::new().directory(dir.path());
    let (client, server) = meet_alone(&ours);
    let much: Vec<u8> = (0..32 << 20_u32).map(|at| (at >> 3) as u8).collect();
    let Connection { reader: mut client_reader, writer: mut client_writer, .. } = client;
    let Connection { reader: server_reader, writer: mut server_writer, .. } = server;
    thread::scope(|scope| {
        // Nobody reads this yet: the writer is stuck in its socket.
        let stuck = scope.spawn(|| client_writer.write_all(&much).and_then(|()| client_writer.finish()));
        let begun = Instant::now();
        let mut bytes = vec![0; READ_BYTES_MIN];
        for _ in 0..100 {
            server_writer.write_all(b"heartbeat").expect("open");
            assert_eq!(client_reader.read_within(&mut bytes, SOON).expect("open"), ReadOutcome::Bytes(9));
        }
        assert!(begun.elapsed() < SOON && !stuck.is_finished(), "the writer is stuck, and its reader is not");
        let others = scope.spawn(|| server_writer.write_all(&much).and_then(|()| server_writer.finish()));
        let hears = scope.spawn(|| read_all(server_reader));
        assert!(read_all(client_reader) == much, "server to client");
        assert!(hears.join().expect("no panic") == much, "client to server");
        stuck.join().expect("no panic").expect("all was taken");
        others.join().expect("no panic").expect("all was taken");
    });
}

fn meet_alone(dir: &Path) -> (Connection, Connection) {
    let mut listener = tls(dir, "127.0.0.1", 0).listen().expect("it is free");
    let there = tls(dir, "127.0.0.1", port_of(&*listener));
    thread::scope(|scope| {
        let ours = scope.spawn(|| there.connect().expect("it listens"));
        let theirs = accept(&mut *listener);
        (ours.join().expect("no panic"), theirs)
    })
}

fn read_all(mut reader: Box<dyn crate::transport::ReadHalf>) -> Vec<u8> {
    let (mut all, mut bytes) = (Vec::new(), vec![0; READ_BYTES_MIN]);
    loop {
        match reader.read_within(&mut bytes, SOON).expect("it is ended in order") {
            ReadOutcome::Bytes(count) => all.extend_from_slice(&bytes[..count]),
            ReadOutcome::End => return all,
            ReadOutcome::Nothing => panic!("nothing came for long"),
        }
    }
}
