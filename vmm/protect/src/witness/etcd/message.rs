//! What etcd's JSON gateway gets and gives. Bytes are in base64, and 64-bit numbers are text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// A key or a value as the gateway wants it.
pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64.encode(bytes)
}

/// The bytes of a key or a value.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    BASE64.decode(text)
}

#[derive(Serialize)]
pub(super) struct Put {
    key: String,
    value: String,
}

impl Put {
    pub(super) fn new(key: &str, value: &[u8]) -> Self {
        Self { key: encode(key), value: encode(value) }
    }
}

#[derive(Serialize)]
pub(super) struct Txn {
    pub(super) compare: Vec<Compare>,
    pub(super) success: Vec<Op>,
}

#[derive(Serialize)]
pub(super) struct Op {
    pub(super) request_put: Put,
}

#[derive(Serialize)]
pub(super) struct Compare {
    target: &'static str,
    key: String,
    result: &'static str,
    create_revision: &'static str,
}

impl Compare {
    /// A key that is not there has revision zero.
    pub(super) fn created(key: &str, result: &'static str) -> Self {
        Self { target: "CREATE", key: encode(key), result, create_revision: "0" }
    }
}

#[derive(Serialize, Default)]
pub(super) struct Range {
    pub(super) key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range_end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<u32>,
    /// By key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sort_order: Option<&'static str>,
    /// The member's own state is enough: who it is, is asked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) serializable: bool,
}

impl Range {
    pub(super) fn of_key(key: &str) -> Self {
        Self { key: encode(key), ..Self::default() }
    }
}

/// Who asks.
#[derive(Serialize)]
pub(super) struct Authenticate<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

/// What proves it for a while.
#[derive(Deserialize)]
pub(super) struct Token {
    pub(super) token: String,
}

/// What every answer begins with.
#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) header: HeaderFields,
}

#[derive(Deserialize)]
pub(super) struct HeaderFields {
    pub(super) cluster_id: String,
}

#[derive(Deserialize)]
pub(super) struct Found {
    #[serde(default)]
    pub(super) kvs: Vec<Pair>,
    #[serde(default)]
    pub(super) more: bool,
}

#[derive(Deserialize)]
pub(super) struct Pair {
    pub(super) key: String,
    #[serde(default)]
    pub(super) value: String,
}

/// What a member says of itself.
#[derive(Deserialize)]
pub(super) struct Status {
    pub(super) header: StatusHeader,
    #[serde(default)]
    pub(super) version: String,
    #[serde(default)]
    pub(super) leader: String,
    #[serde(default)]
    pub(super) errors: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct StatusHeader {
    pub(super) cluster_id: String,
    pub(super) member_id: String,
}

/// What etcd says to who has no token, or one that is good no more.
const LACKS_TOKEN: [&str; 3] = ["invalid auth token", "user name is empty", "revision of auth store is old"];

/// A request that was not done.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// What the member says.
    pub(super) message: String,
}

#[derive(Deserialize)]
struct RefusedFields {
    #[serde(default)]
    message: String,
    #[serde(default)]
    error: String,
}

impl Refused {
    /// What `body` says: JSON of the gateway, or text of whatever answers there.
    pub(super) fn of(body: &[u8]) -> Self {
        let text = || String::from_utf8_lossy(body).trim().to_owned();
        let said = serde_json::from_slice::<RefusedFields>(body).ok();
        let said = said.map(|said| if said.message.is_empty() { said.error } else { said.message });
        Self { message: said.filter(|said| !said.is_empty()).unwrap_or_else(text) }
    }

    /// Nothing took place, for want of a token that is good now.
    pub(super) fn lacks_token(&self) -> bool {
        LACKS_TOKEN.iter().any(|said| self.message.contains(said))
    }

    /// The certificate that was shown has a common name, which etcd would take for a user's if it came another way.
    pub(super) fn is_of_common_name(&self) -> bool {
        self.message.contains("CommonName of client")
    }

    /// There is no such user, or the password is another.
    pub(super) fn is_of_password(&self) -> bool {
        self.message.contains("authentication failed")
    }
}
