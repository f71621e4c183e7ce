//! Which request asks the handler for what.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::handler::{ApiError, ApiHandler};
use super::http::{Request, Response};

/// Each path and the methods that it takes. `/openapi.json` describes the same; a test compares the two.
const ROUTES: [(&str, &[&str]); 10] = [
    ("/", &["GET"]),
    ("/version", &["GET"]),
    ("/vm", &["GET", "PATCH"]),
    ("/ft", &["GET", "PUT", "DELETE"]),
    ("/ft/take-over", &["PUT"]),
    ("/snapshot/create", &["PUT"]),
    ("/actions", &["PUT"]),
    ("/metrics", &["GET"]),
    ("/events", &["GET"]),
    ("/openapi.json", &["GET"]),
];

/// The description of this interface.
const OPENAPI: &str = include_str!("openapi.json");

/// `PATCH /vm`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VmState {
    state: RunState,
}

#[derive(Deserialize)]
enum RunState {
    Paused,
    Resumed,
}

/// `PUT /actions`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    action_type: ActionType,
}

#[derive(Deserialize)]
enum ActionType {
    Stop,
}

/// Whether the answer may take long.
pub(super) fn is_slow(request: &Request) -> bool {
    matches!((request.method.as_str(), request.path.as_str()), ("PATCH", "/vm") | ("PUT", "/snapshot/create"))
}

/// Answers one request.
pub(super) fn answer(request: &Request, handler: &dyn ApiHandler) -> Response {
    let Some((_, methods)) = ROUTES.iter().find(|(path, _)| *path == request.path) else {
        let error = ApiError::bad_request(format!("there is no {}", request.path));
        return Response::error(404, &error.with_hint("GET /openapi.json lists what there is"));
    };
    if !methods.contains(&request.method.as_str()) {
        let error = ApiError::bad_request(format!("{} does not take {}", request.path, request.method));
        return Response { allow: Some(methods.join(", ")), ..Response::error(405, &error) };
    }
    ask(request, handler).unwrap_or_else(|error| Response::error(error.http_status(), &error))
}

fn ask(request: &Request, handler: &dyn ApiHandler) -> Result<Response, ApiError> {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/" | "/vm") => Ok(Response::json(&handler.info())),
        ("GET", "/version") => Ok(Response::json(&json!({ "version": env!("CARGO_PKG_VERSION") }))),
        ("GET", "/ft") => Ok(Response::json(&handler.status())),
        ("GET", "/metrics") => Ok(Response::text("text/plain; version=0.0.4; charset=utf-8", handler.metrics())),
        ("GET", "/events") => events(&request.query, handler),
        ("GET", _) => Ok(Response::text("application/json", OPENAPI)),
        ("PATCH", _) => match body::<VmState>(request)?.state {
            RunState::Paused => done(handler.pause()),
            RunState::Resumed => done(handler.resume()),
        },
        ("PUT", "/ft") => match handler.protect(body(request)?)? {
            Some(already) => Ok(Response::json(&already)),
            None => Ok(Response::no_content()),
        },
        ("PUT", "/ft/take-over") => done(handler.take_over(body(request)?)),
        ("PUT", "/snapshot/create") => Ok(Response::json(&handler.snapshot_create(body(request)?)?)),
        ("PUT", _) => match body::<Action>(request)?.action_type {
            ActionType::Stop => done(handler.stop()),
        },
        (_, _) => done(handler.unprotect()),
    }
}

fn done(result: Result<(), ApiError>) -> Result<Response, ApiError> {
    result.map(|()| Response::no_content())
}

fn body<T: DeserializeOwned>(request: &Request) -> Result<T, ApiError> {
    serde_json::from_slice(&request.body)
        .map_err(|error| ApiError::bad_request(format!("{} {}: {error}", request.method, request.path)))
}

