//! A bus as the machine fills it, and against a list that is searched from its beginning.

use proptest::prelude::*;

use super::*;

const fn owner(name: &'static str, instance: u16) -> Owner {
    Owner { name, instance }
}

#[test]
fn find_gives_the_device_and_its_own_offset_in_each_of_its_ranges() {
    let mut bus = Bus::default();
    bus.register(owner("i8042", 0), Range { base: 0x64, len: 1, offset: 4 }, 'k').expect("free");
    bus.register(owner("serial", 0), Range::new(0x3f8, 8), 's').expect("free");
    bus.register(owner("i8042", 0), Range::new(0x60, 1), 'k').expect("free");
    let found = [0x5f, 0x60, 0x61, 0x63, 0x64, 0x65, 0x3f7, 0x3f8, 0x3ff, 0x400].map(|port| bus.find(port));
    let (k, s) = (|offset| Some(('k', offset)), |offset| Some(('s', offset)));
    assert_eq!(found, [None, k(0), None, None, k(4), None, None, s(0), s(7), None]);
    assert_eq!(Bus::<char>::default().find(0), None);
}

#[test]
fn register_over_another_device_is_refused_with_both_names_and_changes_nothing() {
    let mut bus = Bus::default();
    bus.register(owner("serial", 0), Range::new(0x3f8, 8), 1).expect("free");
    for (base, len) in [(0x3f8, 8), (0x3f0, 9), (0x3ff, 1), (0x3fa, 2), (0, 0x1000)] {
        let error = bus.register(owner("rogue", 3), Range::new(base, len), 2).expect_err("taken");
        let said = error.to_string();
        assert!(said.contains("rogue/3") && said.contains("serial/0 at 0x3f8"), "{said}");
    }
    assert_eq!((bus.find(0x3f8), bus.find(0x3f0)), (Some((1, 0)), None));
    bus.register(owner("before", 0), Range::new(0x3f0, 8), 2).expect("it ends where the other begins");
    bus.register(owner("behind", 0), Range::new(0x400, 1), 3).expect("it begins where the other ends");
}

#[test]
fn register_of_no_addresses_or_of_too_many_is_refused() {
    let mut bus = Bus::default();
    for (base, len) in [(7, 0), (u64::MAX, 2), (2, u64::MAX), (0, 0)] {
        let error = bus.register(owner("odd", 0), Range::new(base, len), ()).expect_err("no range");
        assert!(error.to_string().contains("odd/0"), "{error}");
    }
    bus.register(owner("last", 0), Range::new(u64::MAX, 1), ()).expect("the last address");
    assert_eq!(bus.find(u64::MAX), Some(((), 0)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn find_is_a_search_from_the_beginning(
        ranges in proptest::collection::vec((0..200_u64, 0..20_u64, 0..3_u64), 0..24),
    ) {
        let (mut bus, mut list) = (Bus::default(), Vec::<(Range, usize)>::new());
        for (number, (base, len, offset)) in ranges.into_iter().enumerate() {
            let range = Range { base, len, offset };
            let is_free = list.iter().all(|(there, _)| base + len <= there.base || there.base + there.len <= base);
            let registered = bus.register(owner("any", number as u16), range, number);
            prop_assert_eq!(registered.is_ok(), len > 0 && is_free);
            if registered.is_ok() {
                list.push((range, number));
            }
        }
        for address in 0..240 {
            let in_list = list.iter().find(|(range, _)| (range.base..range.base + range.len).contains(&address));
            prop_assert_eq!(bus.find(address), in_list.map(|(range, number)| (*number, range.offset + address - range.base)));
        }
    }
}
