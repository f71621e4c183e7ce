//! The OpenAPI document: its structure, its references, and that answers are what it says.

use std::collections::BTreeSet;
use std::fs;

use outlast_api::{Answer, Event, Fault, Info, Snapshot, Status, openapi, verbs};
use serde_json::{Value, json};

fn golden(name: &str) -> String {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What is wrong with `value` as the document's `name`.
fn misfits(name: &str, value: &Value) -> Vec<String> {
    let mut schema = openapi::document();
    schema["$ref"] = json!(format!("#/components/schemas/{name}"));
    let validator = jsonschema::draft202012::new(&schema).expect("the document's schemas are schemas");
    validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[track_caller]
fn assert_fits(name: &str, value: &Value) {
    assert_eq!(misfits(name, value), [""; 0], "{name}: {value:#}");
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| match (name.as_str(), field) {
            ("$ref", Value::String(target)) => drop(found.insert(target.clone())),
            _ => references(field, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_resolves_and_every_schema_is_referred_to() {
    let document = openapi::document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for target in &found {
        let pointer = target.strip_prefix('#').expect("references stay inside");
        assert!(document.pointer(pointer).is_some(), "{target}");
    }
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    for name in schemas.keys() {
        assert!(found.contains(&format!("#/components/schemas/{name}")), "nothing refers to {name}");
    }
}

#[test]
fn paths_are_the_table_of_verbs() {
    let document = openapi::document();
    let paths = document["paths"].as_object().expect("paths");
    let described: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("a path has methods").keys();
            methods.map(|method| (path.clone(), method.to_uppercase()))
        })
        .collect();
    let table: BTreeSet<_> =
        verbs::ALL.iter().map(|verb| (verb.path.to_owned(), verb.method.as_str().to_owned())).collect();
    assert_eq!(described, table);
}

#[test]
fn operations_have_what_openapi_asks_for() {
    let document = openapi::document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let place = format!("{method} {path}");
            assert!(names.insert(operation["operationId"].as_str().expect("a name").to_owned()), "{place}");
            assert!(operation["summary"].as_str().is_some_and(|help| !help.ends_with('.')), "{place}");
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.contains_key("default") && responses.len() > 1, "{place}");
            for (status, response) in responses {
                assert!(response["description"].is_string() || response["$ref"].is_string(), "{place} {status}");
            }
            assert_eq!(operation["requestBody"].is_object(), ["put", "patch"].contains(&&**method), "{place}");
        }
    }
}

/// Each schema refuses something: one that fits everything would say nothing.
#[test]
fn schemas_refuse_what_the_types_refuse() {
    for (name, wrong) in [
        ("VmState", json!({ "state": "Asleep" })),
        ("VmState", json!({ "state": "Paused", "now": true })),
        ("Action", json!({ "action_type": "InstanceStart" })),
        ("ProtectRequest", json!({ "epoch": "10ms" })),
        ("SnapshotRequest", json!({ "snapshot_path": 7 })),
        ("TakeOverRequest", json!({ "dead": "0a1b2c3d" })),
        ("WitnessRequest", json!({ "dead": ["0a1b2c3d"] })),
        ("Status", json!({ "role": "witness" })),
        ("Event", json!({ "seq": 0, "time_us": 0, "event": "tea-time", "properties": {} })),
        ("Event", json!({ "seq": 0, "time_us": 0, "event": "solo", "properties": {} })),
        ("Fault", json!({ "fault_message": "no" })),
    ] {
        assert_ne!(misfits(name, &wrong), [""; 0], "{name}: {wrong}");
    }
}

/// What version 0.1.0 said before its answers had types: the same fields with the same values, and new ones.
#[track_caller]
fn assert_keeps(before: &Value, now: &Value, place: &str) {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            for (name, field) in before {
                let now = now.get(name).unwrap_or_else(|| panic!("{place}.{name} is lost"));
                assert_keeps(field, now, &format!("{place}.{name}"));
            }
        }
        (before, now) => assert_eq!(before, now, "{place}"),
    }
}

#[track_caller]
fn keeps<A: Answer>(name: &str, schema: &str) -> A {
    let before = golden(name);
    let answer = A::decode(before.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let now = serde_json::from_slice(&answer.encode().body).expect("JSON");
    assert_keeps(&serde_json::from_str(&before).expect("JSON"), &now, name);
    assert_fits(schema, &now);
    answer
}

#[test]
fn answers_of_before_are_read_and_said_again() {
    for name in ["primary-protected.json", "primary-taken-over.json"] {
        keeps::<Status>(name, "Status").primary().expect("a primary");
    }
    for name in ["backup-waiting.json", "backup-protected.json"] {
        keeps::<Status>(name, "Status").backup().expect("a backup");
    }
    let info = keeps::<Info>("info-primary.json", "Info");
    assert_eq!(info.config.protect, ["local", "tcp:127.0.0.1:41957"]);
    keeps::<Info>("info-backup.json", "Info");
    keeps::<Snapshot>("snapshot.json", "Snapshot");
    keeps::<Option<outlast_api::Protection>>("protect-already.json", "Protection");
    let fault: Fault = serde_json::from_str(&golden("fault.json")).expect("a fault");
    assert_fits("Fault", &serde_json::to_value(&fault).expect("plain data"));
}

#[test]
fn events_of_before_are_read_and_said_again() {
    let before = golden("events.ndjson");
    let events = Vec::<Event>::decode(before.as_bytes()).expect("events");
    for (line, event) in before.lines().zip(&events) {
        let now = serde_json::to_value(event).expect("plain data");
        assert_eq!(serde_json::from_str::<Value>(line).expect("JSON"), now);
        assert_fits("Event", &now);
    }
    assert_eq!(before.lines().count(), events.len());
}
