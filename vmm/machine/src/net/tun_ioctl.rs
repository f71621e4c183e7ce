//! The ioctls of a tap: whether it is there, binding a descriptor of `/dev/net/tun` to it, its headers, its offloads, its carrier.
//!
//! Interfaces are asked for through a socket, which sees those of this process's network namespace. `/sys` may be the
//! one of another namespace: it shows the namespace of the process that mounted it.
#![expect(unsafe_code, reason = "TUNSETIFF, its kin, SIOCGIFINDEX and SIOCETHTOOL have no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

/// `_IOW('T', 202, int)`, as linux/if_tun.h has it.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// `_IOW('T', 208, unsigned int)`.
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
/// `_IOW('T', 216, int)`.
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
/// `_IOW('T', 220, int)`.
const TUNSETVNETLE: libc::Ioctl = 0x4004_54dc;
/// `_IOW('T', 226, int)`, since Linux 5.0; older kernels are not supported.
const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2;
/// `ETHTOOL_GDRVINFO`, as linux/ethtool.h has it.
const ETHTOOL_GDRVINFO: u32 = 3;

/// `struct ethtool_drvinfo` of linux/ethtool.h.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    version: [u8; 32],
    fw_version: [u8; 32],
    bus_info: [u8; 32],
    erom_version: [u8; 32],
    reserved2: [u8; 12],
    counts: [u32; 5],
}

/// What an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    /// Its number, which no other one of this namespace has.
    pub(super) index: i32,
    /// Whether its driver says that it passes whole frames of a process.
    pub(super) is_tap: bool,
}

/// The interface called `name` in this process's network namespace, if there is one.
pub(super) fn find(name: &str) -> io::Result<Option<Interface>> {
    // A name that no interface can have.
    let Ok(mut request) = request_for(name) else { return Ok(None) };
    let socket = UnixDatagram::unbound()?;
    // SAFETY: the socket is open; `request` is a whole `ifreq` with a terminated name, which the kernel changes only within
    // and only during the call.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX as libc::Ioctl, &mut request) };
    if rc != 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENODEV) { Ok(None) } else { Err(error) };
    }
    // SAFETY: the kernel has filled in the index; all bits of it are a number.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    Ok(Some(Interface { index, is_tap: is_tap(&socket, name) }))
}

/// Whether the driver of interface `name` says that it is a tap. One that says nothing is none.
fn is_tap(socket: &UnixDatagram, name: &str) -> bool {
    let Ok(mut request) = request_for(name) else { return false };
    let mut info = DriverInfo {
        cmd: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        fw_version: [0; 32],
        bus_info: [0; 32],
        erom_version: [0; 32],
        reserved2: [0; 12],
        counts: [0; 5],
    };
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: the socket is open; `request` is a whole `ifreq` that points to a whole `ethtool_drvinfo`, and the kernel writes
    // only within the two, during the call.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &mut request) };
    rc == 0 && info.driver.starts_with(b"tun\0") && info.bus_info.starts_with(b"tap\0")
}

/// A request about the interface called `name`, with nothing else in it.
fn request_for(name: &str) -> io::Result<libc::ifreq> {
    if name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut request =
        libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 } };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// Binds `file` to the tap called `name`: whole frames, each behind a header of virtio-net.
pub(super) fn attach(file: &File, name: &str) -> io::Result<()> {
    let mut request = request_for(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; `request` is a whole `ifreq` with a terminated
    // name, and the kernel writes only within it and only during the call.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &mut request) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The header before each frame has so many bytes, little-endian.
pub(super) fn set_header(file: &File, bytes: usize) -> io::Result<()> {
    set_by_address(file, TUNSETVNETHDRSZ, bytes as libc::c_int)?;
    set_by_address(file, TUNSETVNETLE, 1)
}

/// What the reader of `file` finishes of the frames that it reads: `TUN_F_…` bits.
pub(super) fn set_offloads(file: &File, bits: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the argument is a number, not an address.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(bits)) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the carrier away that what is behind the tap of `file` sees.
pub(super) fn cut_carrier(file: &File) -> io::Result<()> {
    set_by_address(file, TUNSETCARRIER, 0)
}

/// A request whose argument is the address of an `int`.
fn set_by_address(file: &File, request: libc::Ioctl, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the kernel only reads `value`, during the call.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), request, &value) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
