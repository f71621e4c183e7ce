//! Wrong use: each mistake gets a message that names it, says what to do, and ends with its documented exit code.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const OUTLAST: &str = env!("CARGO_BIN_EXE_outlast");

/// A directory with a file that is no kernel and a disk image.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Place { dir: tempfile::tempdir().expect("a temporary directory") };
        fs::write(place.path("text"), "this is no kernel\n".repeat(1000)).expect("written");
        fs::write(place.path("disk.img"), vec![0; 1 << 20]).expect("written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `outlast run` with what it needs at least, and `more`.
    fn run(&self, more: &[&str]) -> Output {
        let kernel = text(&self.path("text"));
        self.run_bare(&[&["--kernel", &kernel, "--console", "off"], more].concat())
    }

    /// `outlast run` with a name and a state directory of its own, and `more`.
    fn run_bare(&self, more: &[&str]) -> Output {
        let state = text(&self.path("state"));
        outlast(&[["run", "--name", "wrong-use", "--state-dir", &state].as_slice(), more].concat())
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").into()
}

fn outlast<S: AsRef<str>>(args: &[S]) -> Output {
    Command::new(OUTLAST).args(args.iter().map(AsRef::as_ref)).output().expect("the binary starts")
}

/// The exit code is `code`, and standard error says each of `says`.
#[track_caller]
fn assert_refused(output: &Output, code: i32, says: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    for part in says {
        assert!(error.contains(part), "'{part}' is not in: {error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn run_unknown_flag_is_usage_and_names_it() {
    assert_refused(&outlast(&["run", "--colour", "red"]), 2, &["--colour"]);
}

#[test]
fn run_misspelt_flag_is_usage_and_names_the_right_one() {
    assert_refused(&outlast(&["run", "--memmory", "1G"]), 2, &["--memmory", "--memory"]);
}

#[test]
fn run_bad_size_names_the_units() {
    let output = outlast(&["run", "--memory", "512Q"]);
    assert_refused(&output, 2, &["--memory", "unknown unit 'Q'; use K, M or G"]);
}

#[test]
fn run_time_without_unit_names_the_units() {
    assert_refused(&outlast(&["run", "--epoch", "20"]), 2, &["--epoch", "20ms"]);
}

#[test]
fn run_without_name_says_how_to_give_one() {
    assert_refused(&outlast(&["run", "--kernel", "/k"]), 2, &["--name is missing", "hint:"]);
}

#[test]
fn run_values_out_of_range_name_the_range() {
    let place = Place::new();
    assert_refused(&place.run(&["--cpus", "99"]), 2, &["--cpus 99", "1 to 8", "hint:"]);
    assert_refused(&place.run(&["--epoch", "1us"]), 2, &["--epoch", "1us: must be 1ms to 10s"]);
    assert_refused(&place.run(&["--protect", "udp:b:1"]), 2, &["none, local or tcp:HOST:PORT"]);
}

/// What was designed once and is not built is not even a hidden option: clap proposes hidden ones for what was mistyped.
#[test]
fn what_is_not_built_is_unknown_and_proposed_nowhere() {
    let place = Place::new();
    assert_refused(&place.run(&["--vsock", "cid=3"]), 2, &["--vsock", "unexpected argument"]);
    assert_refused(&place.run(&["--protocol", "cbndvs"]), 2, &["--protocol", "there are epoch, cpvs"]);
    assert_refused(&outlast(&["snapshot", "--state-dir", "/s"]), 2, &["snapshot", "unrecognized subcommand"]);
    assert_refused(
        &outlast(&["ctl", "--name", "vm0", "test-failover"]),
        2,
        &["test-failover", "unrecognized subcommand"],
    );
    assert_refused(&outlast(&["ctl", "--name", "vm0", "protect", "local"]), 2, &["local", "tcp:HOST:PORT"]);
}

#[test]
fn witness_that_cannot_be_meant_says_how_one_is_written() {
    let place = Place::new();
    for (witness, says) in [
        ("zookeeper:e:2181", "use file:DIR or etcd:URL[,URL…][,credentials=DIR] or none"),
        ("etcd:e:2379", "write http://HOST:PORT or https://HOST:PORT"),
        ("etcd:https://e:2379", "https needs ,credentials=DIR behind the addresses"),
        ("etcd:http://e:2379,credentials=/c", "without https a password would cross the network in clear text"),
        ("etcd:http://e:1,https://f:1,credentials=/c", "give those of one kind"),
        ("file:", "a directory is missing"),
    ] {
        assert_refused(&place.run(&["--witness", witness]), 2, &[says]);
    }
}

/// docs/THREATS.md: `--listen` names the address of the network between the two hosts, and never all.
/// And nothing ends with 161 or 162.
#[test]
fn help_shows_nothing_that_the_pages_forbid_or_that_does_not_exist() {
    // `outlast bench` hands over to a program whose own tests read its page.
    let commands = ["run", "backup", "resume", "ctl", "doctor", "demo"];
    let verbs =
        ["info", "status", "wait", "pause", "resume", "stop", "snapshot", "protect", "unprotect", "events", "list"];
    let pages = [vec!["--help"]].into_iter().chain(commands.map(|command| vec![command, "--help"]));
    for args in pages.chain(verbs.map(|verb| vec!["ctl", verb, "--help"])) {
        let page = String::from_utf8(outlast(&args).stdout).expect("UTF-8");
        assert!(page.contains("Usage: "), "{args:?}");
        for word in ["0.0.0.0", "vsock", "test-failover", "161", "162", "not in this version", "ls /dev/shm"] {
            assert!(!page.to_lowercase().contains(word), "{args:?} offers {word}");
        }
    }
    let protect = String::from_utf8(outlast(&["ctl", "protect", "--help"]).stdout).expect("UTF-8");
    assert!(!protect.contains("local"), "{protect}");
}

#[test]
fn protocol_without_epochs_of_a_length_takes_none() {
    let place = Place::new();
    let refused = place.run(&["--protocol", "cpvs", "--epoch", "20ms"]);
    assert_refused(&refused, 2, &["protocol cpvs", "epoch", "when output waits"]);
}

#[test]
fn resume_of_nothing_is_not_found_and_of_neither_name_nor_directory_usage() {
    let place = Place::new();
    let dir = text(&place.path("no-such-vm"));
    assert_refused(&outlast(&["resume", "--state-dir", &dir]), 3, &["vm.json", &dir, "--protect local"]);
    assert_refused(&outlast(&["resume"]), 2, &["--name", "--state-dir"]);
    let config = place.path("vm.json");
    std::fs::write(&config, "{}").expect("the test's own directory");
    let dir = config.parent().expect("a file is in a directory").display().to_string();
    assert_refused(&outlast(&["resume", "--state-dir", &dir]), 163, &["vm.json", "hint:"]);
}

#[test]
fn run_missing_kernel_is_not_found_and_names_the_path() {
    let place = Place::new();
    let missing = text(&place.path("no-such-kernel"));
    let output = place.run_bare(&["--console", "off", "--kernel", &missing]);
    assert_refused(&output, 3, &[&missing]);
}

#[test]
fn run_text_file_as_kernel_is_refused_and_names_what_would_do() {
    assert_refused(&Place::new().run(&[]), 2, &["text", "bzImage"]);
}

#[test]
fn run_missing_disk_is_not_found() {
    let place = Place::new();
    let missing = text(&place.path("none.img"));
    assert_refused(&place.run(&["--disk", &format!("path={missing}")]), 3, &[&missing]);
}

#[test]
fn run_file_of_two_uses_is_refused_and_both_are_named() {
    let place = Place::new();
    let image = text(&place.path("disk.img"));
    let disk = format!("path={image}");
    std::os::unix::fs::symlink("disk.img", place.path("link")).expect("made");
    let monitor = format!("path={}", text(&place.path("link")));
    assert_refused(
        &place.run(&["--disk", &disk, "--event-monitor", &monitor]),
        2,
        &["--disk", "--event-monitor", "disk.img", "link", "hint:"],
    );
    assert_refused(&place.run(&["--disk", &disk, "--disk", &disk]), 2, &["--disk", "are one file"]);
    let kernel = text(&place.path("text"));
    let console = format!("file={kernel}");
    assert_refused(&place.run_bare(&["--kernel", &kernel, "--console", &console]), 2, &["--console", "--kernel"]);
    let state = format!("file={}", text(&place.path("state/vm.json")));
    assert_refused(&place.run_bare(&["--kernel", &kernel, "--console", &state]), 2, &["state directory", "vm.json"]);
    assert!(!place.path("state").exists(), "nothing was made");
}

#[test]
fn run_disk_log_in_a_missing_directory_is_not_found() {
    let place = Place::new();
    let disk = format!("path={}", text(&place.path("disk.img")));
    let missing = text(&place.path("none"));
    assert_refused(&place.run(&["--disk", &disk, "--disk-log", &missing]), 3, &[&missing, "--disk-log"]);
}

#[test]
fn run_disk_without_key_says_how_to_write_it() {
    assert_refused(&Place::new().run(&["--disk", "root.img"]), 2, &["write path=root.img"]);
}

#[test]
fn run_disk_of_another_vm_is_a_conflict_and_stays_untouched() {
    let place = Place::new();
    let image = place.path("disk.img");
    let _other = snapshot::disk::OverlayDisk::open(&image, false).expect("free");
    let before = fs::metadata(&image).expect("there").modified().expect("known");
    let output = place.run(&["--disk", &format!("path={}", text(&image))]);
    assert_refused(&output, 4, &["disk.img", "in use"]);
    assert_eq!(fs::metadata(&image).expect("there").modified().expect("known"), before);
}

#[test]
fn run_missing_tap_is_not_found_and_says_how_to_make_it() {
    let output = Place::new().run(&["--net", "tap=ol-none1"]);
    assert_refused(&output, 3, &["no tap ol-none1", "ip tuntap add ol-none1 mode tap"]);
}

#[test]
fn run_console_file_in_a_missing_directory_is_refused() {
    let place = Place::new();
    let kernel = text(&place.path("text"));
    let output = place.run_bare(&["--kernel", &kernel, "--console", "file=/nonexistent/console"]);
    assert_refused(&output, 1, &["/nonexistent/console", "hint:"]);
}

#[test]
fn run_event_monitor_in_a_missing_directory_is_refused() {
    let output = Place::new().run(&["--event-monitor", "path=/nonexistent/events"]);
    assert_refused(&output, 1, &["/nonexistent/events", "hint:"]);
}

#[test]
fn run_state_dir_that_cannot_be_made_is_refused() {
    let place = Place::new();
    let kernel = text(&place.path("text"));
    let output = outlast(&["run", "--name", "a", "--kernel", &kernel, "--console", "off", "--state-dir", "/proc/none"]);
    assert_refused(&output, 1, &["/proc/none", "--state-dir"]);
}

#[test]
fn missing_witness_directory_is_not_found_for_both_sides_and_is_not_made() {
    let place = Place::new();
    let missing = place.path("shared");
    let witness = format!("file:{}", text(&missing));
    let says = [missing.to_str().expect("UTF-8"), "on storage that both hosts mount"];
    assert_refused(&place.run(&["--protect", "tcp:127.0.0.1:9", "--witness", &witness]), 3, &says);
    let state = text(&place.path("state"));
    let backup = ["backup", "--name", "a", "--listen", "tcp:127.0.0.1:0", "--state-dir", &state];
    assert_refused(&outlast(&[backup.as_slice(), &["--witness", &witness]].concat()), 3, &says);
    assert!(!missing.exists());
}

#[test]
fn backup_says_what_having_no_witness_means() {
    let place = Place::new();
    let state = text(&place.path("state"));
    let backup = ["backup", "--name", "a", "--listen", "tcp:192.0.2.1:7000,clear", "--state-dir", &state];
    assert_refused(&outlast(&backup), 2, &["--witness is missing", "file:DIR", "--witness none"]);
    let output = outlast(&[backup.as_slice(), &["--witness", "none"]].concat());
    assert_refused(&output, 1, &["192.0.2.1:7000", "both may run the guest"]);
    assert!(!output.stderr.contains(&0x1b), "no colours where there is no terminal");
    assert!(!place.path("state").join("api.sock").exists(), "it leaves no socket behind");
}

#[test]
fn log_has_what_its_level_takes_and_the_environment_wins() {
    let place = Place::new();
    let (state, config) = (text(&place.path("state")), text(&place.path("vm.toml")));
    fs::write(&config, "log-level = 'error'\n").expect("written");
    let listen = format!("unix:{}", text(&place.path("none/b.sock")));
    let warns = |level: &[&str], environment: Option<&str>| {
        let mut command = Command::new(OUTLAST);
        command.args(["backup", "--name", "a", "--listen", &listen, "--witness", "none", "--state-dir", &state]);
        command.args(level).env_remove("OUTLAST_LOG").envs(environment.map(|level| ("OUTLAST_LOG", level)));
        let output = command.output().expect("the binary starts");
        assert_refused(&output, 1, &["none/b.sock"]);
        String::from_utf8_lossy(&output.stderr).contains("both may run the guest")
    };
    assert!(warns(&[], None) && warns(&["--log-level", "warn"], None));
    assert!(!warns(&["--log-level", "error"], None) && !warns(&["--config", &config], None));
    assert!(warns(&["--config", &config, "--log-level", "debug"], None), "a flag wins over the file");
    assert!(warns(&["--log-level", "error"], Some("info")) && !warns(&[], Some("error")));
}

#[test]
fn clear_text_beyond_this_host_and_a_tls_directory_that_is_not_one_are_refused_before_anything_starts() {
    let place = Place::new();
    let (state, pki) = (text(&place.path("state")), text(&place.path("pki")));
    let run = |more: &[&str]| place.run(&[&["--witness", "none"], more].concat());
    let open = ["--protect", "tcp:192.0.2.1:7000"];
    assert_refused(&run(&open), 2, &["192.0.2.1:7000 is not on this host", "--tls-dir", ",clear"]);
    let missing = format!("{pki}/ca-cert.pem");
    assert_refused(&run(&[open.as_slice(), &["--tls-dir", &pki]].concat()), 2, &[&missing, "docs/TUTORIAL.md"]);
    let both = ["--protect", "tcp:192.0.2.1:7000,clear", "--tls-dir", &pki];
    assert_refused(&run(&both), 2, &["asks for clear text", "leave out `,clear`"]);
    let backup = ["backup", "--name", "a", "--listen", "tcp:127.0.0.1:0", "--witness", "none", "--state-dir", &state];
    assert_refused(&outlast(&[backup.as_slice(), &["--tls-dir", &pki]].concat()), 2, &[&missing]);
    assert!(!place.path("state").join("api.sock").exists(), "it leaves no socket behind");
}

#[test]
fn run_config_file_mistakes_name_file_and_key() {
    let place = Place::new();
    let config = text(&place.path("vm.toml"));
    assert_refused(&outlast(&["run", "--config", &config]), 3, &[&config]);
    fs::write(&config, "name = 'a'\ncolour = 'red'\n").expect("written");
    assert_refused(&outlast(&["run", "--config", &config]), 2, &[&config, "colour", "line 2"]);
    fs::write(&config, "memory = '1T'\n").expect("written");
    assert_refused(&outlast(&["run", "--config", &config]), 2, &["unknown unit 'T'; use K, M or G"]);
}

#[test]
fn run_config_file_gives_what_flags_do_not() {
    let place = Place::new();
    let config = text(&place.path("vm.toml"));
    fs::write(&config, "name = 'a'\ncpus = 99\n").expect("written");
    assert_refused(&outlast(&["run", "--config", &config, "--kernel", "/k"]), 2, &["--cpus 99"]);
    let output = outlast(&["run", "--config", &config, "--kernel", "/k", "--cpus", "98"]);
    assert_refused(&output, 2, &["--cpus 98"]);
}

#[test]
fn run_without_permission_on_kvm_names_the_group() {
    if no_kvm() || !is_root() {
        return;
    }
    let place = Place::new();
    // The build directory may be closed to others.
    let (binary, kernel) = (place.path("outlast"), place.path("kernel"));
    fs::copy(OUTLAST, &binary).expect("copied");
    fs::write(&kernel, halting_kernel()).expect("written");
    let state = place.path("state");
    // As /tmp: everybody can make a state directory there, and nobody exchange it.
    for path in [place.dir.path(), &binary, &kernel] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).expect("ours");
    }
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&binary)
        .args(["run", "--name", "wrong-use", "--console", "off", "--memory", "16M"])
        .args([Path::new("--kernel"), &kernel, Path::new("--state-dir"), &state])
        .output()
        .expect("setpriv is there");
    assert_refused(&output, 1, &["/dev/kvm", "kvm"]);
}

