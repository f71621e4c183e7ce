//! The shadow: pages as the backup has them, so that only what changed is sent.
//!
//! KVM's dirty log over-reports (a quarter to a third of a Linux guest's logged pages are unchanged), and most pages that
//! did change changed little. A page is known here from the first epoch that shipped it in this session; until then,
//! and when the shadow is full, pages go whole.
//!
//! It is also looked through for what the guest writes to its disks: most of that lies in its memory (a page cache), and then
//! travels once.
//!
//! Invariant: a page here is exactly what the backup has once it has applied everything shipped so far. It holds because
//! pages are noted in the order in which they are shipped, and a session that breaks is forgotten.

use std::collections::{HashMap, VecDeque};

use replication::{Gfn, PageEncoder, SessionId};

use machine::memory::{PAGE_SIZE, Page};

/// Pages kept at most: 256 MiB. Beyond that the oldest goes.
const PAGES_MAX: usize = (256 << 20) / PAGE_SIZE;
/// Places of pages by their content, a power of two. What finds none there travels twice.
const PLACES: usize = 2 * PAGES_MAX;
/// A page's content is told by a word of each such stretch of it, all at different offsets.
const SAMPLE_BYTES: usize = 256;

/// What the backup of one session has.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    session: Option<SessionId>,
    pages: HashMap<u64, Box<Page>>,
    order: VecDeque<u64>,
    /// Which page may have the content of this sample; where none was there, no page has it. A page that has changed since is
    /// found and does not fit.
    places: Vec<u64>,
}

/// The place of a page with this content.
fn place_of(page: &Page) -> usize {
    let mut sum = 0u64;
    for (index, stretch) in page.chunks_exact(SAMPLE_BYTES).enumerate() {
        let word = stretch[8 * index..].first_chunk().expect("there are no more stretches than words in one");
        sum = (sum ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    (sum >> 7) as usize % PLACES
}

impl Shadow {
    /// Forgets everything unless `session` is the one that it knows.
    pub(super) fn begin(&mut self, session: SessionId) {
        if self.session != Some(session) {
            *self = Self { session: Some(session), ..Self::default() };
        }
    }

    /// Encodes what page `gfn` needs to become `page` over there. False if it is that already.
    pub(super) fn encode(&mut self, gfn: u64, page: &Page, encoder: &mut PageEncoder) -> bool {
        match self.pages.get_mut(&gfn) {
            Some(known) if **known == *page => return false,
            Some(known) => {
                encoder.push(Gfn(gfn), page, Some(known));
                **known = *page;
            }
            None => {
                encoder.push(Gfn(gfn), page, None);
                self.learn(gfn, page);
            }
        }
        if self.places.is_empty() {
            self.places = vec![u64::MAX; PLACES];
        }
        self.places[place_of(page)] = gfn;
        true
    }

    /// A page that has exactly these bytes over there once all that was encoded is applied.
    pub(super) fn find(&self, bytes: &Page) -> Option<Gfn> {
        let gfn = *self.places.get(place_of(bytes))?;
        self.pages.get(&gfn).filter(|known| ***known == *bytes).map(|_| Gfn(gfn))
    }

    fn learn(&mut self, gfn: u64, page: &Page) {
        if self.order.len() >= PAGES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.pages.remove(&oldest);
        }
        self.order.push_back(gfn);
        self.pages.insert(gfn, Box::new(*page));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId([1; 16]);

    #[test]
    fn encode_of_an_unchanged_page_sends_nothing() {
        let (mut shadow, mut encoder) = (Shadow::default(), PageEncoder::new());
        shadow.begin(SESSION);
        assert!(shadow.encode(7, &[1; PAGE_SIZE], &mut encoder));
        assert!(!shadow.encode(7, &[1; PAGE_SIZE], &mut encoder));
        assert!(shadow.encode(8, &[1; PAGE_SIZE], &mut encoder));
    }

    #[test]
    fn encode_of_a_small_change_sends_the_difference() {
        let (mut shadow, mut encoder) = (Shadow::default(), PageEncoder::new());
        shadow.begin(SESSION);
        let mut page = [3; PAGE_SIZE];
        shadow.encode(7, &page, &mut encoder);
        page[100] = 4;
        shadow.encode(7, &page, &mut encoder);
        assert_eq!(encoder.counters().delta, 1);
    }

    #[test]
    fn a_new_session_knows_nothing() {
        let (mut shadow, mut encoder) = (Shadow::default(), PageEncoder::new());
        shadow.begin(SESSION);
        shadow.encode(7, &[1; PAGE_SIZE], &mut encoder);
        shadow.begin(SessionId([2; 16]));
        assert!(shadow.encode(7, &[1; PAGE_SIZE], &mut encoder));
        assert_eq!(encoder.counters().delta, 0);
    }

    #[test]
    fn content_is_found_where_it_is_now_and_nowhere_else() {
        let (mut shadow, mut encoder) = (Shadow::default(), PageEncoder::new());
        shadow.begin(SESSION);
        let page = |byte: u8| std::array::from_fn(|at| (at as u8).wrapping_mul(31) ^ byte);
        assert_eq!(shadow.find(&page(1)), None, "nothing was shipped");
        for gfn in 0..4 {
            shadow.encode(gfn, &page(gfn as u8), &mut encoder);
        }
        assert_eq!([1, 3].map(|byte| shadow.find(&page(byte))), [Some(Gfn(1)), Some(Gfn(3))]);
        shadow.encode(1, &page(9), &mut encoder);
        assert_eq!([1, 9].map(|byte| shadow.find(&page(byte))), [None, Some(Gfn(1))], "it is another page now");
        let mut alike = page(3);
        alike[2 * SAMPLE_BYTES] ^= 1;
        assert_eq!(place_of(&alike), place_of(&page(3)), "the sample does not tell them apart");
        assert_eq!(shadow.find(&alike), None);
        shadow.begin(SessionId([2; 16]));
        assert_eq!(shadow.find(&page(3)), None, "another backup has nothing");
    }

    #[test]
    fn the_oldest_page_goes_when_it_is_full() {
        let (mut shadow, mut encoder) = (Shadow::default(), PageEncoder::new());
        for gfn in 0..=PAGES_MAX as u64 {
            shadow.learn(gfn, &[0; PAGE_SIZE]);
        }
        assert_eq!(shadow.pages.len(), PAGES_MAX);
        assert!(shadow.encode(0, &[0; PAGE_SIZE], &mut encoder));
    }
}
