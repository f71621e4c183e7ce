//! One running `outlast`: started, watched, hurt, ended.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outlast_api::figures::Counters;
use outlast_api::{Event, Following, Occurrence, PrimaryState, PrimaryStatus, Protecting, RunState, Status, verbs};
use vmm::api::client::Client;

use crate::{program, said, trace, wait};

/// How an `outlast` is to be started.
#[derive(Debug)]
pub struct Launch {
    dir: PathBuf,
    namespace: Option<String>,
    args: Vec<OsString>,
    stdout: Option<Stdio>,
    typed: bool,
    umask: Option<String>,
    trace: Option<PathBuf>,
    variables: Vec<(OsString, OsString)>,
}

impl Launch {
    /// `outlast COMMAND` with its console, events, socket and log in `dir`.
    pub fn new(command: &str, dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory in the test's own place");
        let launch = Self::bare(command, dir);
        let file = |name: &str| dir.join(name).display().to_string();
        launch
            .with("--state-dir", file("state"))
            .with("--console", format!("file={}", file("console")))
            .with("--event-monitor", format!("path={}", file("events")))
    }

    /// `outlast resume` of the machine that was started in `dir`: all else is in its state directory.
    pub fn resume(dir: &Path) -> Self {
        Self::bare("resume", dir).with("--state-dir", dir.join("state"))
    }

    fn bare(command: &str, dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            namespace: None,
            args: vec![command.into()],
            variables: Vec::new(),
            stdout: None,
            typed: false,
            umask: None,
            trace: None,
        }
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Adds an option.
    #[must_use]
    pub fn with(mut self, flag: &str, value: impl Into<OsString>) -> Self {
        self.args.extend([flag.into(), value.into()]);
        self
    }

    /// Gives an option that it has another value.
    #[must_use]
    pub fn instead(mut self, flag: &str, value: impl Into<OsString>) -> Self {
        let at = self.args.iter().position(|arg| arg == flag).expect("it has the option");
        self.args[at + 1] = value.into();
        self
    }

    /// A start that is refused with this exit code, and runs nothing; gives what it said.
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        let before = self.console_so_far();
        let mut vm = self.start();
        assert_eq!(vm.wait(), code, "{}", vm.log());
        assert_eq!(vm.console(), before, "it ran nothing");
        vm.log()
    }

    /// What its console has from runs before.
    pub fn console_so_far(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("console")).unwrap_or_default()).into_owned()
    }

    /// Adds an option that takes nothing.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.args.push(flag.into());
        self
    }

    /// Its console is its standard output, which is `stdout`.
    #[must_use]
    pub fn console_on(mut self, stdout: impl Into<Stdio>) -> Self {
        let console = self.args.iter().position(|arg| arg == "--console").expect("every launch has a console");
        self.args[console + 1] = "stdio".into();
        self.stdout = Some(stdout.into());
        self
    }

    /// Its console is its terminal, for [`Vm::type_in`]; what it shows is where it always is.
    #[must_use]
    pub fn typed(mut self) -> Self {
        let shown = File::options().create(true).append(true).open(self.dir.join("console"));
        let shown = shown.expect("a file in the test's own place");
        self.typed = true;
        if self.args.iter().any(|arg| arg == "--console") { self.console_on(shown) } else { self.showing(shown) }
    }

    fn showing(mut self, shown: File) -> Self {
        self.stdout = Some(shown.into());
        self
    }

    /// Starts it with this umask.
    #[must_use]
    pub fn umask(mut self, umask: &str) -> Self {
        self.umask = Some(umask.into());
        self
    }

    /// Has strace(1) write to `file` which files it syncs, links and removes, in their order ([`crate::trace`]).
    #[must_use]
    pub fn traced(mut self, file: &Path) -> Self {
        self.trace = Some(file.to_owned());
        self
    }

    /// Runs it in a network namespace.
    #[must_use]
    pub fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    fn command(&self) -> Command {
        let program = program::for_environment(self.variables.iter().map(|(name, _)| &**name));
        match &self.namespace {
            None if self.trace.is_some() => {
                let mut command = Command::new("strace");
                // The tracer is the grandchild: signals and the exit code are the program's own.
                command.args(["-D", "-f", "-qq", "-y", "-s", "200", "-e", trace::CALLS, "-o"]);
                command.args(&self.trace).arg(program);
                command
            }
            None if self.umask.is_some() => {
                let mut command = Command::new("sh");
                let mask = self.umask.as_deref().unwrap_or_default();
                command.arg("-c").arg(format!("umask {mask}; exec \"$0\" \"$@\"")).arg(program);
                command
            }
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        }
    }

    /// Starts it.
    pub fn start(mut self) -> Vm {
        let log = File::create(self.dir.join("log")).expect("a file in the test's own place");
        let shared = || log.try_clone().expect("a file can be shared").into();
        let stdout = self.stdout.take().unwrap_or_else(shared);
        let child = self
            .command()
            .args(&self.args)
            .envs(self.variables)
            .stdin(if self.typed { Stdio::piped() } else { Stdio::null() })
            .stdout(stdout)
            .stderr(log)
            .spawn()
            .expect("the program under test starts");
        Vm { child, dir: self.dir }
    }
}

/// A running `outlast`. It does not outlive this value.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    dir: PathBuf,
}

