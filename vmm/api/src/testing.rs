//! A face for tests that remembers what it was asked.

use std::sync::{Arc, Barrier, Mutex};

use crate::{Answer, Fault, Pace, Parameters, PrimaryStatus, Service, Status, Verb};

/// What a [`Fake`] says to a call, having heard the calls before it; `None` leaves it to the fake.
pub type Script = fn(before: &[String], call: &str) -> Option<Result<String, Fault>>;

/// A VM that does nothing but remember. It says that it is a backup, unless its script says otherwise.
#[derive(Clone, Debug)]
pub struct Fake {
    calls: Arc<Mutex<Vec<String>>>,
    script: Script,
    meets_at: Option<(Pace, Arc<Barrier>)>,
}

impl Default for Fake {
    fn default() -> Self {
        Fake::with(|_, _| None)
    }
}

impl Fake {
    /// One that says what `script` says.
    pub fn with(script: Script) -> Self {
        Fake { calls: Arc::default(), script, meets_at: None }
    }

    /// One that refuses everything.
    pub fn refusing() -> Self {
        Fake::with(|_, _| Some(Err(Fault::conflict("the VM is stopping").with_hint("wait"))))
    }

    /// One whose verbs of one pace wait at `barrier`, for another to come.
    pub fn meeting_at(pace: Pace, barrier: Arc<Barrier>) -> Self {
        Fake { meets_at: Some((pace, barrier)), ..Fake::default() }
    }

    /// `METHOD PATH WHAT` of everything that it did, in order.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no test panics with it").clone()
    }
}

impl<V: Verb> Service<V> for Fake {
    fn serve(&self, request: V::Request) -> Result<V::Answer, Fault> {
        if let Some((_, barrier)) = self.meets_at.as_ref().filter(|(pace, _)| *pace == V::PACE) {
            barrier.wait();
        }
        let (query, body) = request.encode();
        let what = [query.as_bytes(), &body].concat();
        let call = format!("{} {} {}", V::METHOD.as_str(), V::PATH, String::from_utf8_lossy(&what));
        let call = call.trim_end().to_owned();
        let mut calls = self.calls.lock().expect("no test panics with it");
        let said = (self.script)(&calls, &call).unwrap_or_else(|| Ok(said_by(V::PATH).into()))?;
        calls.push(call);
        Ok(V::Answer::decode(said.as_bytes()).unwrap_or_else(|error| panic!("{said} is no answer: {error}")))
    }
}

/// The status of a guest that is alone.
pub fn primary_status() -> PrimaryStatus {
    let said = include_bytes!("../tests/golden/primary-taken-over.json");
    let status = Status::decode(said).expect("the tests of this crate read it");
    status.primary().expect("it is of a primary")
}

/// What it says at a path, for every verb there: of fields that an answer does not have, nothing is read.
fn said_by(path: &str) -> &'static str {
    match path {
        "/ft" => {
            r#"{"role":"backup","name":"vm0","disk_log":null,"incident":null,"warnings":[],"state":"Waiting",
            "pointers":"","epochs_applied":0,"waiting_bytes":0,"peer_errors":0,"can_take_over":false,"kept":null,
            "witness":"none","witness_away_ms":null,"disk_full":null,"already":"so"}"#
        }
        "/metrics" => "outlast_role{vm=\"vm0\",role=\"backup\"} 1\n",
        "/events" => concat!(
            "{\"seq\":0,\"time_us\":1,\"event\":\"waiting\",\"properties\":{\"listen\":\"unix:/b\"}}\n",
            "{\"seq\":1,\"time_us\":2,\"event\":\"unpaused\",\"properties\":{}}\n",
            "{\"seq\":2,\"time_us\":3,\"event\":\"ended\",\"properties\":{\"how\":\"Stopped\"}}\n",
        ),
        "/ft/switchover" => r#"{"holder":"process aa on host b","stood_ms":41.5}"#,
        "/snapshot/create" => r#"{"path":"/s","bytes":4096,"pause_ms":7.5}"#,
        _ => {
            r#"{"id":"vm0","state":"Standby","vmm_version":"0.1.0","app_name":"outlast","config":{},"version":"0.1.0"}"#
        }
    }
}
