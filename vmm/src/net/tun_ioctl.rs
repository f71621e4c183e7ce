//! The ioctls of a tap: binding a descriptor of `/dev/net/tun` to it, and its carrier.
#![expect(unsafe_code, reason = "TUNSETIFF and TUNSETCARRIER have no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `_IOW('T', 202, int)`, as linux/if_tun.h has it.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// `_IOW('T', 226, int)`, since Linux 5.0; older kernels are not supported.
const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2;

/// Binds `file` to the tap called `name`: whole frames, no header in front.
pub(super) fn attach(file: &File, name: &str) -> io::Result<()> {
    if name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the descriptor is open for as long as `file` is borrowed; `request` is a whole `ifreq` with a terminated
    // name, and the kernel writes only within it and only during the call.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &mut request) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the carrier away that what is behind the tap of `file` sees.
pub(super) fn cut_carrier(file: &File) -> io::Result<()> {
    let carrier: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the kernel only reads `carrier`, during the call.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETCARRIER, &carrier) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
