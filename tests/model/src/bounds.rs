//! How far the checker looks.

use std::str::FromStr;

/// How much may happen in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Records at the witness.
    pub records: u8,
    /// Epochs are numbered up to this.
    pub epochs: u8,
    /// Lives of processes on each host.
    pub lives: u8,
    /// Processes that end without warning.
    pub crashes: u8,
    /// Pairings.
    pub joins: u8,
    /// Appends that are not answered: done or not.
    pub unanswered: u8,
    /// Of these, one arrives later, at any time.
    pub late: bool,
    /// Hosts that are there: 1 to 3.
    pub hosts: u8,
    /// Primaries commit to a state directory too.
    pub store: bool,
    /// Such a directory may take no more epochs.
    pub store_losses: u8,
    /// An operator may have a kept copy continue.
    pub overrides: u8,
    /// A start for which an operator names places as dead.
    pub named_starts: u8,
    /// The guest may be stopped.
    pub ends: u8,
    /// The witness may be restored to an older state.
    pub restores: u8,
    /// Hosts may lose power, and with it files that are in memory only.
    pub outages: u8,
    /// The witness may be exchanged.
    pub exchanges: u8,
    /// A witness may be gone for good.
    pub witness_losses: u8,
}

impl Bounds {
    /// A pair, and a host to spare. What is named otherwise begins here.
    pub const SMALL: Bounds = Bounds {
        records: 4,
        epochs: 2,
        lives: 2,
        crashes: 1,
        joins: 1,
        unanswered: 1,
        late: true,
        hosts: 3,
        store: false,
        store_losses: 0,
        overrides: 0,
        named_starts: 0,
        ends: 0,
        restores: 0,
        outages: 0,
        exchanges: 0,
        witness_losses: 0,
    };
}

/// Bounds that are checked together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What happens in them.
    pub name: &'static str,
    /// How much.
    pub bounds: Bounds,
    /// Each state must heal.
    pub heals: bool,
}

/// The same, and every append is answered.
pub(crate) const QUIET: Bounds = Bounds { unanswered: 0, ..Bounds::SMALL };
/// Two processes may crash.
pub(crate) const CRASHES: Bounds = Bounds { crashes: 2, epochs: 1, ..QUIET };
/// The guest may be stopped.
pub(crate) const ENDS: Bounds = Bounds { ends: 1, crashes: 0, ..QUIET };
/// A backup may come back.
pub(crate) const PAIRINGS: Bounds = Bounds { epochs: 3, records: 5, joins: 2, crashes: 0, hosts: 2, ..QUIET };
/// Primaries have state directories.
pub(crate) const STORE: Bounds = Bounds { store: true, ..QUIET };
/// One host, with a state directory that may be lost.
pub(crate) const STORE_LOSS: Bounds = Bounds { store: true, store_losses: 1, hosts: 1, ..QUIET };
/// The witness may be restored.
pub(crate) const RESTORE: Bounds = Bounds { restores: 1, ..QUIET };
/// A host may lose power.
pub(crate) const OUTAGE: Bounds = Bounds { outages: 1, crashes: 0, ..QUIET };
/// So may one that has a state directory.
pub(crate) const STORE_OUTAGE: Bounds = Bounds { outages: 1, crashes: 0, hosts: 1, ..STORE };
/// An operator may have a kept copy continue.
pub(crate) const OVERRIDE: Bounds = Bounds { overrides: 1, store: true, ..QUIET };
/// The witness may be exchanged.
pub(crate) const EXCHANGE: Bounds = Bounds { exchanges: 1, records: 5, epochs: 1, hosts: 2, ..QUIET };
/// The same, and an append may not be answered.
pub(crate) const EXCHANGE_DOUBT: Bounds = Bounds { unanswered: 1, ..EXCHANGE };
/// The same, and an operator may name places as dead for a start.
pub(crate) const EXCHANGE_NAMED: Bounds = Bounds { named_starts: 1, ..EXCHANGE };
/// A witness may be gone for good, and overridden.
pub(crate) const WITNESS_LOSS: Bounds = Bounds { witness_losses: 1, ..EXCHANGE };

