//! The pages that say "type this": their blocks run in order, as a reader would type them, and what the page shows is what comes.
//!
//! `guests::page` says what may differ: times, figures, ids, counts. Anything else that differs is a fault of the page or of
//! the program.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use guests::network::Network;
use guests::page::{self, Block, Step};
use guests::shell::Shell;
use guests::{Guest, Place, console, needs, program, skip};

fn page(name: &str) -> Vec<Block> {
    page::read(&program::root().join(name))
}

/// What comes before part 1 belongs to it.
fn is_of_part_1(name: &str, part: &str) -> bool {
    name == "docs/TUTORIAL.md" && (part.starts_with("0.") || part.starts_with("1."))
}

/// Types a block, and compares.
#[track_caller]
fn follow(shell: &mut Shell, name: &str, block: &Block) {
    for Step { line, command, shown } in &block.steps {
        let (status, came) = shell.run(command);
        let at = format!("{name}:{line}: $ {command}");
        if !block.shows {
            assert_eq!(status, 0, "{at}\n{}", came.join("\n"));
            promised(&at, command, &came);
            continue;
        }
        let says = || format!("-- the page shows\n{}\n-- what came\n{}", shown.join("\n"), came.join("\n"));
        assert!(page::agrees(shown, &came), "{at}\n{}", says());
        // A page shows each failure: what it prints, and then the code.
        let is_shown = shown.iter().any(|line| line.starts_with("outlast: ") || line.contains("Error"));
        assert!(status == 0 || is_shown, "{at}\nends with {status}\n{}", says());
    }
}

/// What a comment behind a command quotes is in what comes.
#[track_caller]
fn promised(at: &str, command: &str, came: &[String]) {
    let Some((_, comment)) = command.rsplit_once(" # ") else { return };
    let came: Vec<String> = came.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for quoted in comment.split('"').skip(1).step_by(2) {
        assert!(came.iter().any(|line| line.contains(quoted)), "{at}\ndoes not say {quoted}\n{}", came.join("\n"));
    }
}

/// The top of a source tree in which everything is built: what a reader has when the page begins.
fn tree(place: &Place) -> PathBuf {
    let top = place.path("outlast");
    std::fs::create_dir(&top).expect("the test's own place");
    let link = |name: &str, to: &Path| symlink(to, top.join(name)).expect("the test's own place");
    link("guest-images", &program::root().join("guest-images"));
    let release = top.join("target/release");
    std::fs::create_dir_all(&release).expect("the test's own place");
    symlink(program::outlast(), release.join("outlast")).expect("the test's own place");
    top
}

