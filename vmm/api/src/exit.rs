//! The exit codes of `outlast`; a [`Fault`](crate::Fault) carries the name of one.

use std::process::ExitCode;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The exit codes of `outlast`. Scripts depend on the numbers; they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Exit {
    /// All that was asked is done.
    Ok = 0,
    /// It failed, and none of the codes below says it better.
    Error = 1,
    /// The command line or the configuration is wrong. Nothing was started.
    Usage = 2,
    /// A file, VM, tap or socket that was named is not there.
    NotFound = 3,
    /// Something else holds what is needed, or the VM is in a state that forbids the request.
    Conflict = 4,
    /// No answer in time.
    Timeout = 5,
    /// Refused, because two hosts might then run the same guest.
    SplitBrain = 6,
    /// This VMM lost its lease and stopped its guest; nothing was released after that.
    SelfFenced = 160,
    /// State from another version, another VM or another kind of CPU.
    Incompatible = 163,
    /// The guest crashed by itself and the policy is to stop, or nothing is left to try.
    GuestCrashed = 164,
    /// A file that is mapped lost its pages: its disk failed, or it was cut. The process ended there, as in a crash.
    MappingLost = 165,
}

impl Exit {
    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_numbers() {
        let documented = [
            (Exit::Ok, 0),
            (Exit::Error, 1),
            (Exit::Usage, 2),
            (Exit::NotFound, 3),
            (Exit::Conflict, 4),
            (Exit::Timeout, 5),
            (Exit::SplitBrain, 6),
            (Exit::SelfFenced, 160),
            (Exit::Incompatible, 163),
            (Exit::GuestCrashed, 164),
            (Exit::MappingLost, 165),
        ];
        for (exit, number) in documented {
            assert_eq!(exit.code(), number, "{exit:?}");
        }
    }
}
