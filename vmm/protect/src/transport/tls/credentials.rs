//! What this side shows to its peers, and whom it believes: the files of a TLS directory.
//!
//! The names are Cloud Hypervisor's. Both roles need both pairs: a backup becomes a primary, which connects.
//!
//! ```text
//! ca-cert.pem                        who signs the certificates of both hosts, and of nobody else
//! server-cert.pem, server-key.pem    shown by who listens; names the address that the other side connects to
//! client-cert.pem, client-key.pem    shown by who connects
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};

use super::APPLICATION;

/// Far more than any of the files has.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The rights of those who are neither the key's owner nor of its group.
const OTHERS: u32 = 0o007;

/// A TLS directory. Every handshake reads it anew: certificates are renewed by replacing the files.
#[derive(Debug, Clone)]
pub struct Credentials {
    dir: PathBuf,
}

/// Why a TLS directory cannot be used. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read, or is not there.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Any user of this host could take the key.
    #[error("every user of this host may use the private key {} (mode {mode:03o})", path.display())]
    Exposed {
        /// The key.
        path: PathBuf,
        /// The rights that it has.
        mode: u32,
    },
    /// The file has not what its name says.
    #[error("{} has no usable {what}: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it should have: a certificate or a private key.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The key is another certificate's.
    #[error("the private key {} does not fit the certificate {}", key.display(), certificate.display())]
    Unfit {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// The certificate is not valid now.
    #[error("{} is not valid now: {why}", path.display())]
    Dated {
        /// The certificate.
        path: PathBuf,
        /// When it is.
        why: String,
    },
    /// No peer would accept the certificate.
    #[error("no peer with the same ca-cert.pem would accept {}: {why}", path.display())]
    Foreign {
        /// The certificate.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A certificate with its issuers', and its key in PEM form.
type Pair = (Vec<CertificateDer<'static>>, Vec<u8>);

/// One role's certificate with its issuers' and its key.
struct Identity {
    path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// Opens the directory, and checks that both roles can be played with it now.
    pub fn open(dir: &Path) -> Result<Self, CredentialsError> {
        let credentials = Self::of(dir);
        credentials.client()?;
        credentials.server()?;
        Ok(credentials)
    }

    /// The directory, which is not looked at before something is shown from it.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// For who connects.
    pub(super) fn client(&self) -> Result<Arc<ClientConfig>, CredentialsError> {
        let (roots, identity) = (Arc::new(self.roots()?), self.identity("client")?);
        let (first, issuers) = identity.chain.split_first().expect("it has a certificate");
        let verifier = self.client_verifier(Arc::clone(&roots))?;
        verifier
            .verify_client_cert(first, issuers, UnixTime::now())
            .map_err(|error| refused(&identity.path, &error))?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(identity.chain, identity.key)
            .expect("the key was found to fit");
        config.alpn_protocols = vec![APPLICATION.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// For who listens.
    pub(super) fn server(&self) -> Result<Arc<ServerConfig>, CredentialsError> {
        let (roots, identity) = (Arc::new(self.roots()?), self.identity("server")?);
        let (first, issuers) = identity.chain.split_first().expect("it has a certificate");
        let algorithms = provider().signature_verification_algorithms.all;
        ParsedCertificate::try_from(first)
            .and_then(|first| {
                verify_server_cert_signed_by_trust_anchor(&first, &roots, issuers, UnixTime::now(), algorithms)
            })
            .map_err(|error| refused(&identity.path, &error))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_client_cert_verifier(self.client_verifier(roots)?)
            .with_single_cert(identity.chain, identity.key)
            .expect("the key was found to fit");
        config.alpn_protocols = vec![APPLICATION.to_vec()];
        // Nothing is resumed, and a ticket would be a record that nobody waits for.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For a client of another service: who signs the certificates over there.
    pub(crate) fn authority(&self) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
        self.roots()?;
        certificates(&self.path("ca-cert.pem"))
    }

    /// For a client of another service: what it shows, whoever signed that.
    pub(crate) fn client_identity(&self) -> Result<Pair, CredentialsError> {
        let Identity { chain, .. } = self.identity("client")?;
        Ok((chain, read(&self.path("client-key.pem"))?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn roots(&self) -> Result<RootCertStore, CredentialsError> {
        let path = self.path("ca-cert.pem");
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&path)? {
            roots.add(certificate).map_err(|error| unusable(&path, "certificate", &error))?;
        }
        Ok(roots)
    }

    fn client_verifier(&self, roots: Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, CredentialsError> {
        WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| unusable(&self.path("ca-cert.pem"), "certificate", &error))
    }

    fn identity(&self, role: &str) -> Result<Identity, CredentialsError> {
        let (path, key_path) = (self.path(&format!("{role}-cert.pem")), self.path(&format!("{role}-key.pem")));
        let chain = certificates(&path)?;
        let key = private_key(&key_path)?;
        match CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider()) {
            Ok(_) => Ok(Identity { path, chain, key }),
            Err(Error::InconsistentKeys(_)) => Err(CredentialsError::Unfit { key: key_path, certificate: path }),
            Err(Error::InvalidCertificate(error)) => Err(unusable(&path, "certificate", &error)),
            Err(error) => Err(unusable(&key_path, "private key", &error)),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|source| CredentialsError::Unreadable { path: path.to_owned(), source })?;
    Ok(bytes)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(unusable(path, "certificate", &"there is no CERTIFICATE in PEM form")),
        found => found.map_err(|error| unusable(path, "certificate", &error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    let bytes = read(path)?;
    let mode = fs::metadata(path)
        .map_err(|source| CredentialsError::Unreadable { path: path.to_owned(), source })?
        .permissions()
        .mode();
    if mode & OTHERS != 0 {
        return Err(CredentialsError::Exposed { path: path.to_owned(), mode: mode & 0o777 });
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| unusable(path, "private key", &error))
}

fn unusable(path: &Path, what: &'static str, why: &dyn ToString) -> CredentialsError {
    CredentialsError::Unusable { path: path.to_owned(), what, why: why.to_string() }
}

/// What a peer would say of our own certificate.
fn refused(path: &Path, error: &Error) -> CredentialsError {
    let (path, why) = (path.to_owned(), error.to_string());
    match error {
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => CredentialsError::Dated { path, why },
        _ => CredentialsError::Foreign { path, why },
    }
}