impl Vm {
    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.expect("`kill` is there").success(), "a child that was not waited for can be signalled");
    }

    /// Types into its console.
    pub fn type_in(&self, text: &str) {
        let mut keyboard = self.child.stdin.as_ref().expect("it was started to be typed into");
        keyboard.write_all(text.as_bytes()).expect("the program reads what is typed");
    }

    /// `kill -9`: what a crash of the program is to the other side.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child that was not waited for can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Hangs it.
    pub fn hang(&self) {
        self.signal("-STOP");
        wait::until("a stopped process", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
            stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
        });
    }

    /// Ends a hang.
    pub fn unhang(&self) {
        self.signal("-CONT");
    }

    /// The most memory that it ever had, in bytes.
    #[track_caller]
    pub fn resident_peak_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process has memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib << 10
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it `SIG…`, as `kill` names it.
    pub fn send(&self, signal: &str) {
        self.signal(&format!("-{signal}"));
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Waits until it was killed.
    #[track_caller]
    pub fn wait_killed(&mut self) {
        let status = wait::until("the end of the program", || self.child.try_wait().expect("a child can be asked"));
        assert_eq!(status.signal(), Some(9), "{status}: {}", self.log());
    }

    /// Waits for its end; gives the exit code.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let status = wait::until("the end of the program", || self.child.try_wait().expect("a child can be asked"));
        status.code().unwrap_or_else(|| panic!("ended by signal {:?}: {}", status.signal(), self.log()))
    }

    /// Stops it as an operator does, and waits for its end.
    #[track_caller]
    pub fn stop(&mut self) {
        let (code, said) = self.ctl(&["stop"]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(self.wait(), 0, "{}", self.log());
    }

    /// The image of its side's disk, if it has one.
    pub fn image(&self) -> Option<PathBuf> {
        let image = self.dir.with_extension("img");
        image.exists().then_some(image)
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join(name)).unwrap_or_default()).into_owned()
    }

    /// What came out of the guest's console.
    pub fn console(&self) -> String {
        self.read("console")
    }

    /// What it said to its user.
    pub fn log(&self) -> String {
        self.read("log")
    }

    /// Its events so far.
    pub fn events(&self) -> Vec<Event> {
        let text = self.read("events");
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        complete.lines().map(|line| serde_json::from_str(line).expect("an event is a line of JSON")).collect()
    }

    fn events_named(&self, name: &str) -> Vec<Occurrence> {
        assert!(Occurrence::names().iter().any(|known| known == name), "there is no event {name}");
        let all = self.events().into_iter().map(|event| event.occurrence);
        all.filter(|seen| seen.name() == name).collect()
    }

    /// How often an event has happened.
    pub fn count(&self, event: &str) -> usize {
        self.events_named(event).len()
    }

    /// Waits for an event.
    #[track_caller]
    pub fn wait_event(&self, event: &str) -> Occurrence {
        self.wait_event_again(event, 1)
    }

    /// Waits until an event has happened `times`; gives that one.
    #[track_caller]
    pub fn wait_event_again(&self, event: &str, times: usize) -> Occurrence {
        let seen = wait::until_within(wait::PATIENCE, || self.events_named(event).into_iter().nth(times - 1));
        seen.unwrap_or_else(|| panic!("no event {event} ({times}) came; the program said: {}", self.log()))
    }

    /// The port that a backup listens on.
    #[track_caller]
    pub fn port(&self) -> u16 {
        let listen = said!(self, "waiting", Waiting { listen });
        listen.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an address ends with its port")
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("state/api.sock")
    }

    /// A client of its control interface.
    pub fn client(&self) -> Client {
        Client::new(&self.socket(), Duration::from_secs(10))
    }

    /// How it is protected.
    #[track_caller]
    pub fn status(&self) -> Status {
        self.client().call::<verbs::GetFt>(&()).expect("a running VM tells its status")
    }

    /// Its status as a primary.
    #[track_caller]
    pub fn primary(&self) -> PrimaryStatus {
        self.status().primary().expect("the guest runs there")
    }

    /// Whom it ships to and how far that is, as a primary.
    #[track_caller]
    pub fn protecting(&self) -> Protecting {
        self.primary().protecting
    }

    /// What it has counted, as a primary.
    #[track_caller]
    pub fn counts(&self) -> Counters<u64> {
        self.primary().epochs.counts
    }

    /// How far it follows, as a backup.
    #[track_caller]
    pub fn following(&self) -> Following {
        self.status().backup().expect("the guest runs elsewhere").following
    }

    /// Whether one of its warnings has this text.
    #[track_caller]
    pub fn warns_of(&self, text: &str) -> bool {
        self.status().warnings().iter().any(|warning| warning.contains(text))
    }

    /// Whether its guest runs.
    #[track_caller]
    pub fn run_state(&self) -> RunState {
        self.client().call::<verbs::GetVm>(&()).expect("a running VM tells what it is").state
    }

    /// Waits until it stands with its backup as `state` says.
    #[track_caller]
    pub fn wait_state(&self, state: PrimaryState) {
        wait::until(&format!("the state {state:?}"), || (self.protecting().state == state).then_some(()));
    }

    /// `outlast ctl` with its socket; gives the exit code and what was printed.
    pub fn ctl(&self, args: &[&str]) -> (i32, String) {
        let output = Command::new(program::outlast())
            .args(["ctl", "--api-socket"])
            .arg(self.socket())
            .args(args)
            .output()
            .expect("the program under test starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().expect("it was not killed"), String::from_utf8_lossy(&said).into_owned())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("== {}\n{}", self.dir.display(), self.log());
        }
        if self.is_running() {
            self.kill();
        }
    }
}
