//! The walls between the crates, as `docs/WALLS.md` describes them: what cargo says is compared with that page.
//!
//! Needs no KVM: the names begin with `walls_`, so that a machine without it still runs them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

mod modules;

/// Crates without threads, clock and sockets.
const WALLED: [&str; 5] = ["snapshot", "recoverable", "devices", "replication", "outlast-api"];

/// Crates whose dependencies the page lists.
const LISTED: [&str; 7] = ["snapshot", "recoverable", "devices", "replication", "outlast-api", "machine", "protect"];

/// What a crate's tree never holds; `docs/WALLS.md` has the same table, compared below.
const NEVER: [(&str, &[&str]); 6] = [
    ("snapshot", &["kvm-bindings", "kvm-ioctls", "vm-memory", "virtio-queue"]),
    ("recoverable", &["kvm-bindings", "kvm-ioctls", "vm-memory", "virtio-queue", "snapshot", "devices", "replication"]),
    ("devices", &["kvm-bindings", "kvm-ioctls", "event-manager", "replication"]),
    ("replication", &["libc", "rustix", "kvm-bindings", "kvm-ioctls", "vm-memory", "snapshot", "devices"]),
    ("outlast-api", &["libc", "rustix", "kvm-bindings", "kvm-ioctls", "vm-memory", "replication", "devices"]),
    ("protect", &["clap", "toml", "tracing-subscriber"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the package lies in tests/guests").to_owned()
}

/// Where a walled crate lies.
fn dir(name: &str) -> &str {
    match name {
        "recoverable" => "snapshot/recoverable",
        "outlast-api" => "vmm/api",
        name => name,
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The rows of the table under a heading of the page: the crate, then its other cells.
fn table(heading: &str) -> BTreeMap<String, Vec<String>> {
    let page = read("docs/WALLS.md");
    let (_, section) = page.split_once(&format!("# {heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        (cells.next().unwrap().trim_matches('`').to_owned(), cells.collect())
    })
    .collect()
}

fn names(cell: &str) -> BTreeSet<String> {
    cell.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// Direct dependencies of a workspace crate: those of the build, and those of tests.
fn dependencies(name: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"])).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no package {name}"));
    let (mut build, mut test) = (BTreeSet::new(), BTreeSet::new());
    for dependency in package["dependencies"].as_array().unwrap() {
        let set = if dependency["kind"] == "dev" { &mut test } else { &mut build };
        set.insert(dependency["name"].as_str().unwrap().to_owned());
    }
    (build, test)
}

#[test]
fn walls_table_has_every_crate() {
    let table = table("Direct dependencies");

    assert_eq!(
        table.keys().collect::<Vec<_>>(),
        ["bench", "devices", "machine", "outlast-api", "protect", "recoverable", "replication", "snapshot", "vmm"]
    );
}

#[test]
fn walls_direct_dependencies_are_those_of_the_table() {
    let table = table("Direct dependencies");
    for name in LISTED {
        let cells = &table[name];
        let (ours, others) = (names(&cells[0]), names(&cells[1]));

        let (build, test) = dependencies(name);

        let allowed: BTreeSet<_> = ours.union(&others).cloned().collect();
        let strangers: Vec<_> = build.difference(&allowed).collect();
        assert!(strangers.is_empty(), "{name} depends on {strangers:?}, which docs/WALLS.md does not allow it");
        let inward: Vec<_> = test.iter().filter(|d| LISTED.contains(&d.as_str()) || *d == "vmm").collect();
        assert!(inward.iter().all(|d| ours.contains(*d)), "{name} is tested with {inward:?}");
    }
}

#[test]
fn walls_vmm_is_used_by_no_crate_but_tests() {
    for name in LISTED {
        let (build, test) = dependencies(name);
        assert!(!build.contains("vmm") && !test.contains("vmm"), "{name} uses vmm");
    }
}

#[test]
fn walls_trees_never_hold_what_is_forbidden() {
    let table = table("Indirect dependencies");
    assert_eq!(table.len(), NEVER.len());
    for (name, never) in NEVER {
        let never: BTreeSet<String> = never.iter().map(|n| (*n).to_owned()).collect();
        assert_eq!(names(&table[name][0]), never, "docs/WALLS.md and this test differ on {name}");

        let tree = cargo(&["tree", "--offline", "-p", name, "-e", "normal", "--prefix", "none", "--format", "{p}"]);

        let held: BTreeSet<String> =
            tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        assert!(held.contains(name), "cargo tree says nothing about {name}");
        let found: Vec<_> = held.intersection(&never).collect();
        assert!(found.is_empty(), "the tree of {name} holds {found:?}");
    }
}

#[test]
fn walls_unsafe_code_is_forbidden_where_it_should_be() {
    for path in ["devices", "replication", "vmm/api"] {
        assert!(read(&format!("{path}/src/lib.rs")).contains("#![forbid(unsafe_code)]"), "{path}/src/lib.rs");
    }
    let allowing: Vec<_> =
        sources(&root().join("snapshot/src")).into_iter().filter(|p| mentions(p, "allow(unsafe_code")).collect();
    assert_eq!(allowing, [root().join("snapshot/src/lock.rs")]);
}

#[test]
fn walls_recoverable_and_protect_are_unsafe_only_in_the_files_that_the_page_names() {
    for (name, src) in [("recoverable", "snapshot/recoverable/src"), ("protect", "vmm/protect/src")] {
        let row = &table("Forbidden calls")[name];
        let named: BTreeSet<String> = row[0].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let src = root().join(src);
        let is_unsafe = |path: &PathBuf| mentions(path, "expect(unsafe_code") || mentions(path, "allow(unsafe_code");
        let found: BTreeSet<String> = sources(&src)
            .into_iter()
            .filter(is_unsafe)
            .map(|path| path.strip_prefix(&src).unwrap().display().to_string())
            .collect();
        assert_eq!(found, named, "{name}");
    }
}

#[test]
fn walls_protect_reads_no_command_line_and_no_environment_and_ends_no_program() {
    let rules = read("vmm/protect/clippy.toml");
    for path in ["std::env::args", "std::env::args_os", "std::env::var", "std::env::var_os", "std::process::exit"] {
        assert!(rules.contains(&format!("\"{path}\"")), "vmm/protect/clippy.toml does not forbid {path}");
    }
    // The one place that lifts the rule is no part of a program that people get.
    let src = root().join("vmm/protect/src");
    let lifting = |path: &PathBuf| mentions(path, "expect(clippy::disallowed_methods") && !path.ends_with("tests.rs");
    let lifting: Vec<_> = sources(&src).into_iter().filter(lifting).collect();
    assert_eq!(lifting, [src.join("fault/armed.rs")]);
}

fn mentions(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).unwrap().contains(text)
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn walls_exit_codes_are_the_fronts() {
    for name in ["machine", "protect"] {
        let rules = read(&format!("vmm/{name}/clippy.toml"));
        for path in ["outlast_api::Exit", "outlast_api::Fault"] {
            assert!(rules.contains(&format!("\"{path}\"")), "vmm/{name}/clippy.toml does not forbid {path}");
        }
    }
}

#[test]
fn walls_clippy_forbids_clock_sockets_threads_and_programs() {
    let everywhere = [
        "std::time::Instant::now",
        "std::time::SystemTime::now",
        "std::thread::spawn",
        "std::thread::sleep",
        "std::process::Command::new",
        "std::net::TcpStream",
        "std::net::UdpSocket",
        "std::os::unix::net::UnixStream",
    ];
    for name in WALLED {
        let rules = read(&format!("{}/clippy.toml", dir(name)));
        for path in everywhere {
            assert!(rules.contains(&format!("\"{path}\"")), "{name}/clippy.toml does not forbid {path}");
        }
        let forbids_files = rules.contains("\"std::fs::File\"");
        assert_eq!(forbids_files, !["snapshot", "recoverable"].contains(&name), "{name}/clippy.toml and files");
    }
}

#[test]
fn walls_every_crate_takes_the_lints_of_the_workspace() {
    for path in [
        "snapshot",
        "snapshot/recoverable",
        "devices",
        "replication",
        "vmm",
        "vmm/api",
        "vmm/machine",
        "vmm/protect",
        "vmm/bench",
        "tests/sim",
        "tests/model",
        "tests/guests",
    ] {
        let manifest = read(&format!("{path}/Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{path}/Cargo.toml");
    }
}