/// One JSON object per line, from `since` on.
fn events(query: &str, handler: &dyn ApiHandler) -> Result<Response, ApiError> {
    let since = match query.strip_prefix("since=") {
        Some(number) => {
            number.parse().map_err(|_| ApiError::bad_request(format!("since={number}: not a whole number")))?
        }
        None if query.is_empty() => 0,
        None => return Err(ApiError::bad_request(format!("unknown query '{query}'; known: since=N"))),
    };
    let mut lines = String::new();
    for event in handler.events(since) {
        lines.push_str(&serde_json::to_string(&event).expect("an event has string keys only"));
        lines.push('\n');
    }
    Ok(Response::text("application/x-ndjson", lines))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Barrier, Mutex};

    use serde_json::Value;

    use super::*;
    use crate::api::handler::{ProtectRequest, SnapshotRequest, TakeOverRequest};
    use protect::events::Event;

    /// A machine that remembers what it was asked.
    #[derive(Clone, Default)]
    pub(in crate::api) struct Fake {
        pub(in crate::api) calls: Arc<Mutex<Vec<String>>>,
        pub(in crate::api) refuse: bool,
        /// Where a pause waits, for another to come.
        pub(in crate::api) pauses_at: Option<Arc<Barrier>>,
    }

    impl Fake {
        fn note(&self, call: String) -> Result<(), ApiError> {
            if self.refuse {
                return Err(ApiError::conflict("the VM is stopping").with_hint("wait"));
            }
            self.calls.lock().expect("no test panics with it").push(call);
            Ok(())
        }
    }

    impl ApiHandler for Fake {
        fn info(&self) -> Value {
            json!({ "name": "vm0", "state": "Running" })
        }
        fn status(&self) -> Value {
            json!({ "role": "solo" })
        }
        fn pause(&self) -> Result<(), ApiError> {
            if let Some(barrier) = &self.pauses_at {
                barrier.wait();
            }
            self.note("pause".into())
        }
        fn resume(&self) -> Result<(), ApiError> {
            self.note("resume".into())
        }
        fn stop(&self) -> Result<(), ApiError> {
            self.note("stop".into())
        }
        fn snapshot_create(&self, request: SnapshotRequest) -> Result<Value, ApiError> {
            self.note(format!("snapshot {}", request.snapshot_path.display()))?;
            Ok(json!({ "pause_us": 7 }))
        }
        fn protect(&self, request: ProtectRequest) -> Result<Option<Value>, ApiError> {
            self.note(format!("protect {}", request.protect)).map(|()| None)
        }
        fn unprotect(&self) -> Result<(), ApiError> {
            self.note("unprotect".into())
        }
        fn take_over(&self, request: TakeOverRequest) -> Result<(), ApiError> {
            self.note(format!("take over, dead: {}", request.dead.join(" ")))
        }
        fn metrics(&self) -> String {
            "outlast_epochs_total 3\n".into()
        }
        fn events(&self, since: u64) -> Vec<Event> {
            let event = |seq| Event { seq, time_us: seq * 10, event: "e".into(), properties: Default::default() };
            (since..3).map(event).collect()
        }
    }

    fn request(method: &str, target: &str, body: &str) -> Request {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Request { method: method.into(), path: path.into(), query: query.into(), body: body.into() }
    }

    fn calls_after(method: &str, target: &str, body: &str) -> (u16, Vec<String>) {
        let fake = Fake::default();
        let response = answer(&request(method, target, body), &fake);
        let calls = fake.calls.lock().expect("not poisoned").clone();
        (response.status, calls)
    }

    #[test]
    fn answer_each_change_asks_the_handler_once() {
        let table = [
            ("PATCH", "/vm", r#"{"state":"Paused"}"#, 204, "pause"),
            ("PATCH", "/vm", r#"{"state":"Resumed"}"#, 204, "resume"),
            ("PUT", "/ft", r#"{"protect":"tcp:b:7000","epoch":"10ms"}"#, 204, "protect tcp:b:7000"),
            ("DELETE", "/ft", "", 204, "unprotect"),
            ("PUT", "/ft/take-over", r#"{"dead":["0a1b2c3d"]}"#, 204, "take over, dead: 0a1b2c3d"),
            ("PUT", "/actions", r#"{"action_type":"Stop"}"#, 204, "stop"),
            ("PUT", "/snapshot/create", r#"{"snapshot_path":"/s"}"#, 200, "snapshot /s"),
        ];
        for (method, target, body, status, call) in table {
            assert_eq!(calls_after(method, target, body), (status, vec![call.to_string()]), "{method} {target}");
        }
    }

    #[test]
    fn answer_bad_body_is_400_and_asks_nothing() {
        for (method, target, body) in [
            ("PATCH", "/vm", ""),
            ("PATCH", "/vm", r#"{"state":"Asleep"}"#),
            ("PATCH", "/vm", r#"{"state":"Paused","now":true}"#),
            ("PUT", "/ft", r#"{"protect":"udp:b:1"}"#),
            ("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#),
        ] {
            assert_eq!(calls_after(method, target, body), (400, vec![]), "{method} {target} {body}");
        }
    }

    #[test]
    fn answer_refusal_is_409_with_hint() {
        let fake = Fake { refuse: true, ..Fake::default() };
        let response = answer(&request("PATCH", "/vm", r#"{"state":"Paused"}"#), &fake);
        let body: Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!((response.status, &body["hint"], &body["code"]), (409, &"wait".into(), &"conflict".into()));
    }

    #[test]
    fn answer_unknown_path_and_method_are_404_and_405() {
        let fake = Fake::default();
        assert_eq!(answer(&request("GET", "/nope", ""), &fake).status, 404);
        let response = answer(&request("DELETE", "/vm", ""), &fake);
        assert_eq!((response.status, response.allow.as_deref()), (405, Some("GET, PATCH")));
    }

    #[test]
    fn answer_events_since_gives_lines_from_there() {
        let fake = Fake::default();
        let lines = |target| String::from_utf8(answer(&request("GET", target, ""), &fake).body).expect("UTF-8");
        assert_eq!(lines("/events").lines().count(), 3);
        assert!(lines("/events?since=2").starts_with(r#"{"seq":2,"#));
        assert_eq!(answer(&request("GET", "/events?since=x", ""), &fake).status, 400);
        assert_eq!(answer(&request("GET", "/events?from=1", ""), &fake).status, 400);
    }

    #[test]
    fn answer_every_get_route_is_200_and_asks_for_no_change() {
        for (path, _) in ROUTES.iter().filter(|(_, methods)| methods.contains(&"GET")) {
            assert_eq!(calls_after("GET", path, ""), (200, vec![]), "{path}");
        }
    }

    #[test]
    fn openapi_describes_exactly_the_routes() {
        let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
        let mut described: Vec<(String, Vec<String>)> = document["paths"]
            .as_object()
            .expect("paths")
            .iter()
            .map(|(path, methods)| {
                (path.clone(), methods.as_object().expect("methods").keys().map(|m| m.to_uppercase()).collect())
            })
            .collect();
        let mut routed: Vec<(String, Vec<String>)> = ROUTES
            .iter()
            .map(|(path, methods)| (path.to_string(), methods.iter().map(|m| m.to_string()).collect()))
            .collect();
        for list in [&mut described, &mut routed] {
            list.sort();
            list.iter_mut().for_each(|(_, methods)| methods.sort());
        }
        assert_eq!(described, routed);
    }
}
