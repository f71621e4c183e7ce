//! `outlast ctl` as a program, against a control socket with a machine that is none behind it.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use outlast_api::testing::Fake;
use outlast_api::{Exit, Fault};
use serde_json::{Value, json};
use vmm::api::{Server, ServerHandle};

/// A primary that remembers what it was asked, and refuses to pause.
fn primary() -> Fake {
    Fake::with(|before, call| {
        let (verb, body) = call.split_once(" {").unwrap_or((call, ""));
        Some(Ok(match verb {
            "GET /vm" => json!({
                "id": "vm0", "state": "Running", "vmm_version": "0.1.0", "app_name": "outlast",
                "config": { "cpus": 2, "nets": [{ "tap": "tap0" }] },
            })
            .to_string(),
            "GET /ft" => {
                let mut status = outlast_api::testing::primary_status();
                status.host.warnings = vec!["no witness".into()];
                serde_json::to_string(&outlast_api::Status::Primary(Box::new(status))).expect("plain data")
            }
            "PATCH /vm" if body.contains("Paused") => {
                let fault = Fault::conflict("cannot pause vm0: a resync is under way");
                return Some(Err(fault.with_hint("wait until status says protected")));
            }
            "PUT /ft" if before.iter().any(|asked| asked == call) => {
                json!({ "already": "the guest is being copied there already" }).to_string()
            }
            "PUT /ft" => String::new(),
            "DELETE /ft" => {
                let text = "cannot unprotect vm0: the backup may have taken over";
                return Some(Err(Fault::new(Exit::SplitBrain, text)));
            }
            _ => return None,
        }))
    })
}

struct Vm {
    machine: Fake,
    _dir: tempfile::TempDir,
    server: ServerHandle,
}

fn vm() -> Vm {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let machine = primary();
    let server = Server::bind(&dir.path().join("api.sock")).expect("bound");
    let server = server.spawn(Arc::new(machine.clone())).expect("a thread");
    Vm { machine, _dir: dir, server }
}

impl Vm {
    fn ctl(&self, args: &[&str]) -> Output {
        ctl(&self.server.path().to_path_buf(), args)
    }

    fn asked(&self) -> Vec<String> {
        self.machine.calls()
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
    let table = printed(&vm().ctl(&["status"]));
    let warnings = table.lines().find_map(|line| line.strip_prefix("warnings "));
    assert_eq!(warnings.map(str::trim_start), Some("no witness"), "{table}");
}

#[test]
fn changes_ask_the_machine_and_print_nothing() {
    let vm = vm();
    for args in [["resume"].as_slice(), &["protect", "tcp:b:7000", "--epoch", "10ms"], &["stop"]] {
        assert_eq!(printed(&vm.ctl(args)), "", "{args:?}");
    }
    let asked = [
        r#"PATCH /vm {"state":"Resumed"}"#,
        r#"PUT /ft {"protect":"tcp:b:7000","epoch":"10ms"}"#,
        r#"PUT /actions {"action_type":"Stop"}"#,
    ];
    assert_eq!(vm.asked(), asked);
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
    assert_eq!(printed(&vm.ctl(&["snapshot", "create", "s1"])), "bytes     4096\npath      /s\npause_ms  7.5\n");
    let here = std::env::current_dir().expect("there").join("s1");
    assert_eq!(vm.asked(), [format!(r#"PUT /snapshot/create {{"snapshot_path":"{}"}}"#, here.display())]);
}

#[test]
fn events_and_metrics_are_printed_as_they_are() {
    let vm = vm();
    assert_eq!(printed(&vm.ctl(&["metrics"])), "outlast_role{vm=\"vm0\",role=\"backup\"} 1\n");
    let lines = printed(&vm.ctl(&["events", "--since", "1"]));
    let last = "{\"seq\":2,\"time_us\":3,\"event\":\"ended\",\"properties\":{\"how\":\"Stopped\"}}\n";
    assert!(lines.ends_with(last), "{lines}");
    assert_eq!(vm.asked(), ["GET /metrics", "GET /events since=1"]);
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
