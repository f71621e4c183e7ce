//! Runs a guest for some exits in one process: from a checkpoint directory or from power-on, to the next checkpoint
//! directory or to the guest's end. `tests/hop.rs` chains such processes, one for each exit.
//!
//! usage: hop from=DIR | kernel=FILE cmdline=TEXT cpus=N memory=MIB, then [exits=N to=DIR] console=FILE [disk=FILE]
//!
//! The checkpoint is the commit of the epoch: it is written from the sealed state and from the memory of the epoch
//! before with the captured pages over it, so that a page that the dirty log lost is lost for the next process; only
//! then the console and the disk image get what the epoch produced. Exit codes: 0 the checkpoint is there, 10 the guest ended.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use machine::memory::{PAGE_SIZE, Page, Ram};
use machine::state::MachineState;
use machine::{End, KernelSource, Machine, Parts};
use protect::epoch::capture;
use protect::epoch::pace::Length;
use protect::epoch::{EpochMachine, EpochSink, Pace, SealedEpoch};
use replication::{EpochId, Protocol};
use snapshot::checkpoint::{self, Checkpoint, Contents, MemoryRegion};
use snapshot::disk::{OverlayDisk, WriteMode};

/// Longer than any test: boundaries come by exits only.
const NEVER: Duration = Duration::from_secs(3600);
const GUEST_ENDED: u8 = 10;
/// Far longer than a file takes.
const CONSOLE_WAIT: Duration = Duration::from_secs(20);

struct Options(HashMap<String, String>);

impl Options {
    fn read() -> Self {
        let pair = |word: String| {
            let (key, value) = word.split_once('=').expect("options are key=value");
            (key.to_owned(), value.to_owned())
        };
        Self(std::env::args().skip(1).map(pair).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.get(key).map(PathBuf::from)
    }

    fn number(&self, key: &str) -> u64 {
        let text = self.get(key).unwrap_or_else(|| panic!("{key}= is missing"));
        text.parse().unwrap_or_else(|_| panic!("{key}={text} is no number"))
    }

    fn parts(&self) -> Parts {
        let disk = |path| OverlayDisk::open(path, false).expect("the image is free");
        let console = File::options().create(true).append(true).open(self.path("console").expect("console=FILE"));
        Parts {
            disks: self.path("disk").into_iter().map(disk).collect(),
            nets: Vec::new(),
            console: Some(Box::new(console.expect("the console's file can be written"))),
            balloon: false,
        }
    }

    fn pace(&self) -> Pace {
        let exits = self.get("exits").map_or(1, |_| self.number("exits"));
        Pace {
            length: Length::Exits(exits),
            min_epoch: NEVER,
            capture: capture::CaptureMode::default(),
            protocol: Protocol::Epoch,
            inputs_wait: true,
        }
    }

    fn machine(&self) -> EpochMachine {
        let (parts, pace) = (self.parts(), self.pace());
        match self.path("from") {
            Some(dir) => {
                let (state, ram) = read(&dir);
                EpochMachine::restore(state, ram, parts, pace, EpochId(1)).expect("the state is of this machine")
            }
            None => {
                let kernel = self.path("kernel").expect("kernel=FILE");
                let cmdline = self.get("cmdline").unwrap_or_default().to_owned();
                let source = KernelSource { kernel, initramfs: None, cmdline };
                let (cpus, memory) = (self.number("cpus") as u16, self.number("memory") << 20);
                EpochMachine::boot(cpus, memory, &source, parts, pace).expect("the guest boots")
            }
        }
    }
}

fn layout(ram: &Ram) -> Vec<MemoryRegion> {
    ram.regions().iter().map(|r| MemoryRegion { address: r.base, len: r.bytes }).collect()
}

fn read(dir: &Path) -> (MachineState, Ram) {
    let checkpoint = Checkpoint::open(dir).expect("the checkpoint is whole");
    let state = checkpoint.state().expect("the checkpoint is whole");
    let state = MachineState::decode(&state).expect("the state is one of ours");
    let ram = Ram::new(state.shape.memory_bytes.get()).expect("the memory can be had");
    checkpoint.check_layout(&layout(&ram)).expect("memory lies as it lay");
    let load = |address: u64, bytes: &[u8]| {
        for (gfn, page) in (address / PAGE_SIZE as u64..).zip(bytes.as_chunks().0) {
            assert!(ram.write_page(gfn, page), "the layout was compared");
        }
        Ok(())
    };
    checkpoint.load_memory(load).expect("the checkpoint is whole");
    (state, ram)
}

/// The pages of a memory that are not zero, by number.
struct Pages(HashMap<u64, Page>);

impl Pages {
    fn of(ram: &Ram) -> Self {
        let mut pages = HashMap::new();
        for (index, region) in ram.regions().iter().enumerate() {
            let numbered = (region.first_gfn()..).zip(ram.region_bytes(index).as_chunks().0);
            let written = numbered.filter(|(_, page)| **page != [0; PAGE_SIZE]);
            pages.extend(written.map(|(gfn, page)| (gfn, *page)));
        }
        Self(pages)
    }

