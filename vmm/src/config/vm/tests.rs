//! Every range of [`VmConfig`], at its edges.

use super::*;
use std::time::Duration;

use crate::config::{
    BackupOptions, BackupVmConfig, ByteSize, Console, EpochLength, Interrupts, LocalConfig, OnGuestPanic, Protect,
    Retain, StartFrom, TimeSpan,
};
use crate::exit::{Advice, Exit};
use protect::OnDegraded;
use protect::local::RetainCount;
use protect::local::backing::{LocalLog, Survival};
use protect::witness::WitnessName;

fn typed() -> RunOptions {
    let mut typed = RunOptions::default();
    (typed.name.name, typed.guest.kernel) = (Some("vm0".into()), Some("/k".into()));
    typed
}

fn check(change: impl FnOnce(&mut RunOptions)) -> Result<VmConfig, ConfigError> {
    let mut options = typed();
    change(&mut options);
    VmConfig::try_from(options)
}

fn message(change: impl FnOnce(&mut RunOptions)) -> String {
    let error = check(change).expect_err("refused");
    assert_eq!(error.exit(), Exit::Usage);
    error.to_string()
}

fn ms(number: u64) -> Option<TimeSpan> {
    Some(TimeSpan(Duration::from_millis(number)))
}

#[test]
fn vm_with_name_and_kernel_only_has_documented_defaults() {
    let vm = check(|_| ()).expect("enough");
    assert_eq!((vm.guest.cpus, vm.guest.memory_bytes), (1, 512 << 20));
    let cmdline = "console=ttyS0".to_string();
    assert_eq!(vm.guest.start, StartFrom::Kernel { kernel: "/k".into(), initramfs: None, cmdline });
    assert_eq!((vm.epochs.epoch, vm.epochs.min_epoch), (EpochLength::of_ms(20), Duration::ZERO));
    assert_eq!((vm.detection.detect, vm.detection.heartbeat), (Duration::from_millis(500), Duration::from_millis(50)));
    assert_eq!(
        (vm.protection.protect.as_slice(), vm.epochs.interrupts),
        ([Protect::None].as_slice(), Interrupts::Immediate)
    );
    assert_eq!(vm.control.api_socket, PathBuf::from("/dev/shm/outlast/vm0/api.sock"));
    assert!(vm.warnings().is_empty());
}

#[test]
fn vm_without_name_or_kernel_says_which() {
    assert_eq!(message(|o| o.name.name = None), "--name is missing");
    assert_eq!(message(|o| o.guest.kernel = None), "--kernel is missing");
}

#[test]
fn vm_memory_edges() {
    for good in [2 << 20, (2 << 20) + 4096, 8 << 30] {
        assert_eq!(check(|o| o.guest.memory = Some(ByteSize(good))).expect("in range").guest.memory_bytes, good);
    }
    assert_eq!(message(|o| o.guest.memory = Some(ByteSize(1 << 20))), "--memory 1M: must be 2M to 8G");
    assert_eq!(message(|o| o.guest.memory = Some(ByteSize((8 << 30) + 4096))), "--memory 8388612K: must be 2M to 8G");
    assert_eq!(
        message(|o| o.guest.memory = Some(ByteSize((2 << 20) + 1))),
        "--memory 2097153: must be a multiple of 4K"
    );
}

#[test]
fn vm_cpus_edges() {
    for good in [1, 8] {
        assert_eq!(check(|o| o.guest.cpus = Some(good)).expect("in range").guest.cpus, good);
    }
    for bad in [0, 9] {
        assert_eq!(message(|o| o.guest.cpus = Some(bad)), format!("--cpus {bad}: must be 1 to 8"));
    }
}

#[test]
fn vm_min_epoch_is_at_most_the_epoch() {
    check(|o| o.epochs.min_epoch = ms(20)).expect("equal");
    assert_eq!(message(|o| o.epochs.min_epoch = ms(21)), "--min-epoch 21ms: must be 0us to 20ms");
}

