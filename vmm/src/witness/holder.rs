//! Who holds a claim: one process, told apart from every other process of every host.

use std::fmt;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// What the holder was when it claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It ran the guest, lost its backup, and goes on alone.
    Primary,
    /// It stood by, lost its primary, and takes over.
    Backup,
}

/// One process that may hold a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// Random, made once per process. This alone decides who is who.
    pub id: String,
    /// The host's name, for people.
    pub host: String,
    /// The boot of that host.
    pub boot_id: String,
    /// The process.
    pub pid: u32,
    /// Its start, in clock ticks since that boot: a reused pid has another.
    pub started: u64,
    /// What it was.
    pub role: Role,
}

impl Holder {
    /// This process. Make it once, and claim with the same one.
    pub fn this_process(role: Role) -> io::Result<Self> {
        let pid = std::process::id();
        Ok(Holder {
            id: kernel_text("random/uuid")?,
            host: kernel_text("hostname")?,
            boot_id: kernel_text("random/boot_id")?,
            pid,
            started: started(pid)?,
            role,
        })
    }

    /// Whether it is the same process.
    pub fn is(&self, other: &Holder) -> bool {
        self.id == other.id
    }

    /// Whether it was a process of this host's present boot and is no more. Of another host or boot nothing is known.
    pub(super) fn has_died_here(&self) -> bool {
        let here = kernel_text("random/boot_id").is_ok_and(|boot| boot == self.boot_id);
        here && match started(self.pid) {
            Ok(started) => started != self.started,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let was = match self.role {
            Role::Primary => "primary",
            Role::Backup => "backup",
        };
        write!(f, "the {was} on host {} (pid {})", self.host, self.pid)
    }
}

fn kernel_text(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(format!("/proc/sys/kernel/{name}"))?.trim().into())
}

/// Field 22 of `/proc/PID/stat`. The second field, the name, may hold anything but ends at the last bracket.
fn started(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = after_name.split_ascii_whitespace().nth(19).and_then(|text| text.parse().ok());
    field.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no start time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_unique() {
        let me = Holder::this_process(Role::Primary).expect("/proc is there");
        let other = Holder::this_process(Role::Primary).expect("/proc is there");
        assert!(!me.has_died_here());
        assert!(me.is(&me.clone()) && !me.is(&other));
    }

    #[test]
    fn has_died_here_reused_pid_is_dead_and_other_boot_is_unknown() {
        let me = Holder::this_process(Role::Backup).expect("/proc is there");
        assert!(Holder { started: me.started + 1, ..me.clone() }.has_died_here());
        assert!(Holder { pid: u32::MAX, ..me.clone() }.has_died_here());
        assert!(!Holder { pid: u32::MAX, boot_id: "another".into(), ..me }.has_died_here());
    }
}
