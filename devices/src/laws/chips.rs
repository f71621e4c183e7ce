//! The laws for the chips on I/O ports.

use proptest::prelude::*;

use super::{Subject, device_laws};
use crate::RestoreError;
use crate::chip::{Chip, effects};
use crate::cmos::Cmos;
use crate::generation::Generation;
use crate::i8042::I8042;
use crate::power::Power;
use crate::pvpanic::Pvpanic;
use crate::serial::Serial;
use crate::watchdog::Watchdog;

/// What can happen to a chip.
#[derive(Clone, Debug)]
pub(crate) enum PortOp {
    Read {
        offset: u64,
        len: usize,
    },
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    Input(Vec<u8>),
    /// The caller takes what is due: output, interrupt, requests.
    Poll,
}

/// Any accesses to `ports` ports; written values are often among `values`, which mean something to the chip.
fn port_ops(ports: u64, values: &'static [u8]) -> BoxedStrategy<PortOp> {
    let value = prop_oneof![1 => any::<u8>(), 2 => proptest::sample::select(values)];
    prop_oneof![
        6 => (0..ports, value).prop_map(|(offset, value)| PortOp::Write { offset, data: vec![value] }),
        6 => (0..ports).prop_map(|offset| PortOp::Read { offset, len: 1 }),
        1 => (0..ports + 2, 0..9usize).prop_map(|(offset, len)| PortOp::Read { offset, len }),
        1 => (0..ports + 2, proptest::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(offset, data)| PortOp::Write { offset, data }),
        2 => proptest::collection::vec(any::<u8>(), 0..80).prop_map(PortOp::Input),
        2 => Just(PortOp::Poll),
    ]
    .boxed()
}

/// A chip: its accesses, and what the caller takes from it.
pub(crate) struct ChipSubject<C>(C);

/// What a chip adds to the laws.
pub(crate) trait Type: Chip<State: Clone + PartialEq> {
    /// How many ports, in units of an access.
    const COUNT: u64;
    /// Values that mean something to it.
    const VALUES: &'static [u8];

    /// The bytes of one register, if that is wider than one.
    fn register(_offset: u64, _value: u8) -> Option<(u64, [u8; 4])> {
        None
    }
}

/// The time of day of these tests; the chip must not look at any other.
fn now_s() -> i64 {
    1_795_250_100
}

impl<C: Type> Subject for ChipSubject<C> {
    type State = C::State;
    type Op = PortOp;

    fn new() -> Self {
        Self(C::default())
    }

    fn ops() -> BoxedStrategy<PortOp> {
        port_ops(C::COUNT, C::VALUES)
    }

    fn apply(&mut self, op: &PortOp) -> Vec<u8> {
        let chip = &mut self.0;
        match op {
            PortOp::Read { offset, len } => {
                let wide = C::register(*offset, 0).filter(|_| *len == 1);
                let (offset, mut data) = wide.map_or((*offset, vec![0x5a; *len]), |(at, _)| (at, vec![0x5a; 4]));
                chip.handle_read(offset, &mut data, &now_s);
                data
            }
            PortOp::Write { offset, data } => {
                match (&data[..], C::register(*offset, data.first().copied().unwrap_or_default())) {
                    ([_], Some((offset, word))) => chip.handle_write(offset, &word, &now_s),
                    _ => chip.handle_write(*offset, data, &now_s),
                }
                Vec::new()
            }
            PortOp::Input(data) => {
                chip.handle_generation(std::array::from_fn(|at| data.get(at).copied().unwrap_or_default()));
                chip.handle_time(data.iter().map(|byte| u32::from(*byte)).sum());
                vec![chip.handle_input(data) as u8]
            }
            PortOp::Poll => format!("{:?} {}", effects(chip), chip.wants_time()).into_bytes(),
        }
    }

    fn save(&self) -> C::State {
        self.0.save()
    }

    fn save_over(&self, state: &mut C::State) {
        self.0.save_over(state);
    }

    fn restore(&mut self, state: C::State) -> Result<(), RestoreError> {
        self.0 = C::restore(state)?;
        Ok(())
    }

    fn fork(&self) -> Self {
        Self(C::restore(self.0.save()).expect("what a device saves it believes"))
    }
}

impl Type for Serial {
    const COUNT: u64 = 8;
    const VALUES: &'static [u8] = &[0x00, 0x01, 0x02, 0x03, 0x07, 0x10, 0x80, 0x83];
}

impl Type for Cmos {
    const COUNT: u64 = 2;
    const VALUES: &'static [u8] = &[0x00, 0x02, 0x04, 0x08, 0x09, 0x0a, 0x0b, 0x0b, 0x12, 0x32, 0x40, 0x82, 0x86];
}

impl Type for Generation {
    const COUNT: u64 = 1;
    const VALUES: &'static [u8] = &[0];
}

impl Type for I8042 {
    const COUNT: u64 = 5;
    const VALUES: &'static [u8] = &[0x20, 0x60, 0xaa, 0xd1, 0xfe];
}

impl Type for Power {
    const COUNT: u64 = 2;
    const VALUES: &'static [u8] = &[0x14, 0x34, 0x2c];
}

impl Type for Pvpanic {
    const COUNT: u64 = 1;
    const VALUES: &'static [u8] = &[1, 2, 3];
}

impl Type for Watchdog {
    const COUNT: u64 = 3;
    const VALUES: &'static [u8] = &[0, 1, 10, 20];

    fn register(offset: u64, value: u8) -> Option<(u64, [u8; 4])> {
        Some((offset * 4, u32::from(value).to_le_bytes()))
    }
}

device_laws!(serial, ChipSubject<Serial>);
device_laws!(cmos, ChipSubject<Cmos>);
device_laws!(generation, ChipSubject<Generation>);
device_laws!(i8042, ChipSubject<I8042>);
device_laws!(power, ChipSubject<Power>);
device_laws!(pvpanic, ChipSubject<Pvpanic>);
device_laws!(watchdog, ChipSubject<Watchdog>);
