//! Numbers and bytes from the input, in order; zeros when it has ended.

pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn has_more(&self) -> bool {
        !self.rest.is_empty()
    }

    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    pub fn u8(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub fn u16(&mut self) -> u16 {
        u16::from(self.u8()) | u16::from(self.u8()) << 8
    }

    pub fn u64(&mut self) -> u64 {
        let mut number = [0; 8];
        let bytes = self.bytes(8);
        number[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(number)
    }

    /// A number that is often at an end of its range, or small.
    pub fn edge(&mut self) -> u64 {
        let small = u64::from(self.u8());
        match small % 16 {
            0 => u64::MAX - small / 16,
            1 => (1 << 62) - 8 + small / 16,
            2 => (1 << 48) - 8 + small / 16,
            3 => self.u64(),
            4 => 1 << (small / 16 * 4),
            _ => small / 8,
        }
    }

    /// Up to `max` bytes.
    pub fn some(&mut self, max: usize) -> &'a [u8] {
        let len = usize::from(self.u16()) % (max + 1);
        self.bytes(len)
    }
}
