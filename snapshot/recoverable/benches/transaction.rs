//! What a small transaction costs over plain stores on tmpfs, in processor time of this thread.
//!
//! `cargo bench -p recoverable` prints medians of seven rounds; the peers are in `outlast bench recoverable`.
#![expect(unsafe_code, reason = "std has no clock of a thread's processor time")]

use recoverable::{PersistentRegion, RegionId, Survives, Vista, VistaOptions};

const LEN: usize = 50 << 20;
const COUNT: u64 = 1_000_000;
const ROUNDS: usize = 7;

fn processor_ns() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn mix(n: u64) -> usize {
    let z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((z ^ (z >> 29)) >> 20) as usize
}

fn near(n: u64) -> usize {
    n as usize % 512 * 8
}

fn far(n: u64) -> usize {
    mix(n) % (LEN / 8) * 8
}

fn median(mut once: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begin = processor_ns();
            once();
            (processor_ns() - begin) / COUNT as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn plain(bytes: &mut [u8], place: fn(u64) -> usize) -> f64 {
    median(|| {
        for n in 0..COUNT {
            let at = place(n);
            bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
            std::hint::black_box(&mut *bytes);
        }
    })
}

fn transactions(vista: &mut Vista, region: RegionId, place: fn(u64) -> usize) -> f64 {
    median(|| {
        for n in 0..COUNT {
            let at = place(n);
            let mut transaction = vista.begin().unwrap();
            transaction.set_range(region, at..at + 8).unwrap().copy_from_slice(&n.to_le_bytes());
            transaction.end().unwrap();
        }
    })
}

fn main() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut region = PersistentRegion::open(dir.path().join("plain"), LEN, Survives::ProcessDeath).unwrap();
    region.bytes_mut().fill(1);
    let data = dir.path().join("vista");
    PersistentRegion::open(&data, LEN, Survives::ProcessDeath).unwrap().bytes_mut().fill(1);
    let mut vista = Vista::open(dir.path().join("log"), VistaOptions::default()).unwrap();
    let id = vista.map(&data, LEN).unwrap();
    let empty = median(|| (0..COUNT).for_each(|_| vista.begin().unwrap().end().unwrap()));
    println!("begin and end: {empty:.1} ns");
    for (name, place) in [("4 KiB", near as fn(u64) -> usize), ("50 MiB", far)] {
        let (store, transaction) = (plain(region.bytes_mut(), place), transactions(&mut vista, id, place));
        let over = transaction - store;
        println!(
            "8 bytes anywhere in {name}: plain {store:.1} ns, transaction {transaction:.1} ns, over it {over:.1} ns"
        );
    }
}
