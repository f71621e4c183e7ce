//! A tap device of this host: frames out of the guest go in, frames for the guest come out.
//!
//! One frame per read and per write, behind the header of virtio-net: the kernel finishes what the guest left to it, and leaves to the
//! guest what the guest agreed to ([`Tap::set_offloads`]). It never blocks. Taps are made by the administrator, not
//! here: opening one that is missing would make it, so it is looked for first.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::virtio::net::{HEADER_BYTES, Offloads};

use super::tun_ioctl::{attach, cut_carrier, find, set_header, set_offloads};

/// A tap that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// There is no such interface.
    #[error("there is no tap {0} in this network namespace")]
    NotThere(String),
    /// The interface is another kind.
    #[error("interface {0} is not a tap for whole frames")]
    NotATap(String),
    /// The tap was made for several queues.
    #[error("tap {0} has several queues (`multi_queue`), and a network card of this version has one")]
    MultiQueue(String),
    /// Another process has it.
    #[error("tap {tap} is in use{by}", by = holder.as_ref().map(|h| format!(" by {h}")).unwrap_or_default())]
    Busy {
        /// The tap.
        tap: String,
        /// Who, where `/proc` lets us see it.
        holder: Option<String>,
    },
    /// We may not use it.
    #[error("no permission to use tap {0}")]
    Permission(String),
    /// The kernel's taps lack what a network card of this version needs.
    #[error("tap {tap} cannot have the headers and offloads of virtio-net")]
    NoOffloads {
        /// The tap.
        tap: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else.
    #[error("cannot open tap {tap}")]
    Open {
        /// The tap.
        tap: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An open tap. It is ours until it is dropped.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    /// Nothing passes any more.
    is_cut: AtomicBool,
}

impl Tap {
    /// Opens the tap called `name`, which must exist.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let found = find(name).map_err(|source| TapError::Open { tap: name.into(), source })?;
        let there = found.ok_or_else(|| TapError::NotThere(name.into()))?;
        if !there.is_tap {
            return Err(TapError::NotATap(name.into()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|error| refused(name, error))?;
        attach(&file, name).map_err(|error| refused(name, error))?;
        // If it went away in between, the kernel has made another one for us, which ends with the descriptor.
        if find(name).ok().flatten() != Some(there) {
            return Err(TapError::NotThere(name.into()));
        }
        prepare(&file).map_err(|source| TapError::NoOffloads { tap: name.into(), source })?;
        Ok(Tap { file, name: name.into(), is_cut: AtomicBool::new(false) })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Pulls the cable, for good: what is behind the tap sees no carrier, and no frame passes from here on. One that another
    /// thread is writing may still do so. The next one to open the tap has a carrier again.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        if let Err(error) = cut_carrier(&self.file) {
            tracing::warn!(tap = self.name, %error, "the tap keeps its carrier until this process ends; nothing is sent on it");
        }
    }

    /// The reader finishes so much of the frames that come from now on. Those that wait already are as they are.
    pub fn set_offloads(&self, offloads: Offloads) {
        // The kernel has taken all of them when the tap was opened.
        if let Err(error) = set_offloads(&self.file, bits(offloads)) {
            tracing::warn!(tap = self.name, %error, "frames for the guest have other offloads than it agreed to, and may be dropped");
        }
    }

    /// The next packet for the guest, header and frame, into `packet`; `None` when there is none now. A longer one is cut by the
    /// kernel.
    pub fn receive(&self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        if self.is_cut() {
            return Ok(None);
        }
        not_now((&self.file).read(packet))
    }

    /// Sends one packet, header and frame. `false` when the tap takes none now (its queue is full), is down or was cut: the frame is lost, as on
    /// a wire.
    pub fn send(&self, packet: &[u8]) -> io::Result<bool> {
        if self.is_cut() {
            return Ok(false);
        }
        match not_now((&self.file).write(packet)) {
            // A tap that is down.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(false),
            other => Ok(other?.is_some()),
        }
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Headers, and no offloads: nobody has agreed to any. That the kernel has all of them is found here, and not when a guest agrees.
fn prepare(file: &File) -> io::Result<()> {
    set_header(file, HEADER_BYTES)?;
    set_offloads(file, bits(Offloads { checksum: true, tcp4: true, tcp6: true, ecn: true }))?;
    set_offloads(file, 0)
}

fn bits(offloads: Offloads) -> u32 {
    let Offloads { checksum, tcp4, tcp6, ecn } = offloads;
    let bit = |has, bit| if has { bit } else { 0 };
    bit(checksum, libc::TUN_F_CSUM)
        | bit(tcp4, libc::TUN_F_TSO4)
        | bit(tcp6, libc::TUN_F_TSO6)
        | bit(ecn, libc::TUN_F_TSO_ECN)
}

fn not_now(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

fn refused(name: &str, source: io::Error) -> TapError {
    match source.raw_os_error() {
        Some(libc::EBUSY) => TapError::Busy { tap: name.into(), holder: holder(name) },
        Some(libc::EPERM | libc::EACCES) => TapError::Permission(name.into()),
        // It is a tap: what the kernel refuses so is the number of its queues.
        Some(libc::EINVAL) => TapError::MultiQueue(name.into()),
        _ => TapError::Open { tap: name.into(), source },
    }
}

/// Who has the tap open, as `name (pid N)`: its name is in the `fdinfo` of the descriptor.
///
/// Only processes of our own network namespace are asked: a tap of the same name in another one is another tap.
fn holder(tap: &str) -> Option<String> {
    let line = format!("iff:\t{tap}");
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let ours = namespace("self")?;
    let pids = std::fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let mut here = pids.filter(|pid| namespace(&pid.to_string()).as_ref() == Some(&ours));
    here.find(|pid| has_fdinfo_line(*pid, &line)).map(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{} (pid {pid})", name.trim())
    })
}

fn has_fdinfo_line(pid: u32, line: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    entries.flatten().any(|entry| {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        text.lines().any(|have| have == line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_missing_tap_is_not_found_and_is_not_made() {
        let error = Tap::open("ol-none0").expect_err("missing");
        assert!(matches!(error, TapError::NotThere(_)));
        assert_eq!(find("ol-none0").expect("asked"), None);
    }

    #[test]
    fn open_loopback_is_not_a_tap() {
        assert!(matches!(Tap::open("lo"), Err(TapError::NotATap(_))));
    }

    #[test]
    fn refused_errno_becomes_the_matching_error() {
        let of = |errno| refused("tap0", io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::EBUSY), TapError::Busy { .. }));
        assert!(matches!(of(libc::EPERM), TapError::Permission(_)));
        assert!(matches!(of(libc::EINVAL), TapError::MultiQueue(_)));
        assert!(matches!(of(libc::ENODEV), TapError::Open { .. }));
    }
}
