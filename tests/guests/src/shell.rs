//! A shell that is typed into, command after command, as a reader of a page does it.
//!
//! Whoever is root gets one with a network and a `/dev/shm` of its own, so that names and ports of a page meet nobody else's.
//! All that was started in it ends with it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::skip::is_root;

/// Far longer than any command of a page takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Reads commands that end with a zero byte, and runs each as if it had been typed: `$?`, jobs and variables are kept.
const DRIVER: &str = r#"
exec 2>&1
status=0
again() { return "$status"; }
while IFS= read -r -d '' typed; do
    again; eval "$typed" </dev/null
    status=$?
    printf '\n@done %d\n' "$status"
done
"#;

/// What makes it a place of its own.
const APART: &str = r#"mount -t tmpfs tmpfs /dev/shm && ip link set lo up && exec "$@""#;
/// What makes it a host of its own, with the directory `WITNESS` mounted where its pages have it.
const HOST: &str = r#"mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs /mnt && mkdir /mnt/witness &&
    mount --bind "$WITNESS" /mnt/witness && exec "$@""#;

/// A running shell.
#[derive(Debug)]
pub struct Shell {
    child: Child,
    typed: ChildStdin,
    said: Receiver<String>,
}

impl Shell {
    /// One in the directory `dir`.
    pub fn start(dir: &Path) -> Self {
        if !is_root() {
            return Self::spawn(Command::new("bash"), dir);
        }
        let mut apart = Command::new("unshare");
        apart.args(["--mount", "--net", "sh", "-c", APART, "sh", "bash"]);
        Self::spawn(apart, dir)
    }

    /// One on a host of its own, in the network namespace `network`, in the directory `dir`. Its end is a crash of that host. It
    /// takes root.
    pub fn on_host(network: &str, witness: &Path, dir: &Path) -> Self {
        let mut host = Command::new("ip");
        host.args(["netns", "exec", network, "unshare", "--mount", "sh", "-c", HOST, "sh", "bash"]);
        host.env("WITNESS", witness);
        Self::spawn(host, dir)
    }

    fn spawn(mut command: Command, dir: &Path) -> Self {
        command.args(["--noprofile", "--norc", "-c", DRIVER, "page"]).current_dir(dir).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash is there");
        let typed = child.stdin.take().expect("it was asked for");
        let mut out = BufReader::new(child.stdout.take().expect("it was asked for"));
        let (tell, said) = channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            while out.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                let text = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                if tell.send(text).is_err() {
                    break;
                }
            }
        });
        Self { child, typed, said }
    }

    /// Types `command`; gives its exit code and the lines that came.
    pub fn run(&mut self, command: &str) -> (i32, Vec<String>) {
        self.typed.write_all(command.as_bytes()).and_then(|()| self.typed.write_all(b"\0")).expect("the shell reads");
        let give_up = Instant::now() + PATIENCE;
        let mut text = String::new();
        loop {
            let line = match self.said.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => panic!("`{command}` does not end; it said:\n{text}"),
                Err(RecvTimeoutError::Disconnected) => panic!("`{command}` ended the shell; it said:\n{text}"),
            };
            if let Some(status) = line.strip_prefix("@done ") {
                // The mark begins a line of its own.
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let lines = text.lines().filter(|line| !is_of_shell(line)).map(String::from).collect();
                return (status.trim_end().parse().expect("a number"), lines);
            }
            write!(text, "{line}").expect("a string takes it");
        }
    }
}

/// What the shell says by itself of a job that was killed; an interactive one words it otherwise.
fn is_of_shell(line: &str) -> bool {
    line.starts_with("page: line ") && line.contains(" Killed ")
}

impl Drop for Shell {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        // It fails if all of them have ended.
        let _ = Command::new("kill").args(["-9", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}
