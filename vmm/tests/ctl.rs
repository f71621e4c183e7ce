//! `outlast ctl` as a program, against a control socket with a machine that is none behind it.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use protect::events::Event;
use serde_json::{Value, json};
use vmm::api::{ApiError, ApiHandler, ProtectRequest, Server, ServerHandle, SnapshotRequest, TakeOverRequest};
use vmm::exit::{Exit, Failure};

/// Remembers what it was asked; refuses to pause.
#[derive(Clone, Default)]
struct Machine {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Machine {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }

    fn note(&self, asked: String) -> Result<(), ApiError> {
        self.asked.lock().expect("not poisoned").push(asked);
        Ok(())
    }
}

impl ApiHandler for Machine {
    fn info(&self) -> Value {
        json!({ "name": "vm0", "state": "Running", "config": { "cpus": 2, "nets": [{ "tap": "tap0" }] } })
    }
    fn status(&self) -> Value {
        json!({ "role": "primary", "warnings": ["no witness"] })
    }
    fn pause(&self) -> Result<(), ApiError> {
        Err(ApiError::conflict("cannot pause vm0: a resync is under way").with_hint("wait until status says protected"))
    }
    fn resume(&self) -> Result<(), ApiError> {
        self.note("resume".into())
    }
    fn stop(&self) -> Result<(), ApiError> {
        self.note("stop".into())
    }
    fn snapshot_create(&self, request: SnapshotRequest) -> Result<Value, ApiError> {
        self.note(format!("snapshot {}", request.snapshot_path.display()))?;
        Ok(json!({ "pause_us": 120 }))
    }
    fn protect(&self, request: ProtectRequest) -> Result<Option<Value>, ApiError> {
        let asked = format!("protect {} {:?}", request.protect, request.epoch.map(|epoch| epoch.to_string()));
        let is_there = self.asked().contains(&asked);
        self.note(asked)?;
        Ok(is_there.then(|| json!({ "already": "the guest is being copied there already" })))
    }
    fn unprotect(&self) -> Result<(), ApiError> {
        Err(Failure::new(Exit::SplitBrain, "cannot unprotect vm0: the backup may have taken over").into())
    }
    fn take_over(&self, request: TakeOverRequest) -> Result<(), ApiError> {
        Err(ApiError::conflict(format!("nothing is kept here; named: {}", request.dead.join(" "))))
    }

    fn metrics(&self) -> String {
        "outlast_epochs_total 3\n".into()
    }
    fn events(&self, since: u64) -> Vec<Event> {
        let event = |seq| Event { seq, time_us: 5, event: "protected".into(), properties: Default::default() };
        (since..2).map(event).collect()
    }
}

struct Vm {
    machine: Machine,
    _dir: tempfile::TempDir,
    server: ServerHandle,
}

fn vm() -> Vm {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let machine = Machine::default();
    let server = Server::bind(&dir.path().join("api.sock")).expect("bound").spawn(machine.clone()).expect("a thread");
    Vm { machine, _dir: dir, server }
}

impl Vm {
    fn ctl(&self, args: &[&str]) -> Output {
        ctl(&self.server.path().to_path_buf(), args)
    }

    fn asked(&self) -> Vec<String> {
        self.machine.asked()
    }
}

fn ctl(socket: &PathBuf, args: &[&str]) -> Output {
    let outlast = env!("CARGO_BIN_EXE_outlast");
    Command::new(outlast).arg("ctl").arg("--api-socket").arg(socket).args(args).output().expect("the binary starts")
}

#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[test]
fn info_is_a_table_for_people_and_json_for_programs() {
    let vm = vm();
    let table = printed(&vm.ctl(&["info"]));
    assert!(table.contains("config.cpus        2\n") && table.contains("config.nets.0.tap  tap0\n"), "{table}");
    let value: Value = serde_json::from_str(&printed(&vm.ctl(&["info", "--output", "json"]))).expect("JSON");
    assert_eq!(value["config"]["cpus"], 2);
}