#[test]
fn ctl_without_a_vm_is_not_found_and_without_a_name_usage() {
    let place = Place::new();
    let socket = text(&place.path("api.sock"));
    assert_refused(&outlast(&["ctl", "--api-socket", &socket, "status"]), 3, &[&socket, "hint:"]);
    assert_refused(&outlast(&["ctl", "status"]), 2, &["--name", "--api-socket"]);
}

#[test]
fn backup_without_listen_or_with_a_bad_one_is_usage() {
    assert_refused(&outlast(&["backup", "--name", "a"]), 2, &["--listen is missing"]);
    assert_refused(&outlast(&["backup", "--name", "a", "--listen", "b:1"]), 2, &["tcp:HOST:PORT"]);
}

#[test]
fn no_command_shows_help_and_is_usage() {
    assert_refused(&outlast::<&str>(&[]), 2, &["Usage: outlast", "doctor"]);
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [["run", "--help"].as_slice(), &["--help"], &["--version"], &["ctl", "--help"], &["doctor", "--help"]] {
        let output = outlast(args);
        assert!(output.status.success(), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn run_help_is_a_page_to_work_from() {
    let output = outlast(&["run", "--help"]);
    let page = String::from_utf8(output.stdout).expect("UTF-8");
    for part in ["Guest:", "Devices:", "Protection:", "Control:", "Examples:", "--epoch", "[default: 20ms]"] {
        assert!(page.contains(part), "{part}");
    }
}

/// The smallest ELF with a PVH entry: one segment at 1 MiB with one `hlt`, and the note that names it as the entry.
fn halting_kernel() -> Vec<u8> {
    const ENTRY: u64 = 1 << 20;
    const HEADERS: u64 = 64 + 2 * 56;
    const NOTE: u64 = 24;
    let segment = |kind: u32, offset: u64, address: u64, size: u64| {
        let words = [offset, address, address, size, size, 4].map(u64::to_le_bytes).concat();
        [&kind.to_le_bytes(), &5_u32.to_le_bytes(), words.as_slice()].concat()
    };
    let halves = [64_u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat();
    [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".as_slice(),
        &[ENTRY, 64, 0].map(u64::to_le_bytes).concat(),
        &0_u32.to_le_bytes(),
        &halves,
        &segment(1, HEADERS + NOTE, ENTRY, 1),
        &segment(4, HEADERS, 0, NOTE),
        &[4_u32, 8, 18].map(u32::to_le_bytes).concat(),
        b"Xen\0",
        &ENTRY.to_le_bytes(),
        &[0xf4],
    ]
    .concat()
}

/// Says that the running test could not run, past the capture of the test runner, for whoever counts.
fn say_skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    std::io::stdout().write_all(format!("\nSKIPPED {test}: {why}\n").as_bytes()).expect("standard output takes a line");
}

fn no_kvm() -> bool {
    let missing = !Path::new("/dev/kvm").exists();
    if missing {
        say_skipped("there is no /dev/kvm");
    }
    missing
}

fn is_root() -> bool {
    let root = fs::metadata("/proc/self").expect("/proc is there").uid() == 0;
    if !root {
        say_skipped("it takes root to become somebody else");
    }
    root
}
