//! What is typed, written in files of the configuration, and asked over the API.

use std::path::Path;

use outlast_api::{Fault, Parameters, Service, Verb};
use vmm::config::{BackupOptions, BackupVmConfig, EpochLength, Options as _, RunOptions, VmConfig};

use crate::input::Input;
use crate::patch;

const WORDS: [&str; 16] = [
    "vm0",
    "none",
    "local",
    "tcp:b:7000",
    "tcp:[::1]:65535",
    "file:/w",
    "path=/a.img,readonly=on",
    "path=/b.img",
    "tap=t0",
    "18446744073709551615",
    "18446744073709551615s",
    "1ms",
    "auto",
    "8G",
    "0",
    "rollback",
];
const KEYS: [&str; 14] = [
    "name",
    "kernel",
    "memory",
    "cpus",
    "disk",
    "net",
    "protect",
    "epoch",
    "min_epoch",
    "detect",
    "heartbeat",
    "retain",
    "on_guest_panic",
    "witness",
];

/// A file of options made of words that mean something, and some that do not.
fn options(input: &mut Input<'_>) -> String {
    let mut text = String::from("name = \"vm0\"\nkernel = \"/k\"\nwitness = \"none\"\n");
    for _ in 0..input.u8() % 8 {
        let key = KEYS[usize::from(input.u8()) % KEYS.len()];
        let raw = String::from_utf8_lossy(input.some(12)).replace(['"', '\\', '\n'], "");
        let word = WORDS.get(usize::from(input.u8()) % 20).copied().unwrap_or(&raw);
        let value = match input.u8() % 3 {
            0 => format!("\"{word}\""),
            1 => format!("[\"{word}\"]"),
            _ => input.edge().min(i64::MAX as u64).to_string(),
        };
        let key = if input.u8() & 1 == 0 { key.replace('_', "-") } else { key.to_owned() };
        let line = format!("{key} = {value}\n");
        text = text
            .lines()
            .filter(|old| !old.starts_with(&format!("{key} ")))
            .fold(String::new(), |text, old| text + old + "\n")
            + &line;
    }
    text
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let text = if input.u8() & 1 == 0 { options(&mut input) } else { String::from_utf8_lossy(data).into_owned() };
    if let Ok(options) = BackupOptions::of_toml(&text) {
        let _ = BackupVmConfig::try_from(options).map(|config| config.warnings());
    }
    let Ok(options) = RunOptions::of_toml(&text) else { return };
    let Ok(config) = VmConfig::try_from(options) else { return };
    let _ = config.warnings();
    let mut file = serde_json::to_vec(&config).expect("plain data");
    VmConfig::of_state_dir(&file, Path::new("/s")).expect("what was checked passes again");
    patch::apply(&mut input, &mut file, 4);
    if let Ok(config) = VmConfig::of_state_dir(&file, Path::new("/s")) {
        assert!(
            config.guest.memory_bytes <= 8 << 30 && config.guest.cpus <= 8 && !config.protection.protect.is_empty()
        );
    }
}

struct Nobody;

impl<V: Verb> Service<V> for Nobody {
    fn serve(&self, request: V::Request) -> Result<V::Answer, Fault> {
        let (query, body) = request.encode();
        assert!(V::Request::decode(&query, &body).is_ok(), "what was read is said again");
        Err(Fault::conflict("nobody is here"))
    }
}

const REQUESTS: [(&str, &str); 7] = [
    ("PUT /ft", r#"{"protect":"tcp:b:7000","epoch":"10ms"}"#),
    ("PATCH /vm", r#"{"state":"Paused"}"#),
    ("PUT /snapshot/create", r#"{"snapshot_path":"/s"}"#),
    ("PUT /ft/take-over", r#"{"dead":["0a1b2c3d"]}"#),
    ("PUT /ft/witness", r#"{"witness":"file:/w","dead":["0a1b2c3d"],"why":"burnt"}"#),
    ("GET /events?since=1", ""),
    ("PUT /actions", r#"{"action_type":"Stop"}"#),
];

pub fn run_api(data: &[u8]) {
    let mut input = Input::new(data);
    let (line, body) = REQUESTS[usize::from(input.u8()) % REQUESTS.len()];
    let mut body = body.as_bytes().to_vec();
    if input.u8() & 1 == 0 {
        let epoch = WORDS[usize::from(input.u8()) % WORDS.len()];
        if let Ok(EpochLength::Fixed(length)) = epoch.parse() {
            assert!((1..=10_000).contains(&length.get().as_millis()));
        }
        body = String::from_utf8_lossy(&body).replace("10ms", epoch).into_bytes();
    }
    patch::apply(&mut input, &mut body, 3);
    let len = if input.u8() % 8 == 0 { input.edge() } else { body.len() as u64 };
    let mut request = format!("{line} HTTP/1.1\r\nContent-Length: {len}\r\n\r\n").into_bytes();
    request.extend_from_slice(&body);
    patch::apply(&mut input, &mut request, 2);
    for bytes in [&request[..], data] {
        if let Some(status) = vmm::fuzzing::answer(bytes, &Nobody) {
            assert!((200..600).contains(&status));
        }
    }
}