#[test]
fn vm_detect_needs_three_heartbeats() {
    check(|o| (o.detection.detect, o.detection.heartbeat) = (ms(300), ms(100))).expect("three");
    let error = message(|o| (o.detection.detect, o.detection.heartbeat) = (ms(299), ms(100)));
    assert!(error.contains("one late heartbeat would look like a dead host"), "{error}");
    let short = check(|o| o.detection.detect = ms(60)).expect("the heartbeat follows");
    assert_eq!(short.detection.heartbeat, Duration::from_millis(20));
    assert!(message(|o| o.detection.detect = ms(49)).contains("must be 50ms to 60s"));
}

#[test]
fn vm_protect_contradictions_are_refused() {
    let list = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("well formed")).collect::<Vec<Protect>>();
    assert!(message(|o| o.protection.protect = list(&["none", "local"])).contains("none excludes every other"));
    assert!(message(|o| o.protection.protect = list(&["tcp:a:1,clear", "tcp:b:1,clear"])).contains("at most one"));
    let both = check(|o| {
        o.protection.protect = list(&["local", "tcp:b:1,clear", "local"]);
        o.detection.witness = Some(WitnessName::NONE);
    });
    let both = both.expect("both");
    assert_eq!(both.protection.protect, list(&["local", "tcp:b:1,clear"]));
    assert!(both.protection.is_local() && both.protection.backup().is_some());
}

#[test]
fn vm_backup_without_a_named_witness_is_refused_and_with_none_is_warned_about() {
    let protected = |o: &mut RunOptions| o.protection.protect = vec!["tcp:b:1,clear".parse().expect("well formed")];
    assert_eq!(message(protected), "--witness is missing");
    let vm = check(|o| {
        protected(o);
        o.detection.witness = Some(WitnessName::NONE);
    });
    let vm = vm.expect("allowed");
    assert!(!vm.unnamed_witness && check(|_| {}).expect("alone").unnamed_witness);
    assert!(vm.warnings()[0].contains("both may run the guest"), "{:?}", vm.warnings());
    let vm = check(|o| {
        o.protection.protect = vec!["tcp:b:1,clear".parse().expect("well formed")];
        o.detection.witness = Some("file:/shared".parse().expect("well formed"));
    });
    assert!(vm.expect("allowed").warnings().is_empty());
}

#[test]
fn clear_text_beyond_this_host_is_named_or_refused() {
    let to = |target: &'static str, tls: Option<&'static str>| {
        move |o: &mut RunOptions| {
            o.protection.protect = vec![target.parse().expect("well formed")];
            (o.detection.witness, o.detection.tls_dir) = (Some(WitnessName::NONE), tls.map(PathBuf::from));
        }
    };
    let error = check(to("tcp:b:1", None)).expect_err("nobody said so");
    assert!(error.to_string().starts_with("--protect tcp:b:1 is not on this host"), "{error}");
    assert!(error.hint().expect("a hint").contains("--tls-dir"));
    assert!(message(to("tcp:b:1,clear", Some("/tls"))).contains("asks for clear text"));
    assert_eq!(check(to("tcp:b:1", Some("/tls"))).expect("encrypted").detection.tls_dir, Some("/tls".into()));
    for here in ["tcp:127.0.0.1:1", "unix:/run/b.sock", "tcp:b:1,clear"] {
        assert_eq!(check(to(here, None)).expect("allowed").detection.tls_dir, None);
    }
    let mut backup = BackupOptions::default();
    backup.name.name = Some("vm0".into());
    backup.listen.listen = Some("tcp:10.0.0.2:1".parse().expect("well formed"));
    backup.detection.witness = Some(WitnessName::NONE);
    let error = BackupVmConfig::try_from(backup).expect_err("nobody said so");
    assert_eq!(error.exit(), Exit::Usage);
    assert!(error.to_string().starts_with("--listen tcp:10.0.0.2:1 is not on this host"), "{error}");
}

