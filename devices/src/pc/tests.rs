//! All chips together.

use snapshot::section::{StateReader, StateWriter};

use super::*;
use crate::bus::{Bus, BusError};
use crate::chip::midnight;

/// The chips on their ports.
fn bus_of(chips: &[Box<dyn AnyChip>]) -> Result<Bus<usize>, BusError> {
    let mut bus = Bus::default();
    for (index, chip) in chips.iter().enumerate() {
        chip.ports().iter().try_for_each(|range| bus.register(chip.owner(), *range, index))?;
    }
    Ok(bus)
}

#[test]
fn chips_have_places_of_their_own_and_names_of_their_own() {
    let chips = chips();
    let bus = bus_of(&chips).expect("no two of them have the same ports");
    let at = |port| bus.find(port).map(|(index, offset)| (chips[index].owner().name, offset));
    let found = [0x3f8, 0x71, 0x60, 0x61, 0x64, 0x505, 0x601, 0x61b, 0x61c].map(at);
    let expected = [
        Some(("serial", 0)),
        Some(("cmos", 1)),
        Some(("i8042", 0)),
        None,
        Some(("i8042", 4)),
        Some(("pvpanic", 0)),
        Some(("power", 1)),
        Some(("watchdog", 11)),
        None,
    ];
    assert_eq!(found, expected);
    // A name that two had would be written twice, which the writer does not allow.
    let mut writer = StateWriter::new();
    crate::pc::chips().iter_mut().for_each(|chip| chip.save(&mut writer));
}

fn sections(chips: &mut [Box<dyn AnyChip>]) -> Vec<u8> {
    let mut writer = StateWriter::new();
    chips.iter_mut().for_each(|chip| chip.save(&mut writer));
    writer.finish()
}

#[test]
fn restore_gives_each_chip_its_own_section_and_power_on_takes_it_back() {
    let (mut chips, bus) = (chips(), bus_of(&chips()).expect("they fit"));
    for (port, value) in [(0x3ff, 0x5a), (0x70, 0x40), (0x71, 0x77), (0x64, 0x60), (0x60, 0x47), (0x505, 2)] {
        let (index, offset) = bus.find(port).expect("a chip is there");
        chips[index].handle_write(offset, &[value], &midnight);
    }
    let power_on = sections(&mut super::chips());
    let saved = sections(&mut chips);
    assert_ne!(saved, power_on);
    let mut others = super::chips();
    let mut reader = StateReader::parse(&saved).expect("ours");
    others.iter_mut().try_for_each(|chip| chip.restore(&mut reader)).expect("ours");
    reader.finish().expect("each was taken");
    assert_eq!(sections(&mut others), saved);
    others.iter_mut().for_each(|chip| chip.power_on());
    assert_eq!(sections(&mut others), power_on);
}
