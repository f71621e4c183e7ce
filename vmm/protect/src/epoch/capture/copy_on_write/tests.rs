//! Pages are what they were at the boundary, whoever writes to them afterwards.
//!
//! Threads take the place of the guest: they write all the time, except at a boundary, where they stand still.

use std::io::{Seek, SeekFrom, Write};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::{Bytes, GuestAddress};

use super::*;
use machine::memory::Page;
use machine::testing;

/// How the kernel's userfaultfd is used.
#[derive(Clone, Copy, PartialEq)]
enum Kernel {
    AsItIs,
    Before6_4,
}

fn start(kernel: Kernel, mode: CaptureMode, ram: &Ram) -> Option<(CopyOnWrite, Arc<Stats>)> {
    let newest = testing::uffd()?;
    let uffd = match kernel {
        Kernel::AsItIs => newest,
        Kernel::Before6_4 => Uffd::open_as_before_6_4().expect("a newer one could be opened"),
    };
    let stats = Arc::new(Stats::default());
    Some((CopyOnWrite::start(uffd, mode, ram, &stats).expect("anonymous memory"), stats))
}

/// xorshift64*: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

fn contents(ram: &Ram, gfns: &[u64]) -> Vec<Page> {
    let read = |gfn: &u64| {
        let mut page = [0; PAGE_SIZE];
        assert!(ram.read_page(*gfn, &mut page));
        page
    };
    gfns.iter().map(read).collect()
}

fn check(pages: &CapturedPages, gfns: &[u64], expected: &[Page], round: usize) {
    assert_eq!(pages.len(), gfns.len());
    for ((gfn, page), (expected_gfn, expected)) in pages.iter().zip(gfns.iter().zip(expected)) {
        assert_eq!(gfn, *expected_gfn, "round {round}");
        assert!(page == expected, "round {round}: page {gfn} is not what it was at the boundary");
    }
}

/// Some blocks with some of their pages, from one page to all of them.
fn dirty_set(numbers: &mut Numbers, page_count: u64) -> Vec<u64> {
    let mut gfns = Vec::new();
    for block in 0..page_count.div_ceil(BLOCK_PAGES) {
        let step = [0, 0, 1, 3, 64, 511][numbers.below(6) as usize];
        let pages = block * BLOCK_PAGES..((block + 1) * BLOCK_PAGES).min(page_count);
        if step > 0 {
            gfns.extend(pages.skip(numbers.below(8) as usize).step_by(step));
        }
    }
    gfns
}

/// Ends the writers, also when a check fails: the scope waits for them.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Captures `rounds` times while threads write wherever they like; every page must be what it was at its boundary.
fn hammer(ram: &Ram, capture: &mut CopyOnWrite, rounds: usize) {
    const WRITERS: u64 = 2;
    let (gate, ended) = (RwLock::new(()), AtomicBool::new(false));
    let page_count = ram.bytes() / PAGE_SIZE as u64;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (gate, ended) = (&gate, &ended);
            scope.spawn(move || {
                let mut numbers = Numbers(writer + 1);
                while !ended.load(Ordering::Relaxed) {
                    let entered = gate.read().expect("nobody panics with it");
                    for _ in 0..16 {
                        let address = numbers.below(page_count) * PAGE_SIZE as u64 + numbers.below(512) * 8;
                        ram.memory().write_obj(numbers.0, GuestAddress(address)).expect("inside RAM");
                    }
                    drop(entered);
                }
            });
        }
        let _ends = Ends(&ended);
        let mut numbers = Numbers(99);
        for round in 0..rounds {
            let gfns = dirty_set(&mut numbers, page_count);
            let boundary = gate.write().expect("nobody panics with it");
            let expected = contents(ram, &gfns);
            let pages = capture.capture(ram, gfns.clone());
            drop(boundary);
            // Now and then a fault is the first that the worker hears of a batch.
            if round % 3 > 0 {
                std::thread::yield_now();
            }
            capture.guest_runs();
            // And now and then nobody has read a batch when the next comes.
            if round % 4 > 0 {
                check(&pages, &gfns, &expected, round);
            }
        }
    });
}

