//! What wakes a thread that waits in `poll`: a bell, and messages with one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::{EventfdFlags, eventfd};

/// Readable, as a descriptor, from when it was rung until it is silenced. Clones are the same bell.
#[derive(Debug, Clone)]
pub(crate) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)))
    }

    pub(crate) fn ring(&self) {
        let rung = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
        rung.expect("a bell that nobody hears 2^64 times is not heard any more");
    }

    /// What is rung for is looked for after this.
    pub(crate) fn silence(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The loop's end. Readable, as a descriptor, while there may be messages.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    messages: Receiver<T>,
    postbox: Postbox<T>,
}

/// A worker's end.
#[derive(Debug)]
pub(crate) struct Postbox<T> {
    sender: Sender<T>,
    bell: Bell,
}

impl<T> Clone for Postbox<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: self.bell.clone() }
    }
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> io::Result<Self> {
        let (sender, messages) = channel();
        Ok(Self { messages, postbox: Postbox { sender, bell: Bell::new()? } })
    }

    pub(crate) fn postbox(&self) -> Postbox<T> {
        self.postbox.clone()
    }

    /// The next message. When there is none, the bell is silent until one comes.
    pub(crate) fn take(&self) -> Option<T> {
        self.messages.try_recv().ok().or_else(|| {
            // A message that came since then has rung before this or rings after it; so it is looked for once more.
            self.postbox.bell.silence();
            self.messages.try_recv().ok()
        })
    }
}

impl<T> AsFd for Mailbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.postbox.bell.as_fd()
    }
}

impl<T> Postbox<T> {
    /// Posts a message. Without a loop there is nobody to tell.
    pub(crate) fn post(&self, message: T) {
        if self.sender.send(message).is_ok() {
            self.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_readable(mailbox: &Mailbox<u32>) -> bool {
        let mut fds = [PollFd::new(mailbox, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("polled") == 1
    }

    #[test]
    fn mailbox_is_readable_while_messages_wait_and_gives_them_in_order() {
        let mailbox = Mailbox::new().expect("a descriptor is free");
        assert!(!is_readable(&mailbox));
        let postbox = mailbox.postbox();
        (0..3).for_each(|n| postbox.post(n));
        assert_eq!(mailbox.take(), Some(0));
        assert!(is_readable(&mailbox));
        postbox.post(3);
        let rest: Vec<u32> = std::iter::from_fn(|| mailbox.take()).collect();
        assert_eq!((rest, is_readable(&mailbox)), (vec![1, 2, 3], false));
    }
}
