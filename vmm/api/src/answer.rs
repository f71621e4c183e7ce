//! What comes back for a verb, as bytes and in the OpenAPI document.

use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Event, Fault, Info, Snapshot, Status, Switchover, Version};

/// An answer on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The kind of body; empty if there is none.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
    /// The methods that a path takes, for 405.
    pub allow: Option<String>,
}

impl Reply {
    /// A success with something to say.
    pub fn ok(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Reply { status: 200, content_type, body: body.into(), allow: None }
    }

    /// A refusal.
    pub fn fault(status: u16, fault: &Fault) -> Self {
        Reply { status, ..Reply::json(fault) }
    }

    fn json(value: &impl Serialize) -> Self {
        Reply::ok(JSON, line(value))
    }

    fn no_content() -> Self {
        Reply { status: 204, content_type: "", body: Vec::new(), allow: None }
    }
}

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what the interface says has string keys and finite numbers") + "\n"
}

/// What comes back for a verb.
pub trait Answer: Sized {
    /// As a reply.
    fn encode(&self) -> Reply;
    /// From the body of a success.
    fn decode(body: &[u8]) -> Result<Self, serde_json::Error>;
    /// OpenAPI's `responses` that are successes.
    fn describe(schemas: &mut SchemaGenerator) -> Value;
}

fn done() -> Value {
    json!({ "description": "Done, or under way" })
}

fn content(description: &str, content_type: &str, schema: Value) -> Value {
    json!({ "description": description, "content": { content_type: { "schema": schema } } })
}

fn schema_of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().to_value()
}

impl Answer for () {
    fn encode(&self) -> Reply {
        Reply::no_content()
    }

    fn decode(_: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(())
    }

    fn describe(_: &mut SchemaGenerator) -> Value {
        json!({ "204": done() })
    }
}

macro_rules! json_answers {
    ($($answer:ty: $says:literal),* $(,)?) => {
        $(
            impl Answer for $answer {
                fn encode(&self) -> Reply {
                    Reply::json(self)
                }

                fn decode(body: &[u8]) -> Result<Self, serde_json::Error> {
                    serde_json::from_slice(body)
                }

                fn describe(schemas: &mut SchemaGenerator) -> Value {
                    json!({ "200": content($says, JSON, schema_of::<$answer>(schemas)) })
                }
            }
        )*
    };
}

json_answers! {
    Info: "Name, state, configuration, version",
    Version: "Versions",
    Status: "The status of a primary, or of a backup",
    Snapshot: "What was written",
    Switchover: "Where it runs now",
    Value: "An OpenAPI document",
}

/// Something to say about it, or nothing.
impl<T: Serialize + DeserializeOwned + JsonSchema> Answer for Option<T> {
    fn encode(&self) -> Reply {
        self.as_ref().map_or_else(Reply::no_content, Reply::json)
    }

    fn decode(body: &[u8]) -> Result<Self, serde_json::Error> {
        if body.is_empty() { Ok(None) } else { serde_json::from_slice(body).map(Some) }
    }

    fn describe(schemas: &mut SchemaGenerator) -> Value {
        json!({ "200": content("It was so already", JSON, schema_of::<T>(schemas)), "204": done() })
    }
}

impl Answer for Vec<Event> {
    fn encode(&self) -> Reply {
        Reply::ok(LINES, self.iter().map(line).collect::<String>())
    }

    fn decode(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::Deserializer::from_slice(body).into_iter().collect()
    }

    fn describe(schemas: &mut SchemaGenerator) -> Value {
        json!({ "200": content("An event for each line", LINES, schema_of::<Event>(schemas)) })
    }
}

/// Metrics in Prometheus' text format, version 0.0.4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusText(pub String);

impl Answer for PrometheusText {
    fn encode(&self) -> Reply {
        Reply::ok("text/plain; version=0.0.4; charset=utf-8", &*self.0)
    }

    fn decode(body: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(Self(String::from_utf8_lossy(body).into_owned()))
    }

    fn describe(_: &mut SchemaGenerator) -> Value {
        json!({ "200": content("Metrics", "text/plain", json!({ "type": "string" })) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protection;

    #[test]
    fn done_has_no_body_and_reads_as_done() {
        assert_eq!(().encode().status, 204);
        assert_eq!(None::<Protection>.encode(), Reply::no_content());
        assert_eq!(Option::<Protection>::decode(b"").expect("done"), None);
    }

    #[test]
    fn events_are_lines_and_back() {
        let lines = concat!(
            "{\"seq\":0,\"time_us\":1,\"event\":\"unpaused\",\"properties\":{}}\n",
            "{\"seq\":1,\"time_us\":2,\"event\":\"kept\",\"properties\":{\"epoch\":9,\"holder\":\"b\"}}\n",
        );
        let events = Vec::<Event>::decode(lines.as_bytes()).expect("events");
        assert_eq!((events.len(), String::from_utf8(events.encode().body)), (2, Ok(lines.to_owned())));
        Vec::<Event>::decode(&lines.as_bytes()[..lines.len() - 9]).expect_err("cut");
    }
}
