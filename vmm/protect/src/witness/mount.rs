//! On which file system a directory is, and whether other hosts can have the same.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::checkup::Mount;

/// Those of servers and clusters.
const SHARED: [&str; 16] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "virtiofs",
    "ceph",
    "fuse.ceph-fuse",
    "fuse.glusterfs",
    "ocfs2",
    "gfs2",
    "gpfs",
    "lustre",
    "beegfs",
    "fuse.sshfs",
    "afs",
];
/// Those of one host's memory and disks. On a disk that several hosts have, each of them sees its own.
const OWN: [&str; 13] = [
    "tmpfs", "ramfs", "devtmpfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "overlay", "vfat", "bcachefs",
];

/// The file system that `dir` is on.
pub(super) fn of(dir: &Path) -> io::Result<Mount> {
    let (dir, mounts) = (fs::canonicalize(dir)?, fs::read_to_string("/proc/self/mountinfo")?);
    find(&dir, &mounts).ok_or_else(|| io::Error::other("/proc/self/mountinfo does not name its file system"))
}

/// The innermost mount above `dir`, of those that `mounts` lists; the last one at a place is on top.
fn find(dir: &Path, mounts: &str) -> Option<Mount> {
    let above = mounts.lines().filter_map(parse).filter(|(point, _)| dir.starts_with(point));
    above.max_by_key(|(point, _)| point.components().count()).map(|(_, mount)| mount)
}

/// A line of `/proc/self/mountinfo` (proc(5)): where it is mounted, and what.
fn parse(line: &str) -> Option<(PathBuf, Mount)> {
    let (place, what) = line.split_once(" - ")?;
    let point = unescaped(place.split(' ').nth(4)?);
    let mut what = what.split(' ');
    let file_system = unescaped(what.next()?);
    let source = unescaped(what.next()?);
    let is_shared = match &*file_system {
        kind if SHARED.contains(&kind) => Some(true),
        kind if OWN.contains(&kind) => Some(false),
        _ => None,
    };
    Some((point.into(), Mount { file_system, source, is_shared }))
}

/// The kernel writes blanks, line ends and backslashes as `\` and three octal digits.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                whole.push(byte.into());
                whole.push_str(&part[3..]);
            }
            None => {
                whole.push('\\');
                whole.push_str(part);
            }
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:26 / /srv rw - tmpfs tmpfs rw
31 22 0:40 / /srv/a\\040witness rw,relatime shared:2 - nfs4 10.0.0.9:/export/a\\040witness rw,vers=4.2
32 22 0:41 / /srv rw - fuse.myfs my rw
33 22 0:42 / /srvx rw - 9p host rw
";

    #[test]
    fn innermost_mount_counts_and_the_last_at_a_place() {
        let kind = |dir: &str| find(Path::new(dir), MOUNTS).map(|mount| (mount.file_system, mount.is_shared));
        assert_eq!(kind("/srv/a witness/x"), Some(("nfs4".into(), Some(true))));
        assert_eq!(kind("/srv/a"), Some(("fuse.myfs".into(), None)));
        assert_eq!(kind("/srvx"), Some(("9p".into(), Some(true))));
        assert_eq!(kind("/home"), Some(("ext4".into(), Some(false))));
        assert_eq!(find(Path::new("/srv/a witness"), MOUNTS).expect("mounted").source, "10.0.0.9:/export/a witness");
    }

    #[test]
    fn directory_of_this_host_has_a_file_system() {
        let mount = of(&std::env::temp_dir()).expect("it is mounted");
        assert!(!mount.file_system.is_empty());
        assert_eq!(of(Path::new("/none/at/all")).expect_err("missing").kind(), io::ErrorKind::NotFound);
    }
}
