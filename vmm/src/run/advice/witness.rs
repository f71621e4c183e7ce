//! What can go wrong with a witness that is opened.

use std::io::{self, ErrorKind};

use crate::exit::{Advice, Exit};
use protect::witness::{EtcdError, WitnessError};

impl Advice for WitnessError {
    fn exit(&self) -> Exit {
        match self {
            Self::Open { source, .. } if source.kind() == ErrorKind::NotFound => Exit::NotFound,
            Self::Open { .. } => Exit::Error,
            Self::Etcd { source, .. } => etcd_error(source).map_or(Exit::Error, exit_of),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Open { dir, source } if source.kind() == ErrorKind::PermissionDenied => format!(
                "let the user who runs the VM write there, or on NFS, the user whom the server takes it for: `ls -ld {}`",
                dir.display()
            ),
            Self::Open { source, .. } if source.kind() == ErrorKind::NotADirectory => {
                "it is a file: name a directory on storage that both hosts mount".into()
            }
            Self::Open { dir, .. } => format!(
                "it must be a directory on storage that both hosts mount, and writable: mount that first, if it is not (`findmnt -T {0}`); \
                 only then `mkdir {0}`",
                dir.display()
            ),
            Self::Etcd { addresses, source } => {
                etcd_error(source).and_then(remedy_of).unwrap_or_else(|| {
                    let (addresses, _) = addresses.split_once(",credentials=").unwrap_or((addresses, ""));
                    format!(
                        "give client addresses of one etcd cluster (3.4 or newer) whose majority runs, the same cluster on both \
                         hosts: `etcdctl --endpoints {addresses} endpoint health`"
                    )
                })
            }
        })
    }
}

fn etcd_error(source: &io::Error) -> Option<&EtcdError> {
    source.get_ref()?.downcast_ref()
}

/// The member was there, and ended the connection.
fn hung_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe
    )
}

/// What is given is of no use, or it may be when somebody has mended the cluster.
fn exit_of(error: &EtcdError) -> Exit {
    match error {
        EtcdError::Files(error) => error.exit(),
        EtcdError::User { .. }
        | EtcdError::Untrusted { .. }
        | EtcdError::Unwelcome { .. }
        | EtcdError::CommonName { .. }
        | EtcdError::NoUser { .. }
        | EtcdError::Password { .. }
        | EtcdError::Another { .. } => Exit::Usage,
        EtcdError::Silent { .. } => Exit::Timeout,
        _ => Exit::Error,
    }
}

