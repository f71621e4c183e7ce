//! What this side shows to an etcd cluster, and whom it believes: the files of a directory.
//!
//! ```text
//! ca-cert.pem                        who signs the members' certificates. With https, always
//! client-cert.pem, client-key.pem    shown to the members, if they ask for one (--client-cert-auth). Both or neither
//! user                               NAME:PASSWORD, one line, if the cluster has authentication on
//! ```
//!
//! They are read anew before each request, so that they are renewed by replacing them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::error::EtcdError;
use crate::transport::Credentials;

/// The rights of those who are neither the file's owner nor of its group.
const OTHERS: u32 = 0o007;
/// More than a name and a password need.
const USER_BYTES_MAX: u64 = 4096;

/// The content of the directory. `Debug` shows no secret.
#[derive(PartialEq)]
pub(super) struct Files {
    authority: Vec<CertificateDer<'static>>,
    /// Certificates, and the key in PEM form, which was found to fit.
    identity: Option<(Vec<CertificateDer<'static>>, Vec<u8>)>,
    pub(super) user: Option<User>,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: String,
    /// Where that was read.
    pub(super) path: PathBuf,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Files {
    /// What is in `dir` now; `is_tls`: there must be an authority.
    pub(super) fn read(dir: &Path, is_tls: bool) -> Result<Self, EtcdError> {
        let tls = Credentials::of(dir);
        let authority = if is_tls { tls.authority()? } else { Vec::new() };
        let is_known = is_tls && ["client-cert.pem", "client-key.pem"].iter().any(|name| dir.join(name).exists());
        let identity = is_known.then(|| tls.client_identity()).transpose()?;
        Ok(Self { authority, identity, user: User::read(&dir.join("user"))? })
    }

    /// The same for a client of HTTP.
    pub(super) fn tls(&self) -> TlsConfig {
        let roots: Vec<_> = self.authority.iter().map(certificate).collect();
        let identity = self.identity.as_ref().and_then(|(chain, key)| {
            let chain: Vec<_> = chain.iter().map(certificate).collect();
            Some(ClientCert::new_with_certs(&chain, PrivateKey::from_pem(key).ok()?))
        });
        TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .client_cert(identity)
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .build()
    }
}

fn certificate(der: &CertificateDer<'static>) -> Certificate<'static> {
    Certificate::from_der(der).to_owned()
}

impl User {
    /// The user in the file at `path`; `None`: there is no such file.
    fn read(path: &Path) -> Result<Option<Self>, EtcdError> {
        let wrong = |why: String| EtcdError::User { path: path.to_owned(), why };
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| wrong(error.to_string()))?,
        };
        let mode = file.metadata().map_err(|error| wrong(error.to_string()))?.mode();
        if mode & OTHERS != 0 {
            return Err(wrong(format!("every user of this host may read the password (mode {:03o})", mode & 0o777)));
        }
        let mut text = String::new();
        (&mut file).take(USER_BYTES_MAX).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
        let (name, password) = Self::parse(&text).ok_or_else(|| wrong("it is not one line NAME:PASSWORD".into()))?;
        Ok(Some(Self { name, password, path: path.to_owned() }))
    }

    /// A password may have colons; a name has none.
    fn parse(text: &str) -> Option<(String, String)> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let (name, password) = line.split_once(':')?;
        let is_whole = !name.is_empty() && !password.is_empty() && !line.contains('\n');
        is_whole.then(|| (name.to_owned(), password.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn dir_with(text: &str, mode: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("user");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
        dir
    }

    #[test]
    fn user_is_one_line_and_its_password_is_shown_by_nothing() {
        for (text, password) in [("vm:s3cret\n", "s3cret"), ("vm:a:b", "a:b"), ("vm: x \n", " x ")] {
            let files = Files::read(dir_with(text, 0o640).path(), false).expect("well formed");
            let user = files.user.clone().expect("there is one");
            assert_eq!((&*user.name, &*user.password), ("vm", password));
            assert!(!format!("{files:?}").contains(password), "{files:?}");
        }
        let none = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(Files::read(none.path(), false).expect("nothing is needed").user, None);
    }

    #[test]
    fn user_that_others_read_or_that_is_none_is_refused() {
        for (text, mode, says) in [
            ("vm:s3cret\n", 0o644, "every user of this host may read the password (mode 644)"),
            ("vm\n", 0o600, "NAME:PASSWORD"),
            (":s3cret\n", 0o600, "NAME:PASSWORD"),
            ("vm:\n", 0o600, "NAME:PASSWORD"),
            ("vm:s3cret\nvm2:x\n", 0o600, "NAME:PASSWORD"),
            ("", 0o600, "NAME:PASSWORD"),
        ] {
            let error = Files::read(dir_with(text, mode).path(), false).expect_err(text).to_string();
            assert!(error.contains(says) && !error.contains("s3cret"), "{error}");
        }
    }
}
