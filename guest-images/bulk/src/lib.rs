//! `net-bulk`: a bare guest that speaks TCP and UDP in bulk, for `outlast bench network`.
//!
//! It is linked with the runtime of the bare guests (../bare/runtime) and follows their rules: CPL 3, no interrupts,
//! drivers that poll, parameters on the command line, text lines on the serial port, and `CORRUPT …` and the end as soon
//! as something is not what it must be. What it serves: ../README.md.

#![no_std]

extern crate alloc;

mod clock;
mod memory;
mod pattern;
mod runtime;
mod services;
mod virtio;

use alloc::vec;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Address};

use clock::Clock;
use services::Services;
use virtio::Net;

/// Frames that are taken in before the services run again.
const FRAMES_A_TURN: usize = 64;
/// Rounds of frames out, one for each socket that has some, before the services run again.
const ROUNDS_A_TURN: usize = 64;

/// Entered once, at CPL 3, with a stack.
#[unsafe(no_mangle)]
extern "C" fn bulk_main() -> ! {
    memory::open(runtime::param(c"heap=", 192) as usize);
    let mut net = Net::open();
    let mut clock = Clock::start();
    let mut config = Config::new(EthernetAddress(net.mac()).into());
    config.random_seed = clock.now().total_micros() as u64;
    let mut interface = Interface::new(config, &mut net, clock.now());
    let ip = Ipv4Address::from_bits(runtime::param_ipv4(c"ip=", 0x0a4d_000a));
    interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(IpAddress::Ipv4(ip), 24)).expect("there is room for one address");
    });
    let mut sockets = SocketSet::new(vec![]);
    let mut services = Services::open(&mut sockets, runtime::param(c"window=", 4096) as usize * 1024);
    runtime::put_line(c"ready khz=", clock.khz());
    loop {
        let now = clock.now();
        interface.poll_maintenance(now);
        for _ in 0..FRAMES_A_TURN {
            if interface.poll_ingress_single(now, &mut net, &mut sockets) == PollIngressSingleResult::None {
                break;
            }
        }
        services.serve(&mut sockets, now);
        for _ in 0..ROUNDS_A_TURN {
            if interface.poll_egress(now, &mut net, &mut sockets) == PollResult::None {
                break;
            }
        }
        net.kick();
        core::hint::spin_loop();
    }
}