/// Faults that a test of theirs must have met.
const FAULTS_MIN: u64 = 100;
/// How often it tries to.
const ATTEMPTS: usize = 20;

fn hammered(kernel: Kernel, mode: CaptureMode) {
    let ram = Ram::new(12 << 20).expect("it fits");
    let Some((mut capture, stats)) = start(kernel, mode, &ram) else { return };
    // How often writers meet armed pages is the scheduler's affair, and where the way is chosen few are armed.
    for _ in 0..ATTEMPTS {
        hammer(&ram, &mut capture, 1000);
        if stats.counts().capture_faults > FAULTS_MIN {
            break;
        }
    }
    let counts = stats.counts();
    assert!(counts.pages_armed > 0, "{counts:?}");
    assert!(counts.capture_faults > FAULTS_MIN, "the writers met armed pages: {counts:?}");
}

#[test]
fn pages_stay_what_they_were_while_threads_write() {
    hammered(Kernel::AsItIs, CaptureMode::CopyOnWrite);
}

#[test]
fn pages_stay_what_they_were_on_a_kernel_before_6_4() {
    hammered(Kernel::Before6_4, CaptureMode::CopyOnWrite);
}

#[test]
fn pages_stay_what_they_were_when_the_way_is_chosen() {
    hammered(Kernel::AsItIs, CaptureMode::Auto);
}

/// Memory of less than a huge page, so that each page is there or not by itself.
fn unpopulated(kernel: Kernel, rounds: u64) {
    for round in 0..rounds {
        let ram = Ram::new(1 << 20).expect("it fits");
        let Some((mut capture, stats)) = start(kernel, CaptureMode::CopyOnWrite, &ram) else { return };
        let touched = |gfn: &u64| round % 2 == 0 || gfn % 3 == round % 3;
        (0..256).filter(touched).for_each(|gfn| assert!(ram.write_page(gfn, &[7; PAGE_SIZE])));
        let gfns: Vec<u64> = (0..256).collect();
        let pages = capture.capture(&ram, gfns);
        for gfn in 0..256 {
            ram.memory().write_obj(9u64, GuestAddress(gfn * 4096 + 16)).expect("inside RAM");
        }
        capture.guest_runs();
        for (gfn, page) in pages.iter() {
            let expected = [if touched(&gfn) { 7 } else { 0 }; PAGE_SIZE];
            assert!(*page == expected, "round {round}: page {gfn} is not what it was at the boundary");
        }
        let all_armed = kernel == Kernel::AsItIs || round % 2 == 0;
        assert_eq!(stats.counts().pages_armed, if all_armed { 256 } else { 0 });
    }
}

#[test]
fn pages_that_were_never_touched_are_captured_as_zeroes() {
    unpopulated(Kernel::AsItIs, 40);
}

#[test]
fn pages_that_were_never_touched_are_captured_as_zeroes_on_a_kernel_before_6_4() {
    unpopulated(Kernel::Before6_4, 40);
}

fn filled() -> (Ram, Vec<u64>) {
    let ram = Ram::new(8 << 20).expect("it fits");
    (0..2048).for_each(|gfn| assert!(ram.write_page(gfn, &[3; PAGE_SIZE])));
    (ram, (100..1800).collect())
}

#[test]
fn a_device_that_writes_to_an_armed_page_waits_for_its_copy() {
    let (ram, gfns) = filled();
    let Some((mut capture, stats)) = start(Kernel::AsItIs, CaptureMode::CopyOnWrite, &ram) else { return };
    let pages = capture.capture(&ram, gfns.clone());
    assert_eq!(stats.counts().capture_faults, 0, "nothing was written, and the worker was not woken");
    ram.memory().write_slice(&[5; 3 * PAGE_SIZE], GuestAddress(600 * 4096)).expect("inside RAM");
    // Whether the write's fault is seen as one, or finds the block released right then, is not said.
    assert!(stats.counts().pages_armed > 0, "nothing was protected");
    assert_eq!(contents(&ram, &[601]), [[5; PAGE_SIZE]]);
    capture.guest_runs();
    check(&pages, &gfns, &vec![[3; PAGE_SIZE]; gfns.len()], 0);
}