#[test]
fn wait_ends_when_it_is_so_gives_up_when_it_cannot_be_and_is_a_timeout_otherwise() {
    let vm = vm();
    assert_eq!(printed(&vm.ctl(&["wait", "running"])), "");
    let cannot = vm.ctl(&["wait", "protected"]);
    assert_eq!(cannot.status.code(), Some(4), "nothing is asked to protect it");
    let late = vm.ctl(&["wait", "ended", "--timeout", "100ms"]);
    let says = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(late.status.code() == Some(5) && says.contains("waited 100ms: the VM is Running"), "{says}");
    let path = vm.server.path().to_path_buf();
    drop(vm);
    assert_eq!(printed(&ctl(&path, &["wait", "ended"])), "");
    let nobody = ctl(&path, &["wait", "running", "--timeout", "100ms"]);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no VM answers at"), "{nobody:?}");
    assert_eq!(nobody.status.code(), Some(5));
}

#[test]
fn status_shows_the_warnings() {
    assert!(printed(&vm().ctl(&["status"])).contains("warnings  no witness"));
}

#[test]
fn changes_ask_the_machine_and_print_nothing() {
    let vm = vm();
    for args in [["resume"].as_slice(), &["protect", "tcp:b:7000", "--epoch", "10ms"], &["stop"]] {
        assert_eq!(printed(&vm.ctl(args)), "", "{args:?}");
    }
    assert_eq!(vm.asked(), ["resume", "protect tcp:b:7000 Some(\"10ms\")", "stop"]);
}

#[test]
fn protect_that_is_under_way_already_says_so_and_is_no_error() {
    let vm = vm();
    assert_eq!(printed(&vm.ctl(&["protect", "tcp:b:7000"])), "");
    assert_eq!(printed(&vm.ctl(&["protect", "tcp:b:7000"])), "already  the guest is being copied there already\n");
}

#[test]
fn snapshot_create_makes_the_path_absolute_and_prints_what_was_done() {
    let vm = vm();
    assert_eq!(printed(&vm.ctl(&["snapshot", "create", "s1"])), "pause_us  120\n");
    let here = std::env::current_dir().expect("there").join("s1");
    assert_eq!(vm.asked(), [format!("snapshot {}", here.display())]);
}

#[test]
fn events_and_metrics_are_printed_as_they_are() {
    let vm = vm();
    assert_eq!(printed(&vm.ctl(&["metrics"])), "outlast_epochs_total 3\n");
    let lines = printed(&vm.ctl(&["events", "--since", "1"]));
    assert_eq!(lines, "{\"seq\":1,\"time_us\":5,\"event\":\"protected\",\"properties\":{}}\n");
}

#[test]
fn refusal_ends_with_the_machines_code_message_and_hint() {
    let vm = vm();
    let output = vm.ctl(&["pause"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(error, "outlast: cannot pause vm0: a resync is under way\n  hint: wait until status says protected\n");
    assert_eq!(vm.ctl(&["unprotect"]).status.code(), Some(6));
}

#[test]
fn vm_that_does_not_answer_is_a_timeout() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("api.sock");
    let _silent = UnixListener::bind(&socket).expect("bound");
    let output = ctl(&socket, &["status", "--timeout", "100ms"]);
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn answer_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_none() {
    // A job that saves `ctl metrics` on a full disk kept half a file, and heard of no error.
    let vm = vm();
    for args in [["info"].as_slice(), &["status"], &["metrics"], &["events"], &["info", "--output", "json"]] {
        let output = ctl_to(&vm, args, File::options().write(true).open("/dev/full").expect("Linux has it").into());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.contains("cannot write the answer") && error.contains("hint: make room"), "{error}");

        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = ctl_to(&vm, args, writer.into());
        assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]), "{args:?}");
    }
}

#[test]
fn help_that_cannot_be_written_is_an_error() {
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let status = Command::new(env!("CARGO_BIN_EXE_outlast")).arg("--help").stdout(full).stderr(Stdio::null()).status();
    assert_eq!(status.expect("the binary starts").code(), Some(1));
}

fn ctl_to(vm: &Vm, args: &[&str], stdout: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outlast"));
    command.arg("ctl").arg("--api-socket").arg(vm.server.path()).args(args).stdout(stdout).stderr(Stdio::piped());
    command.spawn().and_then(|child| child.wait_with_output()).expect("the binary starts")
}
