//! The laws for the chips on I/O ports.

use proptest::prelude::*;

use super::{Subject, device_laws};
use crate::RestoreError;
use crate::cmos::{Cmos, CmosState};
use crate::i8042::{I8042, I8042State};
use crate::power::{Power, PowerState};
use crate::pvpanic::{Pvpanic, PvpanicState};
use crate::serial::{Serial, SerialState};
use crate::watchdog::{Watchdog, WatchdogState};

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

/// Defines the subject of a chip: its ports, how it is read and written, and what the caller takes from it.
macro_rules! chip {
    ($subject:ident, $chip:ty, $state:ty, $ports:literal, $values:expr, $read:expr, $write:expr, $input:expr, $poll:expr) => {
        pub(crate) struct $subject($chip);

        impl Subject for $subject {
            type State = $state;
            type Op = PortOp;

            fn new() -> Self {
                Self(<$chip>::new())
            }

            fn ops() -> BoxedStrategy<PortOp> {
                port_ops($ports, &$values)
            }

            fn apply(&mut self, op: &PortOp) -> Vec<u8> {
                let chip = &mut self.0;
                match op {
                    PortOp::Read { offset, len } => {
                        let mut data = vec![0x5a; *len];
                        let read: fn(&mut $chip, u64, &mut [u8]) = $read;
                        read(chip, *offset, &mut data);
                        data
                    }
                    PortOp::Write { offset, data } => {
                        let write: fn(&mut $chip, u64, &[u8]) = $write;
                        write(chip, *offset, data);
                        Vec::new()
                    }
                    PortOp::Input(data) => {
                        let input: fn(&mut $chip, &[u8]) -> usize = $input;
                        vec![input(chip, data) as u8]
                    }
                    PortOp::Poll => {
                        let poll: fn(&mut $chip) -> Vec<u8> = $poll;
                        poll(chip)
                    }
                }
            }

            fn save(&self) -> $state {
                self.0.save()
            }

            fn restore(&mut self, state: $state) -> Result<(), RestoreError> {
                self.0 = <$chip>::restore(state)?;
                Ok(())
            }

            fn fork(&self) -> Self {
                Self(<$chip>::restore(self.0.save()).expect("what a device saves it believes"))
            }
        }
    };
}

/// The time of day of these tests; the chip must not look at any other.
const NOW_S: i64 = 1_795_250_100;

fn poll_serial(serial: &mut Serial) -> Vec<u8> {
    let mut seen = vec![u8::from(serial.line()), u8::from(serial.poll_interrupt())];
    seen.extend(serial.poll_output().unwrap_or_default());
    seen
}

chip!(
    SerialSubject,
    Serial,
    SerialState,
    8,
    [0x00, 0x01, 0x02, 0x03, 0x07, 0x10, 0x80, 0x83],
    Serial::handle_read,
    Serial::handle_write,
    Serial::handle_input,
    poll_serial
);
chip!(
    CmosSubject,
    Cmos,
    CmosState,
    2,
    [0x00, 0x02, 0x04, 0x08, 0x09, 0x0a, 0x0b, 0x0b, 0x12, 0x32, 0x40, 0x82, 0x86],
    |cmos, offset, data| cmos.handle_read(offset, data, NOW_S),
    |cmos, offset, data| cmos.handle_write(offset, data, NOW_S),
    |_, _| 0,
    |_| Vec::new()
);
chip!(
    I8042Subject,
    I8042,
    I8042State,
    5,
    [0x20, 0x60, 0xaa, 0xd1, 0xfe],
    I8042::handle_read,
    I8042::handle_write,
    |_, _| 0,
    |chip| vec![u8::from(chip.poll_reset())]
);
chip!(
    PowerSubject,
    Power,
    PowerState,
    2,
    [0x14, 0x34, 0x2c],
    Power::handle_read,
    Power::handle_write,
    |_, _| 0,
    |chip| vec![u8::from(chip.poll_power().is_some())]
);
chip!(
    PvpanicSubject,
    Pvpanic,
    PvpanicState,
    1,
    [1, 2, 3],
    Pvpanic::handle_read,
    Pvpanic::handle_write,
    |_, _| 0,
    |chip| format!("{:?}", chip.poll_event()).into_bytes()
);

/// A register is written as a whole; the operations write bytes.
fn write_watchdog(watchdog: &mut Watchdog, offset: u64, data: &[u8]) {
    let value = data.first().map_or(0, |byte| u32::from(*byte));
    if data.len() == 1 {
        watchdog.handle_write(offset * 4, &value.to_le_bytes());
    } else {
        watchdog.handle_write(offset, data);
    }
}

/// The same for reading.
fn read_watchdog(watchdog: &mut Watchdog, offset: u64, data: &mut [u8]) {
    match data {
        [byte] => {
            let mut word = [0; 4];
            watchdog.handle_read(offset * 4, &mut word);
            *byte = word[0] ^ word[1] ^ word[2];
        }
        data => watchdog.handle_read(offset, data),
    }
}

chip!(
    WatchdogSubject,
    Watchdog,
    WatchdogState,
    3,
    [0, 1, 10, 20],
    read_watchdog,
    write_watchdog,
    |watchdog, data| {
        watchdog.handle_time(data.iter().map(|byte| u32::from(*byte)).sum());
        0
    },
    |watchdog| vec![u8::from(watchdog.poll_expiry())]
);

device_laws!(serial, SerialSubject);
device_laws!(cmos, CmosSubject);
device_laws!(i8042, I8042Subject);
device_laws!(power, PowerSubject);
device_laws!(pvpanic, PvpanicSubject);
device_laws!(watchdog, WatchdogSubject);