#[test]
fn the_kernel_that_writes_to_an_armed_page_waits_for_its_copy() {
    let (ram, gfns) = filled();
    let Some((mut capture, stats)) = start(Kernel::AsItIs, CaptureMode::CopyOnWrite, &ram) else { return };
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&[6; 2 * PAGE_SIZE]).expect("room for two pages");
    file.seek(SeekFrom::Start(0)).expect("a file");
    let pages = capture.capture(&ram, gfns.clone());
    let read = ram.memory().read_exact_volatile_from(GuestAddress(700 * 4096), &mut file, 2 * PAGE_SIZE);
    read.expect("the file has two pages");
    assert!(stats.counts().pages_armed > 0, "nothing was protected");
    assert_eq!(contents(&ram, &[701]), [[6; PAGE_SIZE]]);
    capture.guest_runs();
    check(&pages, &gfns, &vec![[3; PAGE_SIZE]; gfns.len()], 0);
}

#[test]
fn dropped_capture_finishes_its_copies_and_protects_nothing() {
    let (ram, gfns) = filled();
    let Some((mut capture, stats)) = start(Kernel::AsItIs, CaptureMode::CopyOnWrite, &ram) else { return };
    let pages = capture.capture(&ram, gfns.clone());
    drop(capture);
    gfns.iter().for_each(|gfn| assert!(ram.write_page(*gfn, &[4; PAGE_SIZE])));
    assert_eq!(stats.counts().capture_faults, 0);
    check(&pages, &gfns, &vec![[3; PAGE_SIZE]; gfns.len()], 0);
}

#[test]
fn next_capture_finishes_the_one_before() {
    let (ram, gfns) = filled();
    let Some((mut capture, _)) = start(Kernel::AsItIs, CaptureMode::CopyOnWrite, &ram) else { return };
    let first = capture.capture(&ram, gfns.clone());
    let second = capture.capture(&ram, gfns.clone());
    ram.write_page(150, &[4; PAGE_SIZE]);
    capture.guest_runs();
    check(&first, &gfns, &vec![[3; PAGE_SIZE]; gfns.len()], 0);
    check(&second, &gfns, &vec![[3; PAGE_SIZE]; gfns.len()], 1);
}

#[test]
fn memory_that_cannot_be_protected_is_copied_in_the_pause() {
    let (ram, gfns) = filled();
    let Some((mut capture, stats)) = start(Kernel::AsItIs, CaptureMode::CopyOnWrite, &ram) else { return };
    let region = &ram.regions()[0];
    capture.shared.uffd.unregister(region.host_address(), region.bytes).expect("it was registered");
    for round in 0..2 {
        let pages = capture.capture(&ram, gfns.clone());
        gfns.iter().for_each(|gfn| assert!(ram.write_page(*gfn, &[4 + round; PAGE_SIZE])));
        check(&pages, &gfns, &vec![[3 + round; PAGE_SIZE]; gfns.len()], round.into());
    }
    assert!(capture.shared.is_broken());
    assert_eq!(stats.counts().pages_armed, 0);
}

#[test]
fn part_that_cannot_be_protected_is_copied_in_the_pause_and_nobody_hangs() {
    let (ram, gfns) = filled();
    let Some((mut capture, stats)) = start(Kernel::AsItIs, CaptureMode::CopyOnWrite, &ram) else { return };
    // A run is protected up to its hole: its first half is protected when the error comes.
    let region = &ram.regions()[0];
    capture.shared.uffd.unregister(region.host_address() + (4 << 20), 4 << 20).expect("it was registered");
    capture.shared.uffd.protect(region.host_address(), 4 << 20).expect("it is registered");
    let pages = capture.capture(&ram, gfns.clone());
    gfns.iter().for_each(|gfn| assert!(ram.write_page(*gfn, &[4; PAGE_SIZE])));
    capture.guest_runs();
    check(&pages, &gfns, &vec![[3; PAGE_SIZE]; gfns.len()], 0);
    assert_eq!(stats.counts().pages_armed, 0);
}
