//! What clap is told of a type below the front of which one value is chosen: the names, and the help of each.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser, ValueParser};

use protect::epoch::capture::CaptureMode;
use protect::local::backing::{LocalLog, Survival};
use protect::{CommitDurability, OnDegraded};

/// A type of which one value is typed.
pub(super) trait Choice: Copy + Send + Sync + 'static {
    /// Every value, as it is typed, and what it means.
    const VALUES: &'static [(Self, &'static str, &'static str)];
}

/// Reads a value of `T`.
pub(super) fn choice<T: Choice>() -> ValueParser {
    let known = T::VALUES.iter().map(|(_, name, help)| PossibleValue::new(*name).help(*help));
    ValueParser::new(PossibleValuesParser::new(known).map(|typed| {
        let meant = T::VALUES.iter().find(|(_, name, _)| *name == typed);
        meant.expect("clap passes on only what it was told of").0
    }))
}

impl Choice for OnDegraded {
    const VALUES: &'static [(Self, &'static str, &'static str)] = &[
        (Self::Continue, "continue", "The guest keeps running without this protection; event `degraded`"),
        (
            Self::Stop,
            "stop",
            "This program ends before anything of the epoch leaves; `outlast resume` continues from the epoch before",
        ),
    ];
}

impl Choice for LocalLog {
    const VALUES: &'static [(Self, &'static str, &'static str)] = &[
        (Self::Auto, "auto", "Redo on an ordinary file system, undo elsewhere"),
        (
            Self::Undo,
            "undo",
            "In place, with an undo log, for tmpfs and persistent memory. On an ordinary file system nothing is synced",
        ),
        (Self::Redo, "redo", "A redo log that is synced at each commit, for ordinary disks"),
    ];
}

impl Choice for Survival {
    const VALUES: &'static [(Self, &'static str, &'static str)] = &[
        (Self::Process, "process", "The end of this program"),
        (Self::Kernel, "kernel", "A crash of the host's kernel"),
        (Self::Power, "power", "A loss of power"),
    ];
}

impl Choice for CommitDurability {
    const VALUES: &'static [(Self, &'static str, &'static str)] = &[
        (Self::Disk, "disk", "Both sides have the epoch's disk writes in a synced log"),
        (
            Self::Memory,
            "memory",
            "The backup has the epoch in RAM. A power cut of both hosts loses it, and may leave images that mix writes of several \
             moments",
        ),
    ];
}

impl Choice for CaptureMode {
    const VALUES: &'static [(Self, &'static str, &'static str)] = &[
        (Self::Auto, "auto", "Whichever was measured to give the shorter pause, chosen at each boundary"),
        (Self::StopAndCopy, "stop-and-copy", "In the pause"),
        (
            Self::CopyOnWrite,
            "copy-on-write",
            "While the guest runs, each page before it is overwritten. Long pauses become short; the guest does less work",
        ),
    ];
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::Serialize;

    use super::*;

    /// A name that is typed is the one that `vm.json` and the configuration file have.
    fn check<T: Choice + Debug + Serialize>() {
        for (value, name, help) in T::VALUES {
            assert_eq!(serde_json::to_value(value).expect("plain data"), *name, "{value:?}");
            assert!(!help.is_empty() && !help.ends_with('.'), "{value:?}");
        }
    }

    #[test]
    fn names_of_choices_are_those_of_files() {
        check::<OnDegraded>();
        check::<LocalLog>();
        check::<Survival>();
        check::<CommitDurability>();
        check::<CaptureMode>();
    }
}