fn console_of(dir: &Path, name: &str) -> String {
    let bytes = std::fs::read(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One console that a crash broke off, and that was written on, is one sequence: what follows may repeat the end of what was
/// there.
fn rejoined(guest: &Guest, text: &str) -> Result<String, String> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    let good = ends.partition_point(|&end| console::check(guest, &text[..end]).is_ok());
    let Some(&end) = ends.get(good) else { return Ok(text.to_owned()) };
    let begin = if good == 0 { 0 } else { ends[good - 1] };
    let joins = (begin..=end).map(|at| console::join(guest, &text[..at], &text[at..]));
    joins.reduce(|best, next| best.or(next)).expect("a line has a place to be broken at")
}

/// The guests of part 1 have lost nothing and contradicted themselves nowhere.
#[track_caller]
fn nothing_is_lost(dir: &Path) {
    let pairs = [("a.console", "b.console"), ("both.console", "both-b.console")];
    for (first, second) in pairs {
        let joined = console::join(&Guest::counter(), &console_of(dir, first), &console_of(dir, second));
        assert!(joined.is_ok(), "{first}, {second}: {joined:?}");
    }
    let journal = rejoined(&Guest::disk_journal(), &console_of(dir, "lp.console"));
    assert!(journal.is_ok(), "{journal:?}");
    let again = console_of(dir, "again.console");
    assert!(again.contains("count=") && !again.contains("CORRUPT"), "{again}");
}

#[test]
fn tutorial_part_1_does_what_it_says() {
    needs!(Kvm);
    const PAGE: &str = "docs/TUTORIAL.md";
    let place = Place::new();
    let top = tree(&place);
    let mut shell = Shell::start(&top);
    let blocks = page(PAGE);
    let run: Vec<&Block> =
        blocks.iter().filter(|block| is_of_part_1(PAGE, &block.part) && block.skip.is_none()).collect();
    assert!(run.len() >= 10, "part 1 has lost its blocks");
    for block in run {
        follow(&mut shell, PAGE, block);
    }
    drop(shell);
    let dir = top.join("try");
    nothing_is_lost(&dir);
}

/// Two hosts, each with a network, a `/dev/shm` and a bridge of its own, and a wire between them for the replication.
struct Hosts {
    networks: [Network; 2],
    place: Place,
}

impl Hosts {
    fn new() -> Self {
        let networks = [(); 2].map(|()| Network::new(&["tap0"]));
        let [a, b] = &networks;
        a.ip(&["link", "add", "repl", "type", "veth", "peer", "name", "repl", "netns", b.name()]);
        for (network, address) in networks.iter().zip(["10.78.0.1/24", "10.78.0.2/24"]) {
            network.ip(&["addr", "add", address, "dev", "repl"]);
            network.ip(&["link", "set", "repl", "up"]);
        }
        let hosts = Self { networks, place: Place::new() };
        for name in ["a", "b"] {
            std::fs::create_dir(hosts.place.path(name)).expect("the test's own place");
        }
        // A bare guest is a kernel too, and runs on any KVM.
        let put =
            |name: &str, bytes: &[u8]| std::fs::write(hosts.place.path(name), bytes).expect("the test's own place");
        put("a/vmlinuz", &std::fs::read(Guest::disk_journal().kernel()).expect("it was built"));
        put("a/initrd.img", b"not looked at by this guest");
        hosts.place.image("a/root.img", 1 << 30);
        hosts
    }

    fn boot(&self, name: &str) -> Shell {
        let network = &self.networks[usize::from(name == "b")];
        let mut shell = Shell::on_host(network.name(), &self.place.witness(), &self.place.path(name));
        let bin = program::outlast().parent().expect("a file is in a directory").display();
        assert_eq!(shell.run(&format!("PATH={bin}:$PATH")).0, 0);
        shell
    }
}

#[test]
fn readme_two_hosts_do_what_it_says() {
    needs!(Kvm, Root, Network);
    const PAGE: &str = "README.md";
    let hosts = Hosts::new();
    let (mut a, mut b) = (hosts.boot("a"), hosts.boot("b"));
    let blocks = page(PAGE);
    let run: Vec<&Block> = blocks.iter().filter(|block| block.host.is_some()).collect();
    assert!(run.len() >= 5, "the page has lost its blocks");
    for block in run {
        match block.host.as_deref() {
            Some("a") => follow(&mut a, PAGE, block),
            Some("b") => follow(&mut b, PAGE, block),
            Some("b, after a lost its power") => {
                drop(a);
                follow(&mut b, PAGE, block);
                a = hosts.boot("a");
            }
            other => panic!("{PAGE}:{}: no such host: {other:?}", block.line),
        }
    }
    let (_, seen) = b.run("outlast ctl --name vm0 stop; wait; cat vm0.console");
    assert!(seen.iter().filter(|line| line.starts_with("ack=")).count() > 10, "the guest went on: {seen:?}");
}

/// No block is neither run nor said to be skipped, and part 1 skips none.
#[test]
fn blocks_that_are_not_run_say_why() {
    for name in ["docs/TUTORIAL.md", "README.md"] {
        let mut left_out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for Block { part, line, skip, host, steps, .. } in page(name) {
            let is_run = is_of_part_1(name, &part) || host.is_some();
            assert!(is_run || skip.is_some(), "{name}:{line}: neither run nor skipped with a reason");
            assert!(!steps.is_empty(), "{name}:{line}: no command");
            if let Some(why) = skip {
                assert!(!part.starts_with("1."), "{name}:{line}: part 1 runs everywhere");
                left_out.entry(why).or_default().push(line.to_string());
            }
        }
        for (why, lines) in left_out {
            skip::part(&format!("blocks of {name} at line {}", lines.join(", ")), &why);
        }
    }
}
