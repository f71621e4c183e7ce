//! The toy guest: paged memory, a disk, and outputs that depend on all that ever happened and on chance.
//!
//! Every output lengthens a chain: its value is mixed from the value before, the input and a number of the host's that no
//! other execution gets. Two executions that part never meet again, and one output names its whole history.

use replication::page::{PAGE_SIZE, Page};

use crate::disk::{SECTOR, SECTORS, SectorWrite};
use crate::rng::{Rng, mix};

/// Pages of guest memory.
pub const PAGES: usize = 6;

/// What the guest sends to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// How many outputs came before it.
    pub position: u64,
    /// Its own value.
    pub chain: u64,
    /// The client's request it answers; zero if it answers none.
    pub request: u64,
    /// The value that the request got when it was first executed.
    pub value: u64,
}

impl Said {
    /// Bytes of an output.
    pub const BYTES: usize = 32;

    /// As bytes of an output.
    pub fn encode(&self) -> Vec<u8> {
        [self.position, self.chain, self.request, self.value].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Out of the bytes of an output.
    pub fn decode(bytes: &[u8]) -> Said {
        let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        Said { position: words[0], chain: words[1], request: words[2], value: words[3] }
    }
}

/// The guest: registers and memory.
#[derive(Clone)]
pub struct Guest {
    /// Outputs so far.
    pub position: u64,
    /// The value of the last one.
    pub chain: u64,
    /// Its operator paused it.
    pub is_paused: bool,
    last_request: u64,
    last_value: u64,
    memory: Vec<Page>,
    page_digests: [u64; PAGES],
    dirty: u64,
}

impl Default for Guest {
    fn default() -> Self {
        Guest::new()
    }
}

impl Guest {
    /// A guest that has not run.
    pub fn new() -> Self {
        Guest::restore(&[0; Said::BYTES], vec![[0; PAGE_SIZE]; PAGES])
    }

    /// A guest out of saved registers and memory.
    pub fn restore(state: &[u8], memory: Vec<Page>) -> Self {
        let said = Said::decode(state);
        let mut guest = Guest {
            position: said.position,
            chain: said.chain,
            is_paused: state.get(Said::BYTES) == Some(&1),
            last_request: said.request,
            last_value: said.value,
            memory,
            page_digests: [0; PAGES],
            dirty: 0,
        };
        for page in 0..PAGES {
            guest.page_digests[page] = digest(&guest.memory[page]);
        }
        guest
    }

    /// The registers.
    pub fn save(&self) -> Vec<u8> {
        let Guest { position, chain, is_paused, last_request, last_value, .. } = *self;
        let mut state = Said { position, chain, request: last_request, value: last_value }.encode();
        state.push(u8::from(is_paused));
        state
    }

    /// Executes a request of the client (zero: none, a timer fired). `nonce` is what the clock or chance gave.
    pub fn step(&mut self, request: u64, nonce: u64) -> (Said, SectorWrite) {
        self.position += 1;
        self.chain = mix(self.chain ^ mix(nonce ^ mix(request ^ self.position)));
        if request > self.last_request {
            (self.last_request, self.last_value) = (request, self.chain);
        }
        let sector = (self.chain % SECTORS as u64) as usize;
        self.write_memory(sector);
        let value = if request == self.last_request { self.last_value } else { 0 };
        (Said { position: self.position, chain: self.chain, request, value }, (sector, sector_of(self.chain)))
    }

    fn write_memory(&mut self, sector: usize) {
        let chain = self.chain;
        self.write(0, sector * 8, &chain.to_le_bytes());
        let page = 1 + (chain >> 8) as usize % (PAGES - 1);
        match chain >> 32 & 15 {
            0 => self.write(page, 0, &[0; PAGE_SIZE]),
            1 => self.write(page, 0, &noise(chain)),
            2 => self.write(page, 0, &[chain as u8 | 1; PAGE_SIZE]),
            _ => self.write(page, (chain >> 16) as usize % (PAGE_SIZE - 8), &chain.to_le_bytes()),
        }
    }

    fn write(&mut self, page: usize, at: usize, bytes: &[u8]) {
        self.memory[page][at..at + bytes.len()].copy_from_slice(bytes);
        self.dirty |= 1 << page;
    }

    /// The memory.
    pub fn memory(&self) -> &[Page] {
        &self.memory
    }

    /// The pages written since the last call.
    pub fn take_dirty(&mut self) -> u64 {
        for page in (0..PAGES).filter(|page| self.dirty >> page & 1 == 1) {
            self.page_digests[page] = digest(&self.memory[page]);
        }
        std::mem::take(&mut self.dirty)
    }

    /// A digest of registers and memory; of all writes up to the last `take_dirty`.
    pub fn digest(&self) -> u64 {
        let registers = self.last_request ^ self.last_value ^ u64::from(self.is_paused);
        let start = mix(self.chain ^ mix(self.position ^ mix(registers)));
        self.page_digests.iter().fold(start, |sum, page| mix(sum ^ page))
    }

    /// What memory says is in a sector; zero if it was never written.
    pub fn sector_chain(&self, sector: usize) -> u64 {
        let word = self.memory[0][sector * 8..].first_chunk().expect("the table is inside the page");
        u64::from_le_bytes(*word)
    }
}

/// What the guest writes into a sector when its chain is `chain`.
pub fn sector_of(chain: u64) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    for word in sector.as_chunks_mut::<8>().0 {
        *word = chain.to_le_bytes();
    }
    sector
}

fn noise(seed: u64) -> Page {
    let mut rng = Rng::new(seed);
    let mut page = [0; PAGE_SIZE];
    for word in page.as_chunks_mut::<8>().0 {
        *word = rng.u64().to_le_bytes();
    }
    page
}

/// A digest of bytes, its own and not the one of the code under test.
pub fn digest(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks::<8>().0.iter();
    words.fold(0x1234_5678_9abc_def1, |sum: u64, word| {
        (sum.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9fb2_1c65_1e98_df25)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restore_of_save_goes_on_as_the_original() {
        let mut guest = Guest::new();
        for step in 0..50 {
            guest.step(step / 2, mix(step));
        }
        guest.take_dirty();
        let mut copy = Guest::restore(&guest.save(), guest.memory().to_vec());
        assert_eq!(copy.digest(), guest.digest());
        assert_eq!(copy.step(99, 5), guest.step(99, 5));
    }

    #[test]
    fn step_with_another_nonce_says_something_else() {
        let mut one = Guest::new();
        let mut two = one.clone();
        assert_ne!(one.step(1, 10).0, two.step(1, 11).0);
    }

    #[test]
    fn step_for_a_repeated_request_gives_the_first_value_again() {
        let mut guest = Guest::new();
        let first = guest.step(1, 10).0;
        let again = guest.step(1, 11).0;
        assert_eq!(first.value, again.value);
        assert_ne!(first.chain, again.chain);
    }
}
