//! Certificates of one authority, for both sides on this host.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

/// Makes a TLS directory in `parent`, of an authority that signs nothing else.
pub fn directory(parent: &Path, name: &str) -> PathBuf {
    let dir = parent.join(name);
    fs::create_dir(&dir).expect("a directory in the test's own place");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, key()).expect("a certificate");
    fs::write(dir.join("ca-cert.pem"), authority.pem()).expect("room");
    for (role, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("an address");
        params.extended_key_usages = vec![usage];
        let key = key();
        let certificate = params.signed_by(&key, &authority).expect("signed");
        fs::write(dir.join(format!("{role}-cert.pem")), certificate.pem()).expect("room");
        let path = dir.join(format!("{role}-key.pem"));
        fs::write(&path, key.serialize_pem()).expect("room");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
    }
    dir
}

fn key() -> KeyPair {
    KeyPair::generate().expect("random numbers")
}