/// For every change. What breaks a rule on purpose does so in the bounds of one of these.
pub const QUICK: [Case; 19] = [
    Case { name: "an append in doubt", bounds: Bounds::SMALL, heals: false },
    Case {
        name: "healing of an append in doubt",
        bounds: Bounds { hosts: 2, epochs: 1, ..Bounds::SMALL },
        heals: true,
    },
    Case { name: "healing", bounds: QUIET, heals: true },
    Case { name: "healing of two crashes", bounds: CRASHES, heals: true },
    Case { name: "ends", bounds: ENDS, heals: false },
    Case { name: "pairings", bounds: PAIRINGS, heals: false },
    Case { name: "a state directory", bounds: STORE, heals: false },
    Case { name: "a lost state directory", bounds: STORE_LOSS, heals: true },
    Case { name: "a pair with a state directory", bounds: Bounds { hosts: 2, ..STORE }, heals: true },
    Case { name: "a restored witness", bounds: RESTORE, heals: false },
    Case { name: "a loss of power", bounds: OUTAGE, heals: false },
    Case { name: "a loss of power with a state directory", bounds: STORE_OUTAGE, heals: false },
    Case { name: "an override", bounds: OVERRIDE, heals: false },
    Case { name: "an exchange", bounds: EXCHANGE, heals: true },
    Case { name: "an exchange with an append in doubt", bounds: EXCHANGE_DOUBT, heals: false },
    Case {
        name: "healing of an exchange with an append in doubt",
        bounds: Bounds { crashes: 0, ..EXCHANGE_DOUBT },
        heals: true,
    },
    Case { name: "an exchange with a state directory", bounds: Bounds { store: true, ..EXCHANGE }, heals: true },
    Case { name: "an exchange and a start beside places named as dead", bounds: EXCHANGE_NAMED, heals: true },
    Case { name: "a witness that is gone", bounds: WITNESS_LOSS, heals: true },
];

/// The bounds of the rules, each in a case of its own: together they are too many states.
pub const DEEP: [Case; 16] = [
    Case { name: "epochs", bounds: Bounds { epochs: 3, ..Bounds::SMALL }, heals: false },
    Case { name: "pairings", bounds: Bounds { joins: 2, ..Bounds::SMALL }, heals: false },
    Case { name: "crashes", bounds: Bounds { crashes: 2, lives: 3, ..Bounds::SMALL }, heals: false },
    Case { name: "ends", bounds: Bounds { ends: 1, ..Bounds::SMALL }, heals: false },
    Case { name: "a state directory", bounds: Bounds { store: true, store_losses: 1, ..Bounds::SMALL }, heals: false },
    Case { name: "two appends in doubt", bounds: Bounds { unanswered: 2, epochs: 1, ..Bounds::SMALL }, heals: false },
    Case { name: "a loss of power", bounds: Bounds { outages: 1, ..QUIET }, heals: false },
    Case { name: "an exchange of three hosts", bounds: Bounds { hosts: 3, ..EXCHANGE }, heals: false },
    Case { name: "two exchanges", bounds: Bounds { exchanges: 2, records: 6, ..EXCHANGE_DOUBT }, heals: false },
    Case { name: "an exchange and a loss of power", bounds: Bounds { outages: 1, ..EXCHANGE }, heals: false },
    Case {
        name: "a witness that is gone with an append in doubt",
        bounds: Bounds { unanswered: 1, ..WITNESS_LOSS },
        heals: false,
    },
    Case { name: "healing of an exchange in doubt", bounds: EXCHANGE_DOUBT, heals: true },
    Case {
        name: "healing of a witness that is gone with a state directory",
        bounds: Bounds { store: true, ..WITNESS_LOSS },
        heals: true,
    },
    Case { name: "healing of two crashes", bounds: Bounds { epochs: 2, ..CRASHES }, heals: true },
    Case { name: "healing of an append in doubt", bounds: Bounds { epochs: 1, ..Bounds::SMALL }, heals: true },
    Case { name: "healing of a loss of power", bounds: Bounds { outages: 1, epochs: 1, ..QUIET }, heals: true },
];

impl FromStr for Bounds {
    type Err = String;

    /// `records=4,store=on,…`: what is not named is as in [`Bounds::SMALL`].
    fn from_str(text: &str) -> Result<Bounds, String> {
        let mut bounds = Bounds::SMALL;
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not KEY=NUMBER"))?;
            bounds.set(key, value)?;
        }
        Ok(bounds)
    }
}

impl Bounds {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = || value.parse::<u8>().map_err(|_| format!("{key}={value}: want a number up to 255"));
        let switch = || match value {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(format!("{key}={value}: want on or off")),
        };
        match key {
            "late" => self.late = switch()?,
            "store" => self.store = switch()?,
            "hosts" if !(1..=3).contains(&number()?) => return Err(format!("hosts={value}: want 1 to 3")),
            _ => *self.number(key)? = number()?,
        }
        Ok(())
    }

    fn number(&mut self, key: &str) -> Result<&mut u8, String> {
        Ok(match key {
            "records" => &mut self.records,
            "epochs" => &mut self.epochs,
            "lives" => &mut self.lives,
            "crashes" => &mut self.crashes,
            "joins" => &mut self.joins,
            "unanswered" => &mut self.unanswered,
            "hosts" => &mut self.hosts,
            "store-losses" => &mut self.store_losses,
            "overrides" => &mut self.overrides,
            "named-starts" => &mut self.named_starts,
            "ends" => &mut self.ends,
            "restores" => &mut self.restores,
            "outages" => &mut self.outages,
            "exchanges" => &mut self.exchanges,
            "witness-losses" => &mut self.witness_losses,
            _ => {
                return Err(format!(
                    "no bound is called {key:?}; there are records, epochs, lives, crashes, joins, unanswered, late, hosts, store, \
                 store-losses, overrides, named-starts, ends, restores, outages, exchanges, witness-losses"
                ));
            }
        })
    }
}
