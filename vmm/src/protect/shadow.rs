//! The shadow: pages as the backup has them, so that only what changed is sent.
//!
//! KVM's dirty log over-reports (a quarter to a third of a Linux guest's logged pages are unchanged), and most pages that
//! did change changed little. A page is known here from the first epoch that shipped it in this session; until then,
//! and when the shadow is full, pages go whole.
//!
//! Invariant: a page here is exactly what the backup has once it has applied everything shipped so far. It holds because
//! pages are noted in the order in which they are shipped, and a session that breaks is forgotten.

use std::collections::{HashMap, VecDeque};

use replication::{Gfn, PageEncoder, SessionId};

use crate::memory::{PAGE_SIZE, Page};

/// Pages kept at most: 256 MiB. Beyond that the oldest goes.
const PAGES_MAX: usize = (256 << 20) / PAGE_SIZE;

/// What the backup of one session has.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    session: Option<SessionId>,
    pages: HashMap<u64, Box<Page>>,
    order: VecDeque<u64>,
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
            Some(known) if **known == *page => false,
            Some(known) => {
                encoder.push(Gfn(gfn), page, Some(known));
                **known = *page;
                true
            }
            None => {
                encoder.push(Gfn(gfn), page, None);
                self.learn(gfn, page);
                true
            }
        }
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
    fn the_oldest_page_goes_when_it_is_full() {
        let (mut shadow, mut encoder) = (Shadow::default(), PageEncoder::new());
        for gfn in 0..=PAGES_MAX as u64 {
            shadow.learn(gfn, &[0; PAGE_SIZE]);
        }
        assert_eq!(shadow.pages.len(), PAGES_MAX);
        assert!(shadow.encode(0, &[0; PAGE_SIZE], &mut encoder));
    }
}
