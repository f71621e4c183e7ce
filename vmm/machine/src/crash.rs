//! How a crash of the guest is recognised.

use serde::{Deserialize, Serialize};

/// How a guest crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crash {
    /// Its kernel said so, through pvpanic, and stands still.
    Panicked,
    /// A fault while it dealt with a fault while it dealt with a fault: a processor that shuts down.
    TripleFault,
    /// It had itself watched, and gave no sign of life for as long as it had said.
    Watchdog,
}

impl From<Crash> for outlast_api::Crash {
    fn from(crash: Crash) -> Self {
        match crash {
            Crash::Panicked => Self::Panicked,
            Crash::TripleFault => Self::TripleFault,
            Crash::Watchdog => Self::Watchdog,
        }
    }
}

impl std::fmt::Display for Crash {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Panicked => "its kernel reported a panic",
            Self::TripleFault => "a processor shut down after a triple fault",
            Self::Watchdog => "its watchdog ran out",
        })
    }
}
