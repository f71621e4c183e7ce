//! The claim files in their directory. Every function here may hang with the storage.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::holder::Holder;

/// A claim file is far smaller.
const CLAIM_BYTES_MAX: u64 = 4096;

/// A claim that has not been ended.
#[derive(Debug)]
pub(super) struct OpenClaim {
    pub(super) holder: Holder,
    /// The file that would end it.
    pub(super) ended: PathBuf,
}

/// The directory of the claims of all VMs.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    dir: PathBuf,
}

impl Claims {
    pub(super) fn new(dir: &Path) -> Self {
        Claims { dir: dir.into() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes, links and removes a file, as a claim will.
    pub(super) fn probe(&self) -> io::Result<()> {
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let (one, two) =
            (self.dir.join(format!(".probe-{}.1", id.trim())), self.dir.join(format!(".probe-{}.2", id.trim())));
        write_new(&one, b"probe\n")?;
        let linked = fs::hard_link(&one, &two).and_then(|()| fs::remove_file(&two));
        fs::remove_file(&one)?;
        linked
    }

    /// Claims the session, or finds who has it. Gives the holder; a holder that is not `me` was earlier.
    pub(super) fn claim(&self, vm: &str, session: [u8; 16], me: &Holder) -> io::Result<Holder> {
        let stem = stem(vm, session);
        let claim = self.dir.join(format!("{stem}.claim"));
        let draft = self.dir.join(format!(".{stem}.{}", me.id));
        let text = serde_json::to_vec_pretty(me).expect("a holder has string keys only");
        // A draft of ours is left from an attempt that was cut off; it may be half written.
        remove_if_there(&draft)?;
        write_new(&draft, &text)?;
        let linked = fs::hard_link(&draft, &claim);
        let removed = remove_if_there(&draft);
        match linked {
            Ok(()) => {}
            // The name is taken: by the other side, or by us in an attempt whose answer was lost.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        removed?;
        let holder = read_holder(&claim)?;
        // The name must last as long as the promise that is built on it.
        File::open(&self.dir)?.sync_all()?;
        Ok(holder)
    }

    /// The claims of `vm` that have not been ended.
    pub(super) fn open_claims(&self, vm: &str) -> io::Result<Vec<OpenClaim>> {
        let mut open = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if !is_claim_of(&path, vm) {
                continue;
            }
            let ended = path.with_extension("ended");
            if !ended.try_exists()? {
                open.push(OpenClaim { holder: read_holder(&path)?, ended });
            }
        }
        Ok(open)
    }

    /// Ends every open claim of `vm`: the side that ran it has stopped it.
    pub(super) fn end(&self, vm: &str, me: &Holder) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(me).expect("a holder has string keys only");
        for OpenClaim { ended, .. } in self.open_claims(vm)? {
            match write_new(&ended, &text) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        File::open(&self.dir)?.sync_all()
    }
}

/// `NAME.SESSION`. A name may hold dots, a session has 32 hex digits: the last dot parts them.
fn stem(vm: &str, session: [u8; 16]) -> String {
    let hex: String = session.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{vm}.{hex}")
}

fn is_claim_of(path: &Path, vm: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let parts = name.and_then(|name| name.strip_suffix(".claim")).and_then(|stem| stem.rsplit_once('.'));
    parts.is_some_and(|(of, session)| of == vm && session.len() == 32)
}

/// A new file with `content`, on stable storage.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Reads a claim file. One that is not ours proves nothing, so it is an error and not a holder.
fn read_holder(path: &Path) -> io::Result<Holder> {
    let mut text = Vec::new();
    File::open(path)?.take(CLAIM_BYTES_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("claim file {}: {error}", path.display())))
}
