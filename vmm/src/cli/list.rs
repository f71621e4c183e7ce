//! `outlast ctl list`: which VMs of this host live. A state directory outlives its VM, so its being there says nothing.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::print;
use super::ctl::Output;
use super::table;
use crate::api::client::Client;
use crate::config::{STATE_ROOT, control_socket};
use crate::exit::{Exit, Failure};

/// One that hangs must not hide the others.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

pub(super) fn running(output: Output) -> Result<Exit, Failure> {
    let vms: Vec<(String, Value)> = names()?.into_iter().filter_map(|name| Some((name.clone(), ask(&name)?))).collect();
    let text = match output {
        Output::Json => format!("{:#}\n", Value::Array(vms.into_iter().map(|(_, vm)| vm).collect())),
        Output::Table => {
            let word = |vm: &Value, key: &str| vm[key].as_str().unwrap_or("-").to_owned();
            let rows =
                vms.iter().map(|(name, vm)| (name.clone(), format!("{}  {}", word(vm, "role"), word(vm, "state"))));
            table::of_rows(&rows.collect::<Vec<_>>())
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
fn ask(name: &str) -> Option<Value> {
    let client = Client::new(&control_socket(name).ok()?, ANSWER_WAIT);
    let get = |target: &str| serde_json::from_slice::<Value>(&client.request("GET", target, None).ok()?).ok();
    let (info, status) = (get("/vm")?, get("/ft")?);
    Some(json!({ "name": name, "role": status["role"], "state": info["state"] }))
}
