//! Names: the few hosts, lives and pairings of the model, and what the product's random numbers are for each. Equal names give equal
//! numbers, so that states which differ in nothing that matters are one state.

use std::fmt;

use replication::SessionId;
use replication::view::{Attempt, FileId, Home, Incarnation, Location, RegisterId};

/// Hosts.
pub const HOSTS: usize = 3;

/// One of the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u8);

impl HostId {
    /// All of them.
    pub fn all() -> impl Iterator<Item = HostId> {
        (0..HOSTS).map(|index| HostId(u8::try_from(index).expect("there are few hosts")))
    }

    /// Where a process on it is, in a boot of that number.
    pub fn location(self, boot: u8) -> Location {
        let host = self.to_string();
        Location {
            machine: format!("machine {host}"),
            boot: format!("boot {host}{boot}"),
            lock: format!("/{host}"),
            host,
        }
    }

    /// Its lock file.
    pub fn home(self, boot: u8) -> Home {
        Home::of(&self.location(boot), FileId { device: 1, inode: u64::from(self.0) + 1, birth: 1 })
    }

    /// The host of a place of that location.
    pub fn of(location: &Location) -> HostId {
        HostId::all().find(|host| host.to_string() == location.host).expect("places are on the model's hosts")
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        char::from(b'A' + self.0).fmt(f)
    }
}

/// One life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// Where.
    pub host: HostId,
    /// Counted from 1 on that host.
    pub number: u8,
}

impl Life {
    /// Its number in records.
    pub fn incarnation(self) -> Incarnation {
        Incarnation(bytes([self.host.0 + 1, self.number, 0, 0, 0]))
    }

    /// The life that stands in a record.
    pub fn of(id: Incarnation) -> Life {
        let [host, number, ..] = id.0;
        Life { host: HostId(host - 1), number }
    }

    /// Its number for a state directory that it makes.
    pub fn store(self) -> Incarnation {
        Incarnation(bytes([self.host.0 + 1, self.number, 0xd, 0, 0]))
    }

    /// Its number for what it tries to append after so many exchanges of the witness. Two tries of one life have one number: only one of
    /// them can stand, and nobody asks which.
    pub fn attempt(self, exchanges: u8) -> Attempt {
        Attempt(bytes([self.host.0 + 1, self.number, 0xa, exchanges, 0]))
    }

    /// The register that it proposes as the heir in the exchange of that number.
    pub fn heir(self, exchange: u8) -> RegisterId {
        RegisterId(bytes([self.host.0 + 1, self.number, 0xe, exchange, 0]))
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.number)
    }
}

/// One pairing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Join {
    /// The primary.
    pub primary: Life,
    /// The backup.
    pub backup: Life,
    /// Counted from 1 for each primary.
    pub number: u8,
}

impl Join {
    /// Its join id.
    pub fn session(self) -> SessionId {
        let Join { primary, backup, number } = self;
        SessionId(bytes([primary.host.0 + 1, primary.number, backup.host.0 + 1, backup.number, number]))
    }

    /// The pairing of a join id.
    pub fn of(session: SessionId) -> Join {
        let [host, life, backup, backup_life, number, ..] = session.0;
        let life_of = |host: u8, number| Life { host: HostId(host - 1), number };
        Join { primary: life_of(host, life), backup: life_of(backup, backup_life), number }
    }
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}#{}", self.primary, self.backup, self.number)
    }
}

fn bytes(head: [u8; 5]) -> [u8; 16] {
    let mut all = [0; 16];
    all[..head.len()].copy_from_slice(&head);
    all
}
