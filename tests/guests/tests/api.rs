//! The control interface of running VMs: what they answer is what the document says that they serve, in both roles, and what is
//! asked wrongly is answered with what would be right.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use guests::place::wait_progress;
use guests::{Guest, Pair, Place, Vm, needs};
use outlast_api::{Exit, Fault, Since, Snapshot, SnapshotRequest, Status, verbs};
use serde_json::{Value, json};
use vmm::api::client::ClientError;

/// The document that `vm` serves.
fn document(vm: &Vm) -> Value {
    vm.client().call::<verbs::GetOpenapi>(&()).expect("a running VM describes its interface")
}

/// Checks that `value` is what `document` calls `schema`, at a JSON pointer.
#[track_caller]
fn assert_fits(document: &Value, pointer: &str, value: &Value) {
    let mut schema = document.clone();
    schema["$ref"] = json!(format!("#{pointer}"));
    let validator = jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{pointer}: {error}"));
    let misfits: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(misfits.is_empty(), "{pointer}: {misfits:?}: {value:#}");
}

/// Every `GET` of the document, asked of `vm`.
#[track_caller]
fn assert_answers_as_described(vm: &Vm) {
    let document = document(vm);
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let Some((kind, _)) =
            item["get"]["responses"]["200"]["content"].as_object().and_then(|kinds| kinds.iter().next())
        else {
            continue;
        };
        let body = vm.client().send("GET", path, b"").unwrap_or_else(|error| panic!("{path}: {error}"));
        let pointer = |name: &str| name.replace('~', "~0").replace('/', "~1");
        let place = format!("/paths/{}/get/responses/200/content/{}/schema", pointer(path), pointer(kind));
        let values: Vec<Value> = match kind.as_str() {
            "text/plain" => vec![String::from_utf8(body).expect("text").into()],
            _ => serde_json::Deserializer::from_slice(&body).into_iter().map(|value| value.expect("JSON")).collect(),
        };
        assert!(!values.is_empty(), "{path} says nothing");
        values.iter().for_each(|value| assert_fits(&document, &place, value));
        asked += 1;
    }
    assert_eq!(asked, verbs::ALL.iter().filter(|verb| verb.method.as_str() == "GET").count());
}

#[test]
fn answers_of_running_vms_are_what_their_document_says() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let mut pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 5);
    assert_answers_as_described(&pair.primary);
    assert_answers_as_described(&pair.backup);

    let snapshot_path = place.path("snapshot").display().to_string();
    let raw =
        pair.primary.client().ask::<verbs::PutSnapshot>(&SnapshotRequest { snapshot_path }).expect("there is room");
    let document = document(&pair.primary);
    assert_fits(&document, "/components/schemas/Snapshot", &serde_json::from_slice(&raw).expect("JSON"));
    let snapshot: Snapshot = serde_json::from_slice(&raw).expect("what was written");
    assert!(snapshot.bytes >= u64::from(guest.memory_mib) << 20, "{snapshot:?}");

    pair.primary.kill();
    pair.backup.wait_event("failover-finished");
    assert!(matches!(pair.backup.status(), Status::Primary(_)), "it changed its role");
    assert_answers_as_described(&pair.backup);
    let events = pair.backup.client().call::<verbs::GetEvents>(&Since::default()).expect("events");
    assert_eq!(events, pair.backup.events(), "the event monitor and the interface tell the same");
}

#[test]
fn reset_of_metrics_forgets_distributions_and_keeps_counters() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let pair = Pair::start(&place, &guest);
    wait_progress(&pair.primary, &guest, 5);
    // A guest that stands still ends no epoch.
    assert_eq!(pair.primary.ctl(&["pause"]).0, 0);
    let before = pair.primary.primary().epochs;
    assert!(before.distributions.pause.count > 0, "{before:?}");
    assert_eq!(pair.primary.ctl(&["metrics", "--reset"]), (0, String::new()));
    let after = pair.primary.primary().epochs;
    assert_eq!((after.distributions.pause.count, after.counts.epochs), (0, before.counts.epochs));
    let (code, said) = pair.backup.ctl(&["metrics", "--reset"]);
    assert!(code == 4 && said.contains("ask the primary"), "{said}");
}

/// What `vm` answers to bytes that need not be a request: the status and the fault.
fn answer_to(vm: &Vm, request: &[u8]) -> (u16, Fault) {
    let mut stream = UnixStream::connect(vm.socket()).expect("it runs");
    stream.write_all(request).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
}

#[test]
fn wrong_request_is_answered_with_its_status_and_what_would_be_right() {
    needs!(Kvm);
    let (guest, place) = (Guest::counter(), Place::new());
    let vm = place.alone("a", &guest).start();
    wait_progress(&vm, &guest, 1);
    let request = |line: &str, body: &str| {
        format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    for (request, status, hint) in [
        (request("GET /nowhere", ""), 404, "GET /openapi.json lists"),
        (request("DELETE /vm", ""), 405, "GET, PATCH"),
        (request("PATCH /vm", r#"{"state":"Paused","now":true}"#), 400, "GET /openapi.json says what PATCH /vm takes"),
        (request("PATCH /vm", r#"{"state":true}"#), 400, "GET /openapi.json"),
        (request("PUT /ft", r#"{"protect":"udp:b:1"}"#), 400, "GET /openapi.json"),
        (request("GET /events?from=1", ""), 400, "GET /openapi.json"),
        (b"PUT /ft HTTP/1.1\r\nContent-Length: 65537\r\n\r\n".to_vec(), 413, "65536 bytes"),
        (b"PUT /ft HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), 501, "Content-Length"),
        (b"\x16\x03\x01\x02\x00".to_vec(), 400, "curl --unix-socket"),
    ] {
        let (seen, fault) = answer_to(&vm, &request);
        let asked = String::from_utf8_lossy(&request);
        assert_eq!((seen, fault.code), (status, Exit::Usage), "{asked}: {fault:?}");
        assert!(fault.hint.as_ref().is_some_and(|text| text.contains(hint)), "{asked}: {fault:?}");
    }
    // Nothing was done.
    assert_eq!(vm.count("paused"), 0);
    match vm.client().call::<verbs::PutTakeOver>(&outlast_api::TakeOverRequest {
        dead: vec![],
        witness: None,
        who: None,
        why: None,
    }) {
        Err(ClientError::Fault(fault)) => assert_eq!(fault.code, Exit::Conflict, "{fault}"),
        other => panic!("{other:?}"),
    }
}
