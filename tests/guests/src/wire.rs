//! The wire between a primary and a backup, in the hands of a test: what either says can be held back.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::wait;

/// Passes connections on to a backup.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    holds_answers: Arc<AtomicBool>,
    holds_requests: Arc<AtomicBool>,
}

impl Wire {
    /// A wire to the backup at `port` of this host.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let ours = listener.local_addr().expect("it is bound").port();
        let wire = Self { port: ours, holds_answers: Arc::default(), holds_requests: Arc::default() };
        let (answers, requests) = (Arc::clone(&wire.holds_answers), Arc::clone(&wire.holds_requests));
        thread::spawn(move || {
            for primary in listener.incoming() {
                let primary = primary.expect("a primary connects");
                // One that has ended is not there any more.
                let Ok(backup) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (from, to) = (backup.try_clone().expect("a socket"), primary.try_clone().expect("a socket"));
                let (answers, requests) = (Arc::clone(&answers), Arc::clone(&requests));
                thread::spawn(move || pass(from, to, &answers));
                thread::spawn(move || pass(primary, backup, &requests));
            }
        });
        wire
    }

    /// Where the primary is to connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on the primary hears nothing of the backup, which hears everything.
    pub fn hold_answers(&self) {
        self.holds_answers.store(true, Ordering::SeqCst);
    }

    /// From now on the backup hears nothing of the primary, which hears everything.
    pub fn hold_requests(&self) {
        self.holds_requests.store(true, Ordering::SeqCst);
    }

    /// What was held arrives, and all that follows.
    pub fn let_go(&self) {
        self.holds_answers.store(false, Ordering::SeqCst);
        self.holds_requests.store(false, Ordering::SeqCst);
    }
}

/// Passes bytes on until either side closes; waits while they are held.
fn pass(mut from: TcpStream, mut to: TcpStream, held: &AtomicBool) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if held.load(Ordering::SeqCst) {
            // Longer than any test: what is held never arrives, unless the test lets it.
            wait::until_within(10 * wait::PATIENCE, || (!held.load(Ordering::SeqCst)).then_some(()));
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // The other side may have closed before.
    drop(to.shutdown(Shutdown::Both));
}