    /// Puts the memory at `address` into `buffer`, which begins on a page and holds whole pages.
    fn read(&self, address: u64, buffer: &mut [u8]) {
        for (gfn, page) in (address / PAGE_SIZE as u64..).zip(buffer.as_chunks_mut().0) {
            *page = self.0.get(&gfn).copied().unwrap_or([0; PAGE_SIZE]);
        }
    }
}

/// Commits the first epoch as a checkpoint directory and ends the machine.
struct ToDirectory {
    machine: Weak<Machine>,
    dir: PathBuf,
    /// Memory before the epoch; after it, that with the captured pages over it.
    memory: Mutex<Pages>,
    is_done: AtomicBool,
}

impl ToDirectory {
    fn new(machine: &EpochMachine, dir: &Path) -> Self {
        let memory = Mutex::new(Pages::of(machine.ram()));
        Self {
            machine: Arc::downgrade(&machine.shared()),
            dir: dir.to_owned(),
            memory,
            is_done: AtomicBool::new(false),
        }
    }

    fn write(&self, ram: &Ram, sealed: &SealedEpoch) {
        let mut memory = self.memory.lock().expect("one boundary at a time");
        memory.0.extend(sealed.pages.iter().map(|(gfn, page)| (gfn, *page)));
        let config = serde_json::to_vec(&sealed.state.shape).expect("the shape is plain data");
        let contents = Contents { writer: "hop", config: &config, state: &sealed.state.encode() };
        let read = |address: u64, buffer: &mut [u8]| {
            memory.read(address, buffer);
            Ok(())
        };
        let place = checkpoint::Staging::create(&self.dir).expect("the directory can be made");
        checkpoint::write_with(place, &contents, &layout(ram), read).expect("the directory can be written");
    }
}

impl EpochSink for ToDirectory {
    fn wait_for_room(&self) -> bool {
        true
    }

    // The guest runs again meanwhile: what it does now dies with this process.
    fn submit(&self, sealed: Box<SealedEpoch>) {
        if self.is_done.swap(true, Ordering::AcqRel) {
            return;
        }
        let machine = self.machine.upgrade().expect("a machine at a boundary lives");
        self.write(machine.ram(), &sealed);
        for disk in machine.disks() {
            disk.lock().commit(sealed.epoch.0).expect("the image can be written");
        }
        machine.egress().release(sealed.epoch);
        machine.end(End::Stopped);
    }
}

/// Holds the machine before its first instruction and begins epochs that go to `dir`.
fn commit_to(machine: &EpochMachine, dir: &Path) -> machine::Threads {
    let sink = Arc::new(ToDirectory::new(machine, dir));
    machine.log_dirty(true).expect("KVM logs dirty pages");
    machine.epochs().harvest_running(machine).expect("KVM gives its log");
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| machine.gate().hold().expect("the machine has not ended"));
        while !machine.gate().is_closing() {
            std::thread::yield_now();
        }
        let threads = machine.start().expect("the machine starts");
        let held = holder.join().expect("the holder does not panic");
        for disk in machine.disks() {
            disk.lock().set_mode(WriteMode::Protected).expect("nothing is pending");
        }
        machine.begin_epochs(&held);
        machine.epochs().set_sink(sink);
        threads
    })
}

/// A panic on any thread ends the process: the others would wait for that thread for ever.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::exit(1);
    }));
}

fn main() -> ExitCode {
    end_on_panic();
    let options = Options::read();
    let machine = options.machine();
    let threads = match options.path("to") {
        Some(dir) => commit_to(&machine, &dir),
        None => machine.start().expect("the machine starts"),
    };
    let end = machine.wait();
    threads.join();
    let end_with = |code: ExitCode| {
        // The next process appends to the same console.
        assert_eq!(machine.egress().drain_console(CONSOLE_WAIT), 0, "the console takes nothing");
        code
    };
    match end {
        // Even if the guest has come to its end meanwhile: the epoch that counts is committed.
        _ if options.path("to").is_some_and(|dir| dir.exists()) => end_with(ExitCode::SUCCESS),
        End::Guest(_) => {
            machine.egress().direct();
            end_with(ExitCode::from(GUEST_ENDED))
        }
        End::Stopped | End::Fenced { .. } | End::HandedOver { .. } | End::Conflict { .. } | End::Failed(_) => {
            panic!("{end:?}")
        }
    }
}