fn remedy_of(error: &EtcdError) -> Option<String> {
    Some(match error {
        EtcdError::Unreachable { address, source } if hung_up(source) => match address.starts_with("https") {
            true => "it hung up. If it asks for client certificates, the directory behind ,credentials= needs client-cert.pem and \
                     client-key.pem of its authority; if it does not speak https there, write http://HOST:PORT"
                .into(),
            false => "does the member speak https there? Then write https://HOST:PORT, and ,credentials=DIR behind the addresses".into(),
        },
        EtcdError::Files(error) => format!(
            "the directory behind ,credentials= has ca-cert.pem and, if the members ask for certificates, client-cert.pem and \
             client-key.pem{}",
            error.hint().filter(|hint| hint.starts_with("`chmod")).map_or_else(String::new, |hint| format!("; {hint}"))
        ),
        EtcdError::User { path, .. } => {
            format!("write NAME:PASSWORD into it, one line, for its owner alone: `chmod 600 {}`", path.display())
        }
        EtcdError::Untrusted { .. } => {
            "ca-cert.pem behind ,credentials= must be the certificate of who signed the members' \
                                        (their --cert-file), and the address a name in it (subjectAltName)"
                .into()
        }
        EtcdError::Unwelcome { .. } => {
            "put client-cert.pem and client-key.pem behind ,credentials=, signed by who is in the members' \
                                        --trusted-ca-file"
                .into()
        }
        EtcdError::CommonName { .. } => {
            "sign client-cert.pem anew without a common name, for example with `-subj /O=outlast`: where etcd \
                                         asks for users too, its gateway takes no other"
                .into()
        }
        EtcdError::NoUser { .. } => {
            "put a file `user` with one line NAME:PASSWORD behind ,credentials=, `chmod 600`".into()
        }
        EtcdError::Password { path, .. } => {
            format!(
                "correct {}, one line NAME:PASSWORD, or `etcdctl user add` and `etcdctl user passwd`",
                path.display()
            )
        }
        EtcdError::Forbidden { user, .. } => format!(
            "`etcdctl role add outlast`, `etcdctl role grant-permission outlast --prefix=true readwrite outlast/`, `etcdctl user \
             grant-role {user} outlast`"
        ),
        EtcdError::Full { .. } => "make room: `etcdctl compact`, `etcdctl defrag`, then `etcdctl alarm disarm`".into(),
        EtcdError::Another { .. } => "give the client addresses of one cluster".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Failure;

    fn etcd(error: EtcdError) -> Failure {
        let addresses = "https://a:1,credentials=/etc/outlast/etcd".into();
        Failure::of(&WitnessError::Etcd { addresses, source: error.into() })
    }

    #[test]
    fn directory_that_is_missing_or_not_ours_says_what_to_do() {
        let failure = |kind: ErrorKind| Failure::of(&WitnessError::Open { dir: "/w".into(), source: kind.into() });
        let missing = failure(ErrorKind::NotFound);
        assert_eq!(missing.exit, Exit::NotFound);
        assert!(missing.to_string().contains("`mkdir /w`"), "{missing}");
        let denied = failure(ErrorKind::PermissionDenied);
        assert_eq!(denied.exit, Exit::Error);
        assert!(denied.to_string().contains("`ls -ld /w`"), "{denied}");
    }

    #[test]
    fn each_refusal_of_etcd_names_the_member_and_says_what_to_do() {
        let (address, path) = (|| "https://a:1".to_owned(), "/c/user".into());
        for (error, exit, says) in [
            (EtcdError::Silent { address: address() }, Exit::Timeout, "--endpoints https://a:1 endpoint health"),
            (
                EtcdError::Unreachable { address: address(), source: ErrorKind::UnexpectedEof.into() },
                Exit::Error,
                "write http://HOST:PORT",
            ),
            (
                EtcdError::Unreachable { address: address(), source: ErrorKind::ConnectionRefused.into() },
                Exit::Error,
                "endpoint health",
            ),
            (EtcdError::Untrusted { address: address(), why: "w".into() }, Exit::Usage, "who signed the members'"),
            (EtcdError::Unwelcome { address: address(), why: "w".into() }, Exit::Usage, "--trusted-ca-file"),
            (EtcdError::CommonName { address: address() }, Exit::Usage, "-subj /O=outlast"),
            (EtcdError::NoUser { address: address() }, Exit::Usage, "a file `user`"),
            (EtcdError::Password { address: address(), user: "vm".into(), path }, Exit::Usage, "correct /c/user"),
            (EtcdError::Forbidden { address: address(), user: "vm".into() }, Exit::Error, "user grant-role vm outlast"),
            (EtcdError::Full { address: address() }, Exit::Error, "alarm disarm"),
            (EtcdError::Another { address: address(), found: 1, expected: 2 }, Exit::Usage, "one cluster"),
        ] {
            let failure = etcd(error);
            assert_eq!(failure.exit, exit, "{failure}");
            let hint = failure.hint.as_deref().unwrap_or_default();
            assert!(hint.contains(says) && failure.message.contains("https://a:1"), "{failure}");
        }
        let failure = etcd(EtcdError::User { path: "/c/user".into(), why: "w".into() });
        assert!(failure.to_string().contains("chmod 600 /c/user"), "{failure}");
    }
}
