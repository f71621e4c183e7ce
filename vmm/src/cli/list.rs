//! `outlast ctl list`: which VMs of this host live. A state directory outlives its VM, so its being there says nothing.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use outlast_api::{RunState, verbs};
use serde::Serialize;

use super::answer::print;
use super::ctl::Output;
use super::table;
use crate::api::client::Client;
use crate::config::{STATE_ROOT, control_socket};
use crate::exit::{Exit, Failure};

/// One that hangs must not hide the others.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// A VM in the list.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    role: &'static str,
    state: RunState,
}

pub(super) fn running(output: Output) -> Result<Exit, Failure> {
    let vms: Vec<Line> = names()?.into_iter().filter_map(ask).collect();
    let text = match output {
        Output::Json => format!("{:#}\n", serde_json::to_value(&vms).expect("plain data")),
        Output::Table => {
            let row = |vm: &Line| (vm.name.clone(), format!("{}  {:?}", vm.role, vm.state));
            table::of_rows(&vms.iter().map(row).collect::<Vec<_>>())
        }
    };
    print(text.as_bytes())?;
    Ok(Exit::Ok)
}

/// The names of the state directories at the default place.
fn names() -> Result<Vec<String>, Failure> {
    let failed = |error| Failure::new(Exit::Error, format!("cannot read {STATE_ROOT}: {error}"));
    let entries = match fs::read_dir(Path::new(STATE_ROOT)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// What the VM of this name is, if one answers.
fn ask(name: String) -> Option<Line> {
    let client = Client::new(&control_socket(&name).ok()?, ANSWER_WAIT);
    let state = client.call::<verbs::GetVm>(&()).ok()?.state;
    let role = client.call::<verbs::GetFt>(&()).ok()?.role();
    Some(Line { name, role, state })
}
