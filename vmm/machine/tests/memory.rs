//! Where guest memory lies. One test in a process of its own: a thread that maps something meanwhile may take the place.

use machine::memory::{DEVICE_HOLE_START, Ram};

const HUGE_PAGE_SIZE: u64 = 2 << 20;

#[test]
fn regions_lie_on_huge_page_boundaries_as_the_guest_sees_them() {
    // Odd sizes too, and several at a time: what is mapped above decides where a mapping would land.
    let rams =
        [4 << 20, (6 << 20) + 4096, DEVICE_HOLE_START + (2 << 20)].map(|bytes| Ram::new(bytes).expect("it fits"));
    for region in rams.iter().flat_map(Ram::regions) {
        assert!((region.host_address() ^ region.base).is_multiple_of(HUGE_PAGE_SIZE), "{region:?}");
    }
}