#[test]
fn vm_devices_beyond_the_slots_or_twice_are_refused() {
    let disk = || "path=a".parse().expect("well formed");
    let net = |tap: &str| format!("tap={tap}").parse().expect("well formed");
    check(|o| (o.devices.disk, o.devices.net) = (vec![disk(); 6], vec![net("t0")])).expect("seven");
    assert!(
        message(|o| (o.devices.disk, o.devices.net) = (vec![disk(); 7], vec![net("t0")]))
            .contains("at most 7 together")
    );
    assert!(message(|o| o.devices.net = vec![net("t0"), net("t0")]).contains("must each be used once"));
}

#[test]
fn vm_cmdline_beyond_the_kernels_limit_is_refused() {
    check(|o| o.guest.cmdline = Some("x".repeat(2047))).expect("fits");
    assert!(message(|o| o.guest.cmdline = Some("x".repeat(2048))).contains("of 2048 bytes"));
}

#[test]
fn vm_paths_are_whole_so_that_a_resume_from_elsewhere_means_the_same() {
    // Relative ones led to other images, or to none, when the guest was resumed from another directory.
    let here = std::env::current_dir().expect("a test has one");
    let vm = check(|o| {
        o.devices.disk = vec!["path=a.img".parse().expect("well formed")];
        (o.guest.kernel, o.guest.initramfs) = (Some("boot/k".into()), Some("i".into()));
        (o.state.state_dir, o.state.disk_log) = (Some("s".into()), Some("logs".into()));
        o.devices.console = Some(Console::File("c".into()));
        o.control.event_monitor = Some("path=e".parse().expect("well formed"));
        o.detection.witness = Some("file:w".parse().expect("well formed"));
        o.protection.protect = vec!["unix:b.sock".parse().expect("well formed")];
    })
    .expect("allowed");
    assert_eq!(
        vm.protection.backup().map(ToString::to_string),
        Some(format!("unix:{}", here.join("b.sock").display()))
    );
    let start = StartFrom::Kernel {
        kernel: here.join("boot/k"),
        initramfs: Some(here.join("i")),
        cmdline: "console=ttyS0".into(),
    };
    assert_eq!(
        (&vm.guest.start, &vm.devices.disks[0].path, &vm.state.dir),
        (&start, &here.join("a.img"), &here.join("s"))
    );
    assert_eq!((vm.devices.console, vm.state.disk_log), (Console::File(here.join("c")), Some(here.join("logs"))));
    assert_eq!(
        (vm.control.event_monitor.map(|monitor| monitor.path), vm.detection.witness),
        (Some(here.join("e")), format!("file:{}", here.join("w").display()).parse().expect("well formed"))
    );
    assert_eq!(vm.control.api_socket, here.join("s/api.sock"));
    let snapshot = check(|o| (o.guest.kernel, o.guest.restore) = (None, Some("snap".into()))).expect("allowed");
    assert_eq!(snapshot.guest.start, StartFrom::Snapshot(here.join("snap")));
}

