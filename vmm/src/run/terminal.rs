//! The terminal as the guest's console: raw, so that Ctrl-C and the arrow keys reach the guest.
//!
//! Ctrl-A X ends the VM, Ctrl-A Ctrl-A sends one Ctrl-A: the keys that people know from other monitors.

use std::io::{self, IsTerminal, Read, Stdin};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::node::Node;

const PREFIX: u8 = 0x01;

/// Standard input, raw if it is a terminal. Dropping it gives the terminal back as it was.
pub(super) struct Terminal {
    stdin: Stdin,
    cooked: Option<Termios>,
}

impl Terminal {
    /// Takes standard input.
    pub(super) fn take() -> Self {
        let stdin = io::stdin();
        let cooked = if stdin.is_terminal() { tcgetattr(&stdin).ok() } else { None };
        if let Some(before) = &cooked {
            let mut raw = before.clone();
            raw.make_raw();
            // Output stays cooked: bare guests and our own log end lines with a newline alone.
            raw.output_modes = before.output_modes;
            if let Err(error) = tcsetattr(&stdin, OptionalActions::Now, &raw) {
                tracing::warn!(%error, "the terminal stays in line mode");
            }
            eprintln!("outlast: console attached; Ctrl-A X ends the VM");
        }
        Self { stdin, cooked }
    }

    /// What the guest gets of it; the keys for us go to `node`.
    pub(super) fn input(&self, node: Arc<Node>) -> ConsoleInput {
        ConsoleInput { stdin: io::stdin(), keys: self.cooked.is_some().then(Keys::default), node }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(cooked) = &self.cooked
            && let Err(error) = tcsetattr(&self.stdin, OptionalActions::Now, cooked)
        {
            tracing::warn!(%error, "the terminal could not be given back; `reset` does it");
        }
    }
}

/// Bytes for the guest, without the keys that are ours.
pub(super) struct ConsoleInput {
    stdin: Stdin,
    keys: Option<Keys>,
    node: Arc<Node>,
}

impl AsFd for ConsoleInput {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }
}

impl Read for ConsoleInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Not through std's buffer: what stays in it is not seen by whoever polls the descriptor.
        let count = rustix::io::read(&self.stdin, &mut *buffer)?;
        let Some(keys) = &mut self.keys else { return Ok(count) };
        let (kept, end) = keys.filter(&mut buffer[..count]);
        if end {
            self.node.stop();
        }
        // Nothing left is not the end of the input.
        if kept == 0 && count > 0 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(kept) }
    }
}

/// Tells our keys from the guest's.
#[derive(Debug, Default)]
struct Keys {
    prefixed: bool,
}

impl Keys {
    /// Moves the guest's bytes to the front; gives how many, and whether the VM is to end.
    fn filter(&mut self, bytes: &mut [u8]) -> (usize, bool) {
        let (mut kept, mut end) = (0, false);
        for index in 0..bytes.len() {
            let byte = bytes[index];
            if !self.prefixed && byte == PREFIX {
                self.prefixed = true;
                continue;
            }
            let ours = std::mem::take(&mut self.prefixed) && byte != PREFIX;
            if ours {
                end |= byte.eq_ignore_ascii_case(&b'x');
            } else {
                bytes[kept] = byte;
                kept += 1;
            }
        }
        (kept, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(keys: &mut Keys, text: &[u8]) -> (Vec<u8>, bool) {
        let mut bytes = text.to_vec();
        let (kept, end) = keys.filter(&mut bytes);
        (bytes[..kept].to_vec(), end)
    }

    #[test]
    fn keys_of_the_guest_pass_and_ctrl_c_is_one_of_them() {
        assert_eq!(filtered(&mut Keys::default(), b"ls\r\x03"), (b"ls\r\x03".to_vec(), false));
    }

    #[test]
    fn prefix_x_ends_also_when_it_comes_in_two_reads() {
        let mut keys = Keys::default();
        assert_eq!(filtered(&mut keys, b"a\x01"), (b"a".to_vec(), false));
        assert_eq!(filtered(&mut keys, b"xb"), (b"b".to_vec(), true));
    }

    #[test]
    fn prefix_twice_gives_one_to_the_guest() {
        assert_eq!(filtered(&mut Keys::default(), b"\x01\x01x"), (b"\x01x".to_vec(), false));
    }
}
