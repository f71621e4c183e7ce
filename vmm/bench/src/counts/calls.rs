//! System calls, as strace(1) sees them: a program that counts its own calls would count those that it thinks it makes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{PTracer, Pid, Signal, kill_process, set_ptracer};

use super::super::cannot;
use vmm::exit::{Exit, Failure};

/// How long the tracer may take to attach, and to end.
const TRACER_MAX: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Written to `/dev/null`, for the trace to show where the measured epochs begin and end.
const BEGIN: &str = "outlast: counts begin";
const END: &str = "outlast: counts end";

/// A running strace. It ends with this value.
#[derive(Debug)]
pub(crate) struct Tracer {
    child: Child,
    processes: Vec<u32>,
    path: PathBuf,
    nowhere: File,
}

impl Tracer {
    /// Attaches one to all threads of `processes`, of which the first is this one; it writes to `path`.
    pub(crate) fn attach(processes: &[u32], path: &Path) -> Result<Self, Failure> {
        // A host may let only those trace a process that it allows to. One that does not know this allows it anyway.
        if let Err(error) = set_ptracer(PTracer::Any) {
            tracing::debug!(%error, "this host does not restrict who traces whom");
        }
        let nowhere = OpenOptions::new().write(true).open("/dev/null");
        let nowhere = nowhere.map_err(|error| cannot("open", Path::new("/dev/null"), &error))?;
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(path);
        for process in processes {
            command.args(["-p", &process.to_string()]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|error| {
            Failure::new(Exit::NotFound, format!("cannot start strace: {error}"))
                .with_hint("install the package strace")
        })?;
        let mut tracer = Self { child, processes: processes.to_vec(), path: path.to_owned(), nowhere };
        tracer.wait_attached()?;
        Ok(tracer)
    }

    fn wait_attached(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        while !self.processes.iter().all(|process| is_traced(*process)) {
            let has_ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            if has_ended || begun.elapsed() > TRACER_MAX {
                return Err(Failure::new(Exit::Error, "strace could not attach to this program and its backup"));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    pub(crate) fn begin(&self) -> Result<(), Failure> {
        self.mark(BEGIN)
    }

    pub(crate) fn end(&self) -> Result<(), Failure> {
        self.mark(END)
    }

    fn mark(&self, text: &str) -> Result<(), Failure> {
        (&self.nowhere).write_all(text.as_bytes()).map_err(|error| cannot("write", Path::new("/dev/null"), &error))
    }

    /// Detaches; gives the calls between the marks.
    pub(crate) fn finish(mut self) -> Result<Calls, Failure> {
        let names = self.processes.iter().map(|process| thread_names(*process)).collect::<Vec<_>>();
        self.stop();
        let trace = std::fs::read(&self.path).map_err(|error| cannot("read", &self.path, &error))?;
        let trace = String::from_utf8_lossy(&trace);
        Calls::read(&trace, &names).ok_or_else(|| {
            Failure::new(Exit::Error, format!("{} does not show all that was to be counted", self.path.display()))
        })
    }

    fn stop(&mut self) {
        let Some(pid) = Pid::from_raw(self.child.id() as i32) else { return };
        let begun = Instant::now();
        // It ends by this once it has let all threads go.
        let _ = kill_process(pid, Signal::INT);
        while self.child.try_wait().is_ok_and(|status| status.is_none()) && begun.elapsed() < TRACER_MAX {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.stop();
        // Both fail only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tasks(process: u32) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten().map(|task| task.path())
}

fn is_traced(process: u32) -> bool {
    let is_traced = |task: PathBuf| {
        let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
        !status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() == "0"))
    };
    tasks(process).all(is_traced)
}

/// The thread that measures is the process's first, and does not count.
fn thread_names(process: u32) -> BTreeMap<String, String> {
    let name = |task: PathBuf| {
        let id = task.file_name()?.to_str()?.to_owned();
        Some((id, std::fs::read_to_string(task.join("comm")).ok()?.trim().to_owned()))
    };
    tasks(process).filter_map(name).collect()
}

/// The measured system calls of each thread, by name.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// Of the primary, then of the backup.
    threads: BTreeMap<String, BTreeMap<String, u64>>,
}

const BACKUP: &str = "backup ";
/// The thread that measures.
const BENCH: &str = "bench";

impl Calls {
    /// From the lines of a trace; `names` are the threads of the primary, then of the backup. `None` if a mark is missing.
    fn read(trace: &str, names: &[BTreeMap<String, String>]) -> Option<Self> {
        let ours = std::process::id().to_string();
        let begin = trace.lines().position(|line| line.contains(BEGIN))?;
        let end = trace.lines().position(|line| line.contains(END))?;
        let mut calls = Self::default();
        for line in trace.lines().take(end).skip(begin + 1) {
            let Some((thread, call)) = line.split_once(' ') else { continue };
            let Some(call) = call_of(call.trim_start()) else { continue };
            let name = match names.iter().position(|names| names.contains_key(thread)) {
                _ if thread == ours => BENCH.to_owned(),
                Some(0) => names[0][thread].clone(),
                Some(_) => format!("{BACKUP}{}", names[1][thread]),
                None => "ended".to_owned(),
            };
            *calls.threads.entry(name).or_default().entry(call).or_default() += 1;
        }
        Some(calls)
    }

    pub(crate) fn threads(&self) -> impl Iterator<Item = (&String, &BTreeMap<String, u64>)> {
        self.threads.iter().filter(|(thread, _)| *thread != BENCH)
    }

    fn count(&self, of_thread: impl Fn(&str) -> bool, is_it: impl Fn(&str) -> bool) -> u64 {
        let threads = self.threads().filter(|(thread, _)| of_thread(thread));
        threads.flat_map(|(_, calls)| calls).filter(|(call, _)| is_it(call)).map(|(_, count)| count).sum()
    }

    /// Boundaries: each reads the local APIC of each vCPU once.
    pub(crate) fn epochs(&self) -> u64 {
        self.count(|thread| thread.starts_with("vcpu"), |call| call == "KVM_GET_LAPIC") / self.vcpus()
    }

    fn vcpus(&self) -> u64 {
        self.threads.keys().filter(|thread| thread.starts_with("vcpu")).count().max(1) as u64
    }

    /// The figures that are counts of calls.
    pub(crate) fn figures(&self) -> [(&'static str, u64); 11] {
        let primary = |is_it: &dyn Fn(&str) -> bool| self.count(|thread| !thread.starts_with(BACKUP), is_it);
        let is_kvm = |call: &str| call.starts_with("KVM_");
        let of_vcpus =
            self.count(|thread| thread.starts_with("vcpu"), |call| is_kvm(call) && !is_of_vm(call) && call != RUN);
        let other = |call: &str| {
            !is_kvm(call)
                && !call.starts_with(FUTEX)
                && ![KICK, SENDS, RECEIVES, SYNCS].iter().any(|calls| calls.contains(&call))
        };
        [
            ("kvm_per_vcpu", of_vcpus / self.vcpus()),
            ("kvm_of_vm", primary(&is_of_vm)),
            ("kvm_run", primary(&|call| call == RUN) / self.vcpus()),
            ("wake_ups", primary(&|call| call == FUTEX_WAKE)),
            ("sleeps", primary(&|call| call == FUTEX_WAIT)),
            ("kicks", primary(&|call| KICK.contains(&call))),
            ("sends", primary(&|call| SENDS.contains(&call))),
            ("receives", primary(&|call| RECEIVES.contains(&call))),
            ("syncs", primary(&|call| SYNCS.contains(&call))),
            ("other_calls", primary(&other)),
            ("backup_calls", self.count(|thread| thread.starts_with(BACKUP), |call| !call.starts_with(FUTEX))),
        ]
    }
}

const RUN: &str = "KVM_RUN";
const FUTEX: &str = "futex";
const FUTEX_WAKE: &str = "futex wake";
const FUTEX_WAIT: &str = "futex wait";
const KICK: &[&str] = &["tgkill"];
const SENDS: &[&str] = &["write", "writev", "sendto", "sendmsg"];
const RECEIVES: &[&str] = &["read", "readv", "recvfrom", "recvmsg"];
const SYNCS: &[&str] = &["fsync", "fdatasync", "msync", "sync_file_range", "pwritev2"];

/// Whether a KVM call is about the whole VM.
fn is_of_vm(call: &str) -> bool {
    const OF_VM: [&str; 7] = [
        "KVM_GET_IRQCHIP",
        "KVM_GET_PIT2",
        "KVM_GET_CLOCK",
        "KVM_GET_DIRTY_LOG",
        "KVM_CLEAR_DIRTY_LOG",
        "KVM_IRQ_LINE",
        "KVM_RESET_DIRTY_RINGS",
    ];
    OF_VM.iter().any(|name| call.starts_with(name))
}

/// The call that a line of a trace begins, without its thread. The second half of a call that another interrupted is none.
fn call_of(line: &str) -> Option<String> {
    let (name, arguments) = line.split_once('(')?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let second = || arguments.split(", ").nth(1).unwrap_or_default().trim_end_matches([')', ' ']);
    Some(match name {
        "ioctl" => match second() {
            known if known.starts_with("KVM_") => known.split(' ').next().unwrap_or(known).to_owned(),
            // The number of a call that this strace has no name for.
            other if arguments.contains("0xae") => format!("KVM_{}", arguments.split(", ").nth(3).unwrap_or(other)),
            other => format!("ioctl {other}"),
        },
        "futex" if second().contains("WAKE") => FUTEX_WAKE.to_owned(),
        "futex" => FUTEX_WAIT.to_owned(),
        _ => name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As strace writes it: threads 7 (this one would be another), 8 and 9; 20 is the backup's.
    const TRACE: &str = "\
8 ioctl(9, KVM_RUN, 0) = -1 EINTR (Interrupted system call)
7 write(3, \"outlast: counts begin\", 21) = 21
8 ioctl(9, KVM_GET_LAPIC, 0x7f00) = 0
8 ioctl(9, KVM_GET_XSAVE2 or KVM_OTHER, 0x7f00) = 0
8 ioctl(9, _IOC(_IOC_WRITE, 0xae, 0xe2, 0x18), 0x7f00) = 0
8 ioctl(5, KVM_GET_DIRTY_LOG, {slot=0, dirty_bitmap=0x7f} <unfinished ...>
9 futex(0x55d0, FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME, 2, NULL <unfinished ...>
8 <... ioctl resumed>) = 0
8 futex(0x55d0, FUTEX_WAKE_PRIVATE, 1) = 1
9 <... futex resumed>) = 0
9 sendto(4, \"OUTL\"..., 200, MSG_NOSIGNAL, NULL, 0) = 200
20 recvfrom(4, \"x write(3, \\\"no call\\\")\", 200, 0, NULL, NULL) = 200
8 ioctl(9, KVM_RUN, 0 <unfinished ...>
8 --- SIGRT_2 {si_signo=SIGRT_2} ---
9 +++ exited with 0 +++
7 write(3, \"outlast: counts end\", 19) = 19
9 fsync(3) = 0
";

    fn read(trace: &str) -> Option<Calls> {
        let names =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(id, name)| (id.to_string(), name.to_string())).collect();
        let primary = names(&[("7", "outlast"), ("8", "vcpu0"), ("9", "ft-ship")]);
        Calls::read(trace, &[primary, names(&[("20", "outlast")])])
    }

    #[test]
    fn calls_between_the_marks_are_counted_once_each_by_thread_and_kind() {
        let calls = read(TRACE).expect("it has both marks");
        let of = |thread: &str, call: &str| calls.threads[thread].get(call).copied().unwrap_or(0);
        assert_eq!((of("vcpu0", "KVM_RUN"), of("vcpu0", "KVM_GET_LAPIC"), of("vcpu0", "KVM_GET_XSAVE2")), (1, 1, 1));
        assert_eq!((of("vcpu0", "KVM_0xe2"), of("vcpu0", "KVM_GET_DIRTY_LOG")), (1, 1));
        assert_eq!((of("vcpu0", FUTEX_WAKE), of("ft-ship", FUTEX_WAIT), of("ft-ship", "sendto")), (1, 1, 1));
        assert_eq!((of("ft-ship", "fsync"), of("backup outlast", "recvfrom")), (0, 1));
        let figures: BTreeMap<_, _> = calls.figures().into_iter().collect();
        assert_eq!((figures["kvm_per_vcpu"], figures["kvm_of_vm"], figures["kvm_run"]), (3, 1, 1));
        assert_eq!((figures["wake_ups"], figures["sends"], figures["backup_calls"]), (1, 1, 1));
        assert_eq!(calls.epochs(), 1);
    }

    #[test]
    fn trace_that_was_cut_is_none() {
        assert!(read(&TRACE[..TRACE.len() - 80]).is_none());
        assert!(read("").is_none());
    }
}
