//! The wire between a primary and a backup, in the hands of a test: what the backup says can be held back.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::wait;

/// Passes one connection on to a backup.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    holds_answers: Arc<AtomicBool>,
}

impl Wire {
    /// A wire to the backup at `port` of this host.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let ours = listener.local_addr().expect("it is bound").port();
        let holds_answers = Arc::new(AtomicBool::new(false));
        let holds = Arc::clone(&holds_answers);
        thread::spawn(move || {
            let (primary, _) = listener.accept().expect("a primary connects");
            let backup = TcpStream::connect(("127.0.0.1", port)).expect("a backup listens");
            let (from, to) = (backup.try_clone().expect("a socket"), primary.try_clone().expect("a socket"));
            thread::spawn(move || pass(from, to, &holds));
            pass(primary, backup, &AtomicBool::new(false));
        });
        Self { port: ours, holds_answers }
    }

    /// Where the primary is to connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on the primary hears nothing of the backup, which hears everything.
    pub fn hold_answers(&self) {
        self.holds_answers.store(true, Ordering::SeqCst);
    }
}

/// Passes bytes on until either side closes; waits while they are held.
fn pass(mut from: TcpStream, mut to: TcpStream, held: &AtomicBool) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if held.load(Ordering::SeqCst) {
            // Longer than any test: what is held never arrives.
            wait::until_within(10 * wait::PATIENCE, || (!held.load(Ordering::SeqCst)).then_some(()));
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // The other side may have closed before.
    drop(to.shutdown(Shutdown::Both));
}
