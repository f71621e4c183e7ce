//! What a member of a cluster says or does instead of an answer. After each of these nobody knows whether a request took place.

use std::io;
use std::path::PathBuf;

use ureq::http::StatusCode;

use super::message::Refused;
use crate::transport::CredentialsError;

/// An error's text that is passed on.
const TEXT_CHARS_MAX: usize = 300;

/// Why etcd gave no answer, and which member it was.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Nobody listens there, or nothing leads there.
    #[error("{address}: {source}")]
    Unreachable {
        /// The member.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It takes too long.
    #[error("{address} does not answer")]
    Silent {
        /// The member.
        address: String,
    },
    /// The files that this side needs for TLS.
    #[error(transparent)]
    Files(#[from] CredentialsError),
    /// The file with the password.
    #[error("{}: {why}", path.display())]
    User {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The member's certificate is not good, or it speaks no TLS.
    #[error("{address} is not trusted: {why}")]
    Untrusted {
        /// The member.
        address: String,
        /// Why.
        why: String,
    },
    /// The member does not like the certificate that was shown, or wants one.
    #[error("{address} refuses this side: {why}")]
    Unwelcome {
        /// The member.
        address: String,
        /// Why.
        why: String,
    },
    /// It takes no certificate that names somebody, where it asks for a user too.
    #[error("{address} refuses this side: its certificate has a common name")]
    CommonName {
        /// The member.
        address: String,
    },
    /// The cluster asks who it is, and nobody said.
    #[error("{address} asks for a user and a password")]
    NoUser {
        /// The member.
        address: String,
    },
    /// The user is unknown, or the password another.
    #[error("{address} does not accept the user {user} with the password in {}", path.display())]
    Password {
        /// The member.
        address: String,
        /// Who it was to be.
        user: String,
        /// The file with the password.
        path: PathBuf,
    },
    /// The user may not read or write there.
    #[error("{address} does not let {user} read and write the keys that begin with outlast/")]
    Forbidden {
        /// The member.
        address: String,
        /// Who asked.
        user: String,
    },
    /// The database takes no more.
    #[error("{address}: the cluster's database is full")]
    Full {
        /// The member.
        address: String,
    },
    /// Something else.
    #[error("{address} answers {status}: {text}")]
    Other {
        /// The member.
        address: String,
        /// The status of the answer.
        status: StatusCode,
        /// What it says.
        text: String,
    },
    /// It is no etcd.
    #[error("{address} does not answer as etcd does: {why}")]
    Foreign {
        /// The member.
        address: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// What is kept there is not what was written.
    #[error("{0}")]
    Garbled(String),
    /// Two addresses are of two clusters.
    #[error("{address} is of cluster {found:016x}, and another answer was of cluster {expected:016x}")]
    Another {
        /// The member.
        address: String,
        /// Its cluster.
        found: u64,
        /// The cluster that is asked.
        expected: u64,
    },
}

impl EtcdError {
    /// Why nothing came from `address`.
    pub(super) fn of_request(address: &str, error: ureq::Error) -> Self {
        let address = address.to_owned();
        match error {
            ureq::Error::Timeout(_) => Self::Silent { address },
            ureq::Error::Rustls(error) => Self::of_tls(address, &error),
            other => match other.into_io() {
                error if error.kind() == io::ErrorKind::TimedOut => Self::Silent { address },
                source => match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                    Some(error) => Self::of_tls(address, error),
                    None => Self::Unreachable { address, source },
                },
            },
        }
    }

    fn of_tls(address: String, error: &rustls::Error) -> Self {
        let why = crate::transport::tls_words(error);
        match error {
            rustls::Error::AlertReceived(_) => Self::Unwelcome { address, why },
            _ => Self::Untrusted { address, why },
        }
    }

    /// What a member refused with.
    pub(super) fn of_refusal(address: &str, refused: &Refused, status: StatusCode, user: Option<&str>) -> Self {
        let (address, text) = (address.to_owned(), &refused.message);
        let user = || user.unwrap_or("a client without a name").to_owned();
        match status.as_u16() {
            403 => Self::Forbidden { address, user: user() },
            _ if refused.is_of_common_name() => Self::CommonName { address },
            _ if refused.lacks_token() => Self::NoUser { address },
            _ if text.contains("database space exceeded") => Self::Full { address },
            _ => {
                let text = text.trim().chars().take(TEXT_CHARS_MAX).collect();
                Self::Other { address, status, text }
            }
        }
    }

    /// How much an operator learns by it: of several addresses the one that says most is told.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Silent { .. } => 0,
            Self::Unreachable { .. } => 1,
            Self::Other { .. } | Self::Full { .. } => 2,
            _ => 3,
        }
    }
}

impl From<EtcdError> for io::Error {
    fn from(error: EtcdError) -> Self {
        let kind = match &error {
            EtcdError::Unreachable { source, .. } => source.kind(),
            EtcdError::Silent { .. } => io::ErrorKind::TimedOut,
            EtcdError::Files(_) | EtcdError::User { .. } | EtcdError::Untrusted { .. } => io::ErrorKind::InvalidInput,
            EtcdError::Garbled(_) => io::ErrorKind::InvalidData,
            EtcdError::Full { .. } => io::ErrorKind::StorageFull,
            EtcdError::Other { .. } | EtcdError::Foreign { .. } | EtcdError::Another { .. } => io::ErrorKind::Other,
            EtcdError::Unwelcome { .. }
            | EtcdError::CommonName { .. }
            | EtcdError::NoUser { .. }
            | EtcdError::Password { .. }
            | EtcdError::Forbidden { .. } => io::ErrorKind::PermissionDenied,
        };
        Self::new(kind, error)
    }
}
