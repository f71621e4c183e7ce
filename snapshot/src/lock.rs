//! A lock on an image file that no other virtual machine shares.
//!
//! It is an open-file-description lock over the whole file: it belongs to the open file and not to the process, dies
//! with it however the process ends, and is seen by the byte locks that QEMU and Cloud Hypervisor take. It holds on one host;
//! across hosts only the witness decides who runs.
//!
//! Unsafe is allowed here for one `fcntl`, which neither std nor rustix offers.
#![allow(unsafe_code, reason = "F_OFD_SETLK has no safe wrapper")]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// Takes the lock or says at once that another holds it: `Ok(false)`.
pub(crate) fn try_lock(file: &File, exclusive: bool) -> io::Result<bool> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and `range` is a valid `flock` that the kernel
    // only reads during the call.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &range) };
    if rc == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Who holds a lock on the file, as `name (pid N)`, where `/proc` lets us see it.
///
/// The kernel reports no process for such locks; but the lock is listed with the descriptor in the holder's `fdinfo`.
pub(crate) fn holder(file: &File) -> Option<String> {
    let inode = format!(":{} ", file.metadata().ok()?.ino());
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find(|pid| holds_lock(*pid, &inode)).map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{} (pid {pid})", name.trim())
    })
}

fn holds_lock(pid: u32, inode: &str) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    entries.flatten().any(|entry| {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        text.lines().any(|line| line.starts_with("lock:") && line.contains(inode))
    })
}
