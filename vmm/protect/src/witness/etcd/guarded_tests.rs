//! A cluster that does not let everybody in: certificates, passwords, tokens.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose};

use super::server::{EtcdServer, Guards};
use super::tests::{append, cluster, place};
use super::*;
use crate::transport::{Role, TestAuthority};
use crate::witness::WitnessName;
use crate::witness::tests::record;

const VM: &str = "vm0";
const PASSWORD: &str = "correct:horse";

/// Three members with TLS that ask for certificates and, once they are told to, for passwords.
struct Guarded {
    server: EtcdServer,
    authority: TestAuthority,
    dir: tempfile::TempDir,
}

impl Guarded {
    fn start(token_secs: Option<u32>) -> Option<Self> {
        let (dir, authority) = (place()?, TestAuthority::new());
        let tls = authority.directory(dir.path());
        // The gateway of a member is a client of the member, with the same certificate.
        authority.issue(&tls, Role::Server, |params: &mut CertificateParams| {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        });
        let guards = Guards { tls: Some(tls), asks_for_certificates: true, token_secs };
        let server = EtcdServer::start_guarded(&dir.path().join("etcd"), 3, &guards);
        Some(Self { server, authority, dir })
    }

    /// A cluster that asks for a user, too.
    fn start_with_users(token_secs: Option<u32>) -> Option<Self> {
        let guarded = Self::start(token_secs)?;
        guarded.server.enable_users("toor", ("vm", PASSWORD), "outlast/");
        Some(guarded)
    }

    /// A directory with good certificates and, if it is given, a user.
    fn credentials(&self, user: Option<&str>) -> PathBuf {
        let dir = self.authority.directory(self.dir.path());
        // Where etcd asks for users too, its gateway takes no certificate that names somebody.
        self.authority.issue(&dir, Role::Client, |params| params.distinguished_name = DistinguishedName::new());
        if let Some(user) = user {
            write_user(&dir, user);
        }
        dir
    }

    fn target(&self, credentials: &Path) -> Target {
        Target { addresses: self.server.addresses.clone(), credentials: Some(credentials.to_owned()) }
    }

    fn open(&self, credentials: &Path) -> Result<(), WitnessError> {
        open(&self.target(credentials).to_string())
    }

    /// Why the cluster is of no use with these.
    fn refusal(&self, credentials: &Path) -> EtcdError {
        let error = self.open(credentials).expect_err("it is refused");
        let WitnessError::Etcd { source, .. } = error else { panic!("{error}") };
        *source.into_inner().expect("a reason").downcast().expect("one of etcd")
    }
}

fn open(place: &str) -> Result<(), WitnessError> {
    let name: WitnessName = format!("etcd:{place}").parse().expect("well formed");
    name.open().map(drop)
}

fn write_user(dir: &Path, user: &str) {
    let path = dir.join("user");
    fs::write(&path, format!("{user}\n")).expect("room");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
}

/// A member that refuses a certificate says so after the handshake, and hangs up: what it says is lost if the request is written then.
#[track_caller]
fn assert_unwelcome(error: &EtcdError) {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match error {
        EtcdError::Unwelcome { .. } => assert!(error.to_string().contains("refuses this side"), "{error}"),
        EtcdError::Unreachable { source, .. }
            if [BrokenPipe, ConnectionAborted, ConnectionReset].contains(&source.kind()) => {}
        _ => panic!("{error:?}"),
    }
}

#[test]
fn cluster_with_tls_answers_who_shows_a_certificate_and_nobody_else() {
    let Some(guarded) = Guarded::start(None) else { return };
    let good = guarded.credentials(None);
    let ours = record(1, 1);
    assert_eq!(append(&cluster(guarded.target(&good)), ours.clone()).expect("it answers")[0].record, ours);
    // No certificate; one of another authority; members of another authority; no TLS at all.
    let bare = guarded.credentials(None);
    for name in ["client-cert.pem", "client-key.pem"] {
        fs::remove_file(bare.join(name)).expect("it was there");
    }
    let stranger = TestAuthority::new().directory(guarded.dir.path());
    let distrustful = stranger.clone();
    assert_unwelcome(&guarded.refusal(&bare));
    let error = guarded.refusal(&distrustful);
    assert!(matches!(&error, EtcdError::Untrusted { .. }), "{error:?}");
    assert!(error.to_string().contains("ca-cert.pem did not sign it"), "{error}");
    fs::copy(good.join("ca-cert.pem"), stranger.join("ca-cert.pem")).expect("copied");
    assert_unwelcome(&guarded.refusal(&stranger));
    let clear = guarded.server.addresses[0].replacen("https", "http", 1);
    let error = open(&clear).expect_err("it speaks TLS");
    let WitnessError::Etcd { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::UnexpectedEof, "{source}");
    let missing = guarded.dir.path().join("missing");
    let error = guarded.refusal(&missing);
    assert!(matches!(&error, EtcdError::Files(_)) && error.to_string().contains("ca-cert.pem"), "{error:?}");
}

