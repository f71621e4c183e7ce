//! The process that the crash tests kill: it works on recoverable memory until it is told to die, or is killed.
//!
//! usage: recoverable-victim vista|rvm work|recover|bank|WORK-OF-edges.rs DIR [N]
//!
//! `work` and `recover` write one byte for each step that they reach to standard output, and kill themselves at step N.
#![allow(missing_docs, reason = "a program of the tests")]

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use recoverable::{RecoverableMemory, Step, set_hook};

mod bank;
mod edges;
mod work;

static KILL_AT: AtomicU64 = AtomicU64::new(u64::MAX);
static STEPS: AtomicU64 = AtomicU64::new(0);

fn on_step(step: Step) {
    let mut out = std::io::stdout().lock();
    out.write_all(&[step as u8]).and_then(|()| out.flush()).expect("standard output takes a byte");
    if STEPS.fetch_add(1, Ordering::Relaxed) + 1 >= KILL_AT.load(Ordering::Relaxed) {
        die();
    }
}

#[expect(unsafe_code, reason = "std has no way to end a process by SIGKILL")]
fn die() -> ! {
    // SAFETY: a signal to this process itself; nothing runs after it.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    unreachable!("SIGKILL cannot be caught");
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, what, dir, rest @ ..] = arguments.as_slice() else {
        eprintln!("recoverable-victim is a part of the tests: vista|rvm work|recover|bank DIR [N]");
        return ExitCode::from(2);
    };
    let dir = Path::new(dir);
    let hook = if what == "bank" { None } else { Some(on_step as fn(Step)) };
    if let Some(n) = rest.first().and_then(|n| n.parse().ok()) {
        KILL_AT.store(n, Ordering::Relaxed);
    }
    set_hook(hook);
    let result = match what.as_str() {
        "unmap" => edges::unmap(dir),
        "no-space" => edges::no_space(dir),
        "fault-unhandled" => edges::fault(dir, false),
        "fault-handled" => edges::fault(dir, true),
        _ => work::open(kind, dir).and_then(|mut memory| run(what, &mut *memory, dir)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: &str, memory: &mut dyn RecoverableMemory, dir: &Path) -> Result<(), recoverable::Error> {
    match what {
        "work" => work::work(memory, dir),
        "recover" => work::map(memory, dir).map(|_| ()),
        "bank" => bank::run(memory, dir),
        other => panic!("unknown work {other}"),
    }
}
