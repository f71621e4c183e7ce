//! Why a request was not done.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Exit;

/// Why a request was not done. The VM is in the state that it was in before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What was tried, on what, why it failed.
    #[serde(rename = "fault_message")]
    pub message: String,
    /// The name of the exit code that `outlast ctl` ends with; the HTTP status follows from it.
    pub code: Exit,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Fault {
    /// A fault without a hint.
    pub fn new(code: Exit, message: impl Into<String>) -> Self {
        Fault { message: message.into(), code, hint: None }
    }

    /// The state that the VM is in forbids the request.
    pub fn conflict(message: impl Into<String>) -> Self {
        Fault::new(Exit::Conflict, message)
    }

    /// The request asks for something that cannot be.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Fault::new(Exit::Usage, message)
    }

    /// The same fault, with what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// 400 for what is wrong with the request, 409 for what is wrong with the moment, 5xx for the rest.
    pub fn http_status(&self) -> u16 {
        match self.code {
            Exit::Usage => 400,
            Exit::NotFound => 404,
            Exit::Conflict | Exit::SplitBrain | Exit::SelfFenced | Exit::Incompatible => 409,
            Exit::Timeout => 504,
            Exit::Ok | Exit::Error | Exit::GuestCrashed | Exit::MappingLost => 500,
        }
    }

    /// What a refusal with this HTTP status and `body` says. A body that is no fault leaves what the status says.
    pub fn decode(status: u16, body: &[u8]) -> Self {
        let code = match status {
            400..=403 | 405 => Exit::Usage,
            404 => Exit::NotFound,
            409 => Exit::Conflict,
            408 | 504 => Exit::Timeout,
            _ => Exit::Error,
        };
        serde_json::from_slice(body).unwrap_or_else(|_| Fault::new(code, format!("HTTP status {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_reads_what_was_sent_and_makes_up_the_rest() {
        let fault = Fault::conflict("it is paused").with_hint("resume it");
        let body = serde_json::to_vec(&fault).expect("plain data");
        assert_eq!(Fault::decode(409, &body), fault);
        assert_eq!(Fault::decode(404, b"<html>"), Fault::new(Exit::NotFound, "HTTP status 404"));
    }

    #[test]
    fn json_is_message_code_and_hint_if_there_is_one() {
        let json = |fault: &Fault| serde_json::to_string(fault).expect("plain data");
        let fault = Fault::new(Exit::SplitBrain, "no");
        assert_eq!(json(&fault), r#"{"fault_message":"no","code":"split-brain"}"#);
        assert_eq!(json(&fault.with_hint("a")), r#"{"fault_message":"no","code":"split-brain","hint":"a"}"#);
    }
}
