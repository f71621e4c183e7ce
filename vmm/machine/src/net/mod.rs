//! The network of this host: taps, and the frames that announce a guest on them.
//!
//! Not here: what the guest sees of it, which is the virtio device's business.

mod announce;
mod tap;
mod tun_ioctl;

pub use announce::{ANNOUNCE_BYTES, gratuitous_arp, rarp};
pub use tap::{Tap, TapError};