#[test]
fn vm_json_gives_the_same_configuration_back() {
    let vm = check(|o| {
        o.devices.disk = vec!["path=a,readonly=on".parse().expect("well formed")];
        o.devices.net = vec!["tap=t0".parse().expect("well formed")];
        o.devices.console = Some(Console::File("/c".into()));
        o.protection.protect = vec![Protect::Local];
        o.control.event_monitor = Some("path=/e".parse().expect("well formed"));
    })
    .expect("allowed");
    let text = serde_json::to_string_pretty(&vm).expect("printable");
    assert!(text.contains(r#""min_epoch": "0us""#), "{text}");
    assert_eq!(serde_json::from_str::<VmConfig>(&text).expect("readable"), vm);
}

#[test]
fn backup_needs_listen_and_name_and_warns_without_witness() {
    let check = |listen: Option<&str>, witness: Option<WitnessName>| {
        let mut typed = BackupOptions::default();
        typed.name.name = Some("vm0".into());
        typed.listen.listen = listen.map(|text| text.parse().expect("well formed"));
        typed.detection.witness = witness;
        BackupVmConfig::try_from(typed)
    };
    let backup = check(Some("tcp:0.0.0.0:7000,clear"), Some(WitnessName::NONE)).expect("enough");
    assert_eq!(backup.listen.to_string(), "tcp:0.0.0.0:7000,clear");
    assert_eq!(backup.warnings().len(), 2, "no witness, and every address");
    let backup = check(Some("tcp:10.78.0.2:7000,clear"), Some(WitnessName::NONE)).expect("enough");
    assert_eq!(backup.warnings().len(), 1);
    let backup = check(Some("unix:/run/vm0.sock"), Some(WitnessName::NONE)).expect("enough");
    assert_eq!(backup.warnings().len(), 1, "nobody else can open it");
    let error = check(None, Some(WitnessName::NONE)).expect_err("no listen");
    assert_eq!(error.to_string(), "--listen is missing");
    let error = check(Some("unix:/run/vm0.sock"), None).expect_err("no witness");
    assert_eq!(error.to_string(), "--witness is missing");
}

#[test]
fn backup_names_one_other_host_to_protect_its_guest_after_a_takeover() {
    let check = |protect: &[&str]| {
        let mut typed = BackupOptions::default();
        typed.name.name = Some("vm0".into());
        typed.listen.listen = Some("tcp:10.78.0.2:7000,clear".parse().expect("well formed"));
        typed.detection.witness = Some(WitnessName::NONE);
        typed.succession.protect = protect.iter().map(|text| text.parse().expect("well formed")).collect();
        BackupVmConfig::try_from(typed).map(|config| config.protect.len()).map_err(|error| error.to_string())
    };
    assert_eq!((check(&[]), check(&["tcp:10.78.0.1:7000,clear"])), (Ok(0), Ok(1)));
    let says = |protect: &[&str], what: &str| {
        let error = check(protect).expect_err("refused");
        assert!(error.contains(what), "{error}");
    };
    says(&["tcp:10.78.0.2:7000,clear"], "its own backup");
    says(&["tcp:10.78.0.1:7000"], "without a TLS directory");
    says(&["unix:/a", "unix:/b"], "at most one");
}

#[test]
fn vm_options_of_the_state_directory_are_kept() {
    let local = |o: &mut RunOptions| o.protection.protect = vec![Protect::Local];
    assert_eq!(check(local).expect("enough").protection.local, LocalConfig::default());
    let vm = check(|o| {
        local(o);
        (o.protection.local_log, o.protection.require_survives) = (Some(LocalLog::Redo), Some(Survival::Power));
        o.protection.on_degraded = Some(OnDegraded::Stop);
    });
    let chosen = LocalConfig { log: LocalLog::Redo, require_survives: Survival::Power, on_degraded: OnDegraded::Stop };
    assert_eq!(vm.expect("fits").protection.local, chosen);
}

#[test]
fn vm_earlier_epochs_have_their_defaults_and_ranges() {
    let rollback = |o: &mut RunOptions| {
        (o.protection.protect, o.crash.on_guest_panic) = (vec![Protect::Local], Some(OnGuestPanic::Rollback));
    };
    let vm = check(rollback).expect("allowed");
    assert_eq!(vm.crash.retain, Some(Retain { epochs: RetainCount::nearest(6), bytes: 512 << 20 }));
    let small = check(|o| {
        rollback(o);
        o.guest.memory = Some(ByteSize(2 << 20));
    });
    assert_eq!(small.expect("allowed").crash.retain.map(|retain| retain.bytes), Some(64 << 20));
    assert_eq!(check(|_| ()).expect("enough").crash.retain, None);
    for epochs in [0, 17] {
        let error = message(|o| {
            rollback(o);
            o.crash.retain = Some(epochs);
        });
        assert_eq!(error, format!("--retain {epochs}: must be 1 to 16"));
    }
    let error = message(|o| {
        rollback(o);
        o.crash.retain_bytes = Some(ByteSize(1000));
    });
    assert_eq!(error, "--retain-bytes 1000: must be at least 1M");
}

/// What `vm.json` had before options came in groups, read and written.
const FLAT: &str = r#"{
  "api_socket": "/s/api.sock", "capture": "stop-and-copy", "commit_durability": "disk", "console": "off", "cpus": 2,
  "detect": "500ms", "disk_log": null, "disks": [{"path": "/a.img", "readonly": false}], "epoch": "20ms",
  "event_monitor": null, "heartbeat": "50ms", "interrupts": "immediate",
  "local": {"log": "auto", "on-degraded": "continue", "require-survives": "process"}, "log_format": "text",
  "memory_bytes": 134217728, "min_epoch": "0us", "name": "vm0",
  "nets": [{"mac": "02:00:00:00:00:01", "tap": "t0"}], "on_boundary_late": "continue", "on_guest_panic": "rollback",
  "protect": ["local"], "protocol": "epoch", "retain": {"bytes": 134217728, "epochs": 6},
  "start": {"kernel": {"cmdline": "console=ttyS0", "initramfs": null, "kernel": "/k"}}, "state_dir": "/s",
  "unnamed_witness": true, "witness": "none"
}"#;

#[test]
fn vm_json_is_flat_as_it_was_before_options_came_in_groups() {
    let vm: VmConfig = serde_json::from_str(FLAT).expect("of an earlier version");
    vm.check().expect("good");
    let (flat, written) = (serde_json::from_str::<Value>(FLAT), serde_json::to_value(&vm).expect("plain data"));
    for (key, value) in flat.expect("JSON").as_object().expect("an object") {
        assert_eq!(&written[key], value, "{key}");
    }
}

#[test]
fn vm_json_with_a_key_that_is_none_is_refused() {
    let read = |text: &str| VmConfig::of_state_dir(text.as_bytes(), Path::new("/moved"));
    assert_eq!(read(FLAT).expect("good").control.api_socket, Path::new("/moved/api.sock"));
    let error = read(&FLAT.replacen('{', "{ \"colour\": 1,", 1)).expect_err("nobody wrote that");
    assert_eq!(error.exit(), Exit::Incompatible);
    assert!(error.to_string().contains("unknown field `colour`"), "{error}");
}

#[test]
fn vm_json_of_before_these_options_is_read() {
    let vm = check(|o| o.protection.protect = vec![Protect::Local]).expect("enough");
    let mut json = serde_json::to_value(&vm).expect("plain data");
    json.as_object_mut().expect("an object").remove("local").expect("it was there");
    assert_eq!(serde_json::from_value::<VmConfig>(json).expect("an older one"), vm);
}

/// What `vm.json` of a directory says, with one field altered by somebody.
fn altered(field: &str, value: serde_json::Value) -> Result<VmConfig, ConfigError> {
    let vm = check(|o| {
        o.protection.protect = vec![Protect::Local];
        o.crash.on_guest_panic = Some(OnGuestPanic::Rollback);
    })
    .expect("allowed");
    let mut text = serde_json::to_value(vm).expect("printable");
    *text.pointer_mut(field).expect("it is there") = value;
    VmConfig::of_state_dir(text.to_string().as_bytes(), Path::new("/s"))
}

#[test]
fn state_directory_is_checked_like_what_is_typed() {
    altered("/retain/epochs", 16.into()).expect("in range");
    // Of none the ring asserted, and of 255 the reach in milliseconds overflowed.
    for (field, value) in [
        ("/retain/epochs", serde_json::json!(0)),
        ("/retain/epochs", 17.into()),
        ("/retain/epochs", 255.into()),
        ("/retain/bytes", 0.into()),
        ("/epoch", "0us".into()),
        ("/epoch", "18446744073709551615s".into()),
        ("/min_epoch", "11s".into()),
        ("/memory_bytes", 0.into()),
        ("/memory_bytes", (1_u64 << 60).into()),
        ("/memory_bytes", ((512_u64 << 20) + 1).into()),
        ("/cpus", 9.into()),
        ("/protect", serde_json::json!([])),
        ("/protect", serde_json::json!(["none", "local"])),
        ("/heartbeat", "18446744073709551615s".into()),
    ] {
        assert!(matches!(altered(field, value.clone()), Err(ConfigError::BadState { .. })), "{field} {value}");
    }
}
