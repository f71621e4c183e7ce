//! What else the host has: taps, memory, time.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::statvfs;

use super::{Check, State};
use crate::config::format_size;
use machine::memory::uffd::Uffd;

/// The default guest, and room for its logs.
const MEMORY_WANTED_BYTES: u64 = 768 << 20;

pub(super) fn checks() -> Vec<Check> {
    vec![tun(), uffd(Uffd::open().map(|uffd| uffd.protects_unpopulated())), memory(), shm(), clock()]
}

fn tun() -> Check {
    const NAME: &str = "/dev/net/tun";
    const WHY: &str = "a guest with --net needs it: its network interface is a tap";
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Check::ok(NAME, "there"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Check::lacks(State::Note, NAME, "no permission", WHY)
                .with_remedy("`chmod 0666 /dev/net/tun`, or run as root")
        }
        Err(error) => Check::lacks(State::Note, NAME, error.to_string(), WHY).with_remedy("`modprobe tun`"),
    }
}

fn uffd(made: io::Result<bool>) -> Check {
    const NAME: &str = "userfaultfd";
    match made {
        Ok(true) => Check::ok(NAME, "there"),
        Ok(false) => {
            Check::ok(NAME, "there, as before Linux 6.4: pages that were never touched are copied in the pause")
        }
        Err(error) => Check::lacks(
            State::Note,
            NAME,
            error.to_string(),
            "without it all pages that an epoch wrote are copied in its pause",
        )
        .with_remedy("run as root, or `sysctl vm.unprivileged_userfaultfd=1`"),
    }
}

fn memory() -> Check {
    const NAME: &str = "memory";
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available_bytes(&meminfo) {
        Some(bytes) if bytes >= MEMORY_WANTED_BYTES => Check::ok(NAME, format!("{} available", rounded(bytes))),
        Some(bytes) => room(NAME, bytes, "end something, or run smaller guests"),
        None => Check::lacks(State::Note, NAME, "unknown", "guests need it"),
    }
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn shm() -> Check {
    const NAME: &str = "/dev/shm";
    match statvfs(Path::new(NAME)) {
        Ok(fs) => {
            let free = fs.f_bavail.saturating_mul(fs.f_frsize);
            match free >= MEMORY_WANTED_BYTES {
                true => Check::ok(NAME, format!("{} free", rounded(free))),
                false => room(NAME, free, "`mount -o remount,size=75% /dev/shm`, or --state-dir elsewhere"),
            }
        }
        Err(error) => Check::lacks(State::Note, NAME, error.to_string(), "state directories are kept there")
            .with_remedy("give --state-dir on another tmpfs"),
    }
}

fn room(name: &str, bytes: u64, remedy: &str) -> Check {
    let found = format!("{} free", rounded(bytes));
    let why = format!("a guest of 512M and its logs need {}", format_size(MEMORY_WANTED_BYTES));
    Check::lacks(State::Note, name, found, why).with_remedy(remedy)
}

fn rounded(bytes: u64) -> String {
    format!("{}M", bytes >> 20)
}

/// Whether the TSC may be relied on from one CPU to the next.
fn clock() -> Check {
    const NAME: &str = "clock source";
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = fs::read_to_string(path).unwrap_or_default();
    match source.trim() {
        stable @ ("tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page") => Check::ok(NAME, stable),
        other => {
            let found = if other.is_empty() { "unknown" } else { other };
            Check::lacks(
                State::Note,
                NAME,
                found,
                "the TSC is not stable here: the guest's clock may jump between CPUs",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_bytes_reads_the_kernels_line() {
        let text = "MemTotal:       100 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available_bytes(text), Some(2 << 20));
        assert_eq!(available_bytes("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn uffd_refused_is_a_note_with_a_remedy() {
        let check = uffd(Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(check.state, State::Note);
        assert!(check.remedy.expect("a remedy").contains("unprivileged_userfaultfd"));
    }
}
