//! What is said with a verb, and small answers.
//!
//! Fields that a request does not have are refused.

use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// `PATCH /vm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VmState {
    /// What the guest is to do.
    pub state: GoalState,
}

/// What a guest is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GoalState {
    /// Stand still at a boundary.
    Paused,
    /// Run.
    Resumed,
}

/// `PUT /actions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// What is to be done.
    pub action_type: ActionType,
}

/// What can be done with a VM as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ActionType {
    /// End it cleanly.
    Stop,
}

/// `PUT /ft`: where the epochs of the running VM are committed from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtectRequest {
    /// The new target, added to what is there: `tcp:HOST:PORT` or `unix:PATH`.
    #[schemars(example = "tcp:10.78.0.1:7000")]
    pub protect: String,
    /// The new epoch length, `1ms` to `10s`, or `auto`; absent leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = "20ms")]
    pub epoch: Option<String>,
}

/// `PUT /ft` asked for what was under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Protection {
    /// How the guest is protected already, for people.
    pub already: String,
}

/// `PUT /ft/take-over`: a backup whose copy was kept is to run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeOverRequest {
    /// Every place that the witness lists, by the beginnings of their ids: the operator says that they are dead.
    pub dead: Vec<String>,
    /// The witness from now on, if the old one is gone for good: `file:DIR` or `etcd:URL[,URL…]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = "file:/shared/witness")]
    pub witness: Option<String>,
    /// Who says so, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// And why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// `PUT /ft/witness`: the VM's register is continued at another witness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WitnessRequest {
    /// The new one: `file:DIR` or `etcd:URL[,URL…]`.
    #[schemars(example = "file:/shared/witness")]
    pub witness: String,
    /// Every other place that the newest view lists, by the beginnings of their ids: the operator says that they are dead, since they
    /// cannot be asked. Absent, and no `why` either: all take part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead: Vec<String>,
    /// Who says so, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// And why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// `PUT /ft/switchover`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchoverRequest {
    /// Only if the backup is on the host where the guest ran before.
    #[serde(default)]
    pub back: bool,
}

/// A guest that was handed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Switchover {
    /// Where it runs now.
    pub holder: String,
    /// How long it stood still, at most, in milliseconds.
    pub stood_ms: f64,
}

/// `PUT /snapshot/create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// The directory to make; it must not exist.
    pub snapshot_path: String,
}

/// A snapshot that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// Its directory.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// How long the guest stood still for it, in milliseconds.
    pub pause_ms: f64,
}

/// `GET /events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// The number of the first event to give.
    #[serde(default)]
    pub since: u64,
}

/// What is said with a verb: nothing, a query, or a body.
pub trait Parameters: Sized {
    /// As a query and a body.
    fn encode(&self) -> (String, Vec<u8>);
    /// From a query and a body; an error is what is wrong with them.
    fn decode(query: &str, body: &[u8]) -> Result<Self, String>;
    /// OpenAPI's `parameters` or `requestBody`.
    fn describe(schemas: &mut SchemaGenerator) -> Option<(&'static str, Value)>;
}

fn without_query(query: &str) -> Result<(), String> {
    if query.is_empty() { Ok(()) } else { Err(format!("unknown query '{query}'; it takes none")) }
}

impl Parameters for () {
    fn encode(&self) -> (String, Vec<u8>) {
        (String::new(), Vec::new())
    }

    fn decode(query: &str, _: &[u8]) -> Result<Self, String> {
        without_query(query)
    }

    fn describe(_: &mut SchemaGenerator) -> Option<(&'static str, Value)> {
        None
    }
}

impl Parameters for Since {
    fn encode(&self) -> (String, Vec<u8>) {
        (serde_urlencoded::to_string(self).expect("a query of numbers"), Vec::new())
    }

    fn decode(query: &str, _: &[u8]) -> Result<Self, String> {
        serde_urlencoded::from_str(query).map_err(|error| format!("query '{query}': {error}; known: since=N"))
    }

    fn describe(_: &mut SchemaGenerator) -> Option<(&'static str, Value)> {
        let schema = schemars::schema_for!(Self).to_value();
        let fields = schema["properties"].as_object().expect("a struct has properties");
        let parameters: Vec<Value> =
            fields.iter().map(|(name, schema)| json!({ "name": name, "in": "query", "schema": schema })).collect();
        Some(("parameters", parameters.into()))
    }
}

fn decode_body<T: DeserializeOwned>(query: &str, body: &[u8]) -> Result<T, String> {
    without_query(query)?;
    match body {
        [] => Err("the body is empty, and is to be a JSON object".into()),
        body => serde_json::from_slice(body).map_err(|error| error.to_string()),
    }
}

macro_rules! json_bodies {
    ($($request:ty),* $(,)?) => {
        $(
            impl Parameters for $request {
                fn encode(&self) -> (String, Vec<u8>) {
                    (String::new(), serde_json::to_vec(self).expect("a request is plain data"))
                }

                fn decode(query: &str, body: &[u8]) -> Result<Self, String> {
                    decode_body(query, body)
                }

                fn describe(schemas: &mut SchemaGenerator) -> Option<(&'static str, Value)> {
                    let schema = schemas.subschema_for::<$request>();
                    let content = json!({ "application/json": { "schema": schema } });
                    Some(("requestBody", json!({ "required": true, "content": content })))
                }
            }
        )*
    };
}

json_bodies!(VmState, Action, ProtectRequest, SwitchoverRequest, TakeOverRequest, WitnessRequest, SnapshotRequest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_is_read_and_what_is_unknown_is_named() {
        assert_eq!(Since::decode("", b""), Ok(Since { since: 0 }));
        assert_eq!(Since::decode("since=2", b""), Ok(Since { since: 2 }));
        assert_eq!(Since { since: 7 }.encode().0, "since=7");
        assert!(Since::decode("since=x", b"").expect_err("no number").contains("known: since=N"));
        assert!(Since::decode("from=1", b"").expect_err("unknown").contains("from"));
        assert!(<()>::decode("pretty", b"").expect_err("none is taken").contains("pretty"));
    }

    #[test]
    fn body_that_does_not_fit_says_what_would() {
        let why = |body: &str| VmState::decode("", body.as_bytes()).expect_err("it does not fit");
        assert!(why("").contains("empty"));
        assert!(why(r#"{"state":"Asleep"}"#).contains("`Paused` or `Resumed`"));
        assert!(why(r#"{"state":"Paused","now":true}"#).contains("unknown field `now`, expected `state`"));
        assert!(why(r#"{"state":7}"#).contains("line 1"), "{}", why(r#"{"state":7}"#));
    }
}
