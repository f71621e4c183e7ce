//! How long `outlast resume` takes until the restored machine is about to run, over the size of its memory.
//!
//! Each guest is killed and resumed in turn with the others, so that a machine that becomes slow is slow for all of them.
//! The time is the program's own: from its start to the event `resumed`. Needs 11 GiB in /dev/shm.

use guests::place::wait_progress;
use guests::skip::{Need, can_run};
use guests::{Guest, Launch, Place, Vm};
use outlast_api::Occurrence;

/// Sizes of guest memory in MiB.
const SIZES: [u32; 3] = [256, 1024, 8192];
const ROUNDS: usize = 9;

struct Measured {
    place: Place,
    guest: Guest,
    vm: Vm,
    /// Milliseconds.
    times: Vec<f64>,
}

impl Measured {
    fn begin(memory_mib: u32) -> Self {
        let (place, guest) = (Place::in_memory(), Guest { memory_mib, ..Guest::counter() });
        let vm = place.alone("a", &guest).with("--protect", "local").start();
        wait_progress(&vm, &guest, 5);
        Self { place, guest, vm, times: Vec::new() }
    }

    fn kill_and_resume(&mut self) {
        self.vm.kill();
        let round = self.times.len() + 1;
        self.vm = Launch::resume(&self.place.path("a")).start();
        let Occurrence::Resumed { restore_ms, .. } = self.vm.wait_event_again("resumed", round) else {
            unreachable!("its name is that of a resume")
        };
        self.times.push(restore_ms);
        wait_progress(&self.vm, &self.guest, 5);
    }

    fn print(mut self) {
        self.times.sort_by(f64::total_cmp);
        let [min, median, max] = [0, ROUNDS / 2, ROUNDS - 1].map(|at| self.times[at]);
        println!("{:>10} {min:>8.1} {median:>8.1} {max:>8.1}", self.guest.memory_mib);
    }
}

fn main() {
    if !can_run("resume", &[Need::Kvm]) {
        return;
    }
    let mut all = SIZES.map(Measured::begin);
    for _ in 0..ROUNDS {
        all.iter_mut().for_each(Measured::kill_and_resume);
    }
    println!(
        "resume, in ms, {ROUNDS} times each, in turn\n{:>10} {:>8} {:>8} {:>8}",
        "memory/MiB", "min", "median", "max"
    );
    all.into_iter().for_each(Measured::print);
}
