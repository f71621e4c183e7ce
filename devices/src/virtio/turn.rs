//! A turn: how much a device does for its guest before others get theirs.
//!
//! A guest decides how much work one kick is: a ring can lengthen itself, or hold requests for gigabytes. Meanwhile the caller
//! holds what others need: the lock of all devices, a vCPU that is to come to a boundary. So it lends a turn with each
//! `handle_*` that serves a queue. When the turn is over the device stops between two requests and owes the rest
//! ([`super::mmio::MmioTransport::owes_work`]): the caller lets others have theirs and comes back with a new one. What is owed
//! is derived from the rings: a restore makes every queue of a running device owe a kick.

/// Most requests of one turn, requests without a buffer included: two rings of the longest queue. A frame that needs several buffers of
/// the guest counts as several, and begins only before this.
pub const REQUESTS_MAX: u32 = 512;
/// Bytes after which nothing more is moved, but for what is moved at once: a frame, or a piece of a disk's request
/// ([`COPY_BYTES`](super::block::COPY_BYTES)).
pub const BYTES_MAX: u64 = 8 << 20;

/// Those who want what the device's caller holds. The clock is theirs: the device has none.
pub trait Others {
    /// Whether they want it now, after so many requests of this turn. Asked before each request, and between the pieces of one.
    fn want_it(&mut self, requests: u32) -> bool;
}

impl<F: FnMut(u32) -> bool> Others for F {
    fn want_it(&mut self, requests: u32) -> bool {
        self(requests)
    }
}

/// What a device may still do.
pub struct Turn<'a> {
    requests: u32,
    bytes: u64,
    is_over: bool,
    others: &'a mut dyn Others,
}

impl std::fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { requests, bytes, is_over, others: _ } = self;
        f.debug_struct("Turn").field("requests", requests).field("bytes", bytes).field("is_over", is_over).finish()
    }
}

impl<'a> Turn<'a> {
    /// A turn that ends at its bounds, or when `others` say so.
    pub fn new(others: &'a mut dyn Others) -> Self {
        Self { requests: 0, bytes: 0, is_over: false, others }
    }

    /// Whether another request may begin; it then counts. Once it may not, the turn is over.
    pub(crate) fn begins(&mut self) -> bool {
        let at_bound = self.requests >= REQUESTS_MAX || self.bytes >= BYTES_MAX;
        self.is_over = self.is_over || at_bound || self.others.want_it(self.requests);
        self.requests += u32::from(!self.is_over);
        !self.is_over
    }

    /// Whether the request that began last may go on now that a piece of it is done. Once it may not, the turn is over, and the
    /// request goes on in another one.
    pub(crate) fn goes_on(&mut self) -> bool {
        let before_it = self.requests.saturating_sub(1);
        self.is_over = self.is_over || self.bytes >= BYTES_MAX || self.others.want_it(before_it);
        !self.is_over
    }

    /// The request that began last counts as one more.
    pub(crate) fn counts_again(&mut self) {
        self.requests += 1;
    }

    /// So many bytes are moved for the request that began last.
    pub(crate) fn spend(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether a request was refused: nothing more is served.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}
