//! Tests that this machine cannot run: they say so, and are not counted as passed.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use protect::testing::EtcdServer;

/// What a test may need of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// `/dev/kvm`, to read and write.
    Kvm,
    /// A processor with AVX.
    Avx,
    /// Root, for network namespaces, taps and mounts.
    Root,
    /// The program `ip` and `/dev/net/tun`.
    Network,
    /// A userfaultfd that sees the kernel's faults.
    Userfaultfd,
    /// The program `strace`.
    Strace,
    /// The program `etcd`.
    Etcd,
}

impl Need {
    /// Why it cannot be had here.
    fn missing(self) -> Option<String> {
        match self {
            Self::Kvm => std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .err()
                .map(|error| format!("/dev/kvm cannot be opened: {error}")),
            Self::Avx => (!is_x86_feature_detected!("avx")).then(|| "this processor has no AVX".into()),
            Self::Root => (!is_root()).then(|| "it takes root".into()),
            Self::Userfaultfd => {
                machine::memory::uffd::Uffd::open().err().map(|error| format!("no userfaultfd: {error}"))
            }
            Self::Strace => (!runs("strace")).then(|| "there is no `strace`".into()),
            Self::Etcd => {
                (!EtcdServer::is_there()).then(|| "there is no `etcd` on the PATH: scripts/etcd has one".into())
            }
            Self::Network if !Path::new("/dev/net/tun").exists() => Some("there is no /dev/net/tun".into()),
            Self::Network => (!runs("ip")).then(|| "there is no `ip` (package iproute2)".into()),
        }
    }
}

/// Our own directory under /proc belongs to us.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").expect("/proc is there").uid() == 0
}

fn runs(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("-V").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether this machine has all of `needs`. If not, `SKIPPED test: why` goes to standard output past the capture of
/// the test runner, for whoever counts.
pub fn can_run(test: &str, needs: &[Need]) -> bool {
    let Some(why) = needs.iter().find_map(|need| need.missing()) else { return true };
    say(&format!("{test}: {why}"));
    false
}

/// Says that `part` of a test that does the rest was left out.
pub fn part(part: &str, why: &str) {
    say(&format!("part {part}: {why}"));
}

fn say(what: &str) {
    let line = format!("\nSKIPPED {what}\n");
    std::io::stdout().write_all(line.as_bytes()).expect("standard output takes a line");
}

/// Leaves the test unless this machine has what it needs.
#[macro_export]
macro_rules! needs {
    ($($need:ident),+) => {
        fn here() {}
        let name = std::any::type_name_of_val(&here).trim_end_matches("::here");
        if !$crate::skip::can_run(name, &[$($crate::skip::Need::$need),+]) {
            return;
        }
    };
}
