//! Files and flags say the same, and a file that says something else is refused with the line.

use clap::Command;

use super::*;
use crate::config::{BackupOptions, Protect, RunOptions};

/// Each option with a value, as it is typed and as a file has it.
const VALUES: [(&str, &str, &str); 36] = [
    ("listen", "tcp:h:7000", "'tcp:h:7000'"),
    ("name", "vm0", "'vm0'"),
    ("kernel", "/k", "'/k'"),
    ("initramfs", "/i", "'/i'"),
    ("restore", "/s", "'/s'"),
    ("cmdline", "quiet", "'quiet'"),
    ("cpus", "2", "2"),
    ("memory", "1G", "'1G'"),
    ("disk", "path=/a,readonly=on", "[{ path = '/a', readonly = true }]"),
    ("net", "tap=t0,mac=02:00:00:00:00:01", "[{ tap = 't0', mac = '02:00:00:00:00:01' }]"),
    ("console", "file=/c", "'file=/c'"),
    ("balloon", "reporting", "'reporting'"),
    ("state-dir", "/d", "'/d'"),
    ("disk-log", "/l", "'/l'"),
    ("protect", "tcp:b:7000", "['tcp:b:7000']"),
    ("local-log", "redo", "'redo'"),
    ("require-survives", "power", "'power'"),
    ("on-degraded", "stop", "'stop'"),
    ("on-boundary-late", "hand-over", "'hand-over'"),
    ("epoch", "auto", "'auto'"),
    ("min-epoch", "1ms", "'1ms'"),
    ("capture", "copy-on-write", "'copy-on-write'"),
    ("protocol", "cpvs", "'cpvs'"),
    ("interrupts", "boundary", "'boundary'"),
    ("commit-durability", "memory", "'memory'"),
    ("witness", "file:/w", "'file:/w'"),
    ("tls-dir", "/t", "'/t'"),
    ("detect", "1s", "'1s'"),
    ("heartbeat", "10ms", "'10ms'"),
    ("on-guest-panic", "rollback", "'rollback'"),
    ("retain", "3", "3"),
    ("retain-bytes", "64M", "'64M'"),
    ("api-socket", "/a.sock", "'/a.sock'"),
    ("log-format", "json", "'json'"),
    ("log-level", "debug", "'debug'"),
    ("event-monitor", "path=/e", "'path=/e'"),
];

fn flags<T: Options>(args: impl IntoIterator<Item = String>) -> T {
    let args = std::iter::once("outlast".to_owned()).chain(args);
    let matches = T::augment_args(Command::new("outlast")).try_get_matches_from(args).expect("well typed");
    T::from_arg_matches(&matches).expect("well typed")
}

/// Every key of `T` alone is an option that says the same, and a file may have them all.
#[track_caller]
fn assert_keys_are_flags<T: Options + Default + PartialEq + fmt::Debug>() {
    let known = keys_of::<T>();
    let of_command: Vec<_> = VALUES.iter().filter(|(key, ..)| known.iter().any(|name| name == key)).collect();
    let mut names: Vec<&str> = of_command.iter().map(|(key, ..)| *key).collect();
    names.sort_unstable();
    let mut sorted: Vec<&str> = known.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    assert_eq!(names, sorted, "each has a value here");
    for (key, typed, written) in &of_command {
        let file = T::of_toml(&format!("{key} = {written}")).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!(file, flags([format!("--{key}={typed}")]), "{key}");
        assert_ne!(file, T::default(), "{key}");
    }
    let text: String = of_command.iter().map(|(key, _, written)| format!("{key} = {written}\n")).collect();
    let typed = of_command.iter().map(|(key, typed, _)| format!("--{key}={typed}"));
    assert_eq!(T::of_toml(&text).expect("all keys"), flags(typed));
}

#[test]
fn each_key_of_a_file_is_a_flag_and_the_reverse() {
    assert_keys_are_flags::<RunOptions>();
    assert_keys_are_flags::<BackupOptions>();
}

fn refusal<T: Options + fmt::Debug>(text: &str) -> String {
    T::of_toml(text).expect_err("refused").to_string()
}

#[test]
fn unknown_key_is_named_with_its_line_and_with_the_nearest() {
    let error = refusal::<RunOptions>("name = 'a'\nmin-epcoh = '1ms'");
    assert!(error.contains("line 2, column 1") && error.contains("`min-epcoh`, did you mean `min-epoch`?"), "{error}");
    let error = refusal::<RunOptions>("name = 'a'\n\ncolour = 1");
    assert!(
        error.contains("line 3") && error.contains("unknown field `colour`, expected one of `name`, `kernel`, `"),
        "{error}"
    );
    let error = refusal::<RunOptions>("min_epoch = '1ms'");
    assert!(error.contains("did you mean `min-epoch`?"), "{error}");
    // A file names no other file, and a backup boots nothing.
    assert!(refusal::<RunOptions>("config = 'other.toml'").contains("unknown field `config`"));
    assert!(refusal::<BackupOptions>("kernel = '/k'").contains("unknown field `kernel`, expected one of `listen`"));
}

#[test]
fn bad_value_is_named_with_its_line() {
    for (text, says) in [
        ("name = 'a'\nmemory = '512Q'", "unknown unit 'Q'"),
        ("name = 'a'\ncpus = 'two'", "invalid type"),
        ("name = 'a'\ncapture = 'often'", "unknown variant `often`"),
        ("disk = [\n{ path = 'a', ro = true }]", "unknown field `ro`"),
        ("name = 'a'\nname = 'b'", "duplicate key"),
    ] {
        let error = refusal::<RunOptions>(text);
        assert!(error.contains("line 2") && error.contains(says), "{error}");
    }
}

#[test]
fn flag_wins_over_the_file_and_a_list_replaces_its_list() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("vm.toml");
    std::fs::write(&path, "name = 'vm0'\ncpus = 2\nprotect = ['local']\n[[disk]]\npath = 'a'\n").expect("room");
    let config = format!("--config={}", path.display());
    let typed: RunOptions = flags([config.clone(), "--cpus=1".into(), "--protect=none".into()]);
    let both = with_file(typed).expect("a good file");
    assert_eq!((both.guest.cpus, both.name.name.as_deref()), (Some(1), Some("vm0")));
    assert_eq!((both.protection.protect, both.devices.disk.len()), (vec![Protect::None], 1));
    std::fs::remove_file(&path).expect("it was there");
    assert!(matches!(with_file::<RunOptions>(flags([config])), Err(ConfigError::Unreadable { .. })));
}