#[test]
fn certificates_and_password_that_are_replaced_are_used_at_the_next_request() {
    let Some(guarded) = Guarded::start_with_users(None) else { return };
    let dir = guarded.credentials(Some("vm:wrong"));
    let gateway = Gateway::new(guarded.target(&dir)).expect("they are read");
    let cluster = Cluster::new(gateway);
    assert!(cluster.newest(VM).is_err());
    write_user(&dir, &format!("vm:{PASSWORD}"));
    cluster.newest(VM).expect("the password is right now");
    let stranger = TestAuthority::new().directory(guarded.dir.path());
    let ca = fs::read(dir.join("ca-cert.pem")).expect("there");
    fs::copy(stranger.join("ca-cert.pem"), dir.join("ca-cert.pem")).expect("copied");
    assert!(cluster.newest(VM).is_err(), "nobody trusts the members now");
    fs::remove_file(dir.join("ca-cert.pem")).expect("there");
    assert!(cluster.newest(VM).is_err(), "a file that is away is no change");
    fs::write(dir.join("ca-cert.pem"), ca).expect("room");
    cluster.newest(VM).expect("it is trusted again");
}

#[test]
fn user_is_let_in_by_the_password_and_gets_a_new_token_when_the_old_one_is_over() {
    const TOKEN_SECS: u32 = 1;
    let Some(guarded) = Guarded::start_with_users(Some(TOKEN_SECS)) else { return };
    let cluster = cluster(guarded.target(&guarded.credentials(Some(&format!("vm:{PASSWORD}")))));
    for number in 1..=2 {
        let ours = record(number, 1);
        assert_eq!(append(&cluster, ours.clone()).expect("it answers")[0].record, ours);
        let token = cluster.gateway.token().expect("it was given one");
        // What is waited for is the end of the token's time, which etcd looks at once a second.
        thread::sleep(Duration::from_secs(u64::from(TOKEN_SECS) + 2));
        cluster.newest(VM).expect("it gets another one");
        assert_ne!(cluster.gateway.token(), Some(token), "the old one was over");
    }
}

#[test]
fn member_that_forgot_its_tokens_is_asked_with_a_new_one() {
    let Some(mut guarded) = Guarded::start_with_users(None) else { return };
    let cluster = cluster(guarded.target(&guarded.credentials(Some(&format!("vm:{PASSWORD}")))));
    append(&cluster, record(1, 1)).expect("it answers");
    for member in 0..3 {
        guarded.server.kill(member);
        guarded.server.revive(member);
    }
    let begun = std::time::Instant::now();
    while let Err(error) = cluster.newest(VM) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
    }
}

#[test]
fn who_is_not_let_in_is_told_why() {
    let Some(guarded) = Guarded::start_with_users(None) else { return };
    let error = guarded.refusal(&guarded.credentials(None));
    assert!(matches!(&error, EtcdError::NoUser { .. }), "{error:?}");
    for user in ["vm:wrong", "nobody:here"] {
        let error = guarded.refusal(&guarded.credentials(Some(user)));
        assert!(matches!(&error, EtcdError::Password { .. }), "{error:?}");
        assert!(!error.to_string().contains("wrong") && error.to_string().contains("/user"), "{error}");
    }
    let named = guarded.authority.directory(guarded.dir.path());
    write_user(&named, &format!("vm:{PASSWORD}"));
    assert!(matches!(guarded.refusal(&named), EtcdError::CommonName { .. }));
    let exposed = guarded.credentials(Some("vm:x"));
    fs::set_permissions(exposed.join("user"), Permissions::from_mode(0o644)).expect("ours");
    assert!(matches!(guarded.refusal(&exposed), EtcdError::User { .. }));
}

#[test]
fn user_without_the_keys_is_told_which_it_needs() {
    let Some(guarded) = Guarded::start(None) else { return };
    guarded.server.enable_users("toor", ("vm", PASSWORD), "elsewhere/");
    let error = guarded.refusal(&guarded.credentials(Some(&format!("vm:{PASSWORD}"))));
    assert!(matches!(&error, EtcdError::Forbidden { user, .. } if user == "vm"), "{error:?}");
    assert!(error.to_string().contains("keys that begin with outlast/"), "{error}");
}

#[test]
fn nothing_that_is_shown_of_a_cluster_has_its_password() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write_user(dir.path(), "vm:s3cret");
    let target: Target = format!("http://127.0.0.1:1,credentials={}", dir.path().display()).parse().expect("loopback");
    let shown = format!("{:?} {target}", cluster(target.clone()));
    assert!(!shown.contains("s3cret"), "{shown}");
}
