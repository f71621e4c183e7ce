//! Where the log of a machine's disks lies, and which failures that survives.
//!
//! | the first writable image | its log |
//! |---|---|
//! | any, with `--disk-log DIR` | in DIR, called by the image's whole path |
//! | a file | beside it, whatever name led to it: `IMAGE.epochs` |
//! | a block device | in the state directory, called by the device's path: beside it, in devtmpfs, a loss of power takes it |
//!
//! The log should survive what the images survive. Where it does not, a commit that waits for it promises too much: that is
//! refused for block devices, whose content stays when the log goes, and told for files, which go with it.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use recoverable::{Medium, Survives};

const EXTENSION: &str = "epochs";

/// Where a log lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// What it survives.
    pub survives: Survives,
    /// What it lies on, for people.
    pub medium: String,
}

/// What is asked of a place.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The directory that was chosen by hand.
    pub chosen: Option<&'a Path>,
    /// The VM's state directory.
    pub state_dir: &'a Path,
    /// Commits are to survive a loss of power.
    pub must_survive_power: bool,
}

/// Why a log cannot lie where it would.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A commit would not survive what it is to survive.
    #[error("the log of {}'s writes would lie in {} ({medium}), which a loss of power takes although the device stays", device.display(), dir.display())]
    TooWeak {
        /// The device.
        device: PathBuf,
        /// Where the log would lie.
        dir: PathBuf,
        /// What that lies on.
        medium: String,
    },
    /// What a directory lies on could not be determined.
    #[error("cannot tell what {} lies on, where the log of disk writes is to be: {source}", dir.display())]
    Examine {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Place {
    /// Where the log of a machine lies whose writable images these are; none without a writable image.
    pub fn of<'a>(
        mut writable: impl Iterator<Item = &'a Path>,
        wanted: Wanted<'_>,
    ) -> Result<Option<Self>, PlaceError> {
        let Some(image) = writable.next() else { return Ok(None) };
        // What is not there is named when it is opened.
        let image = image.canonicalize().unwrap_or_else(|_| image.to_owned());
        let is_device = fs::metadata(&image).is_ok_and(|metadata| metadata.file_type().is_block_device());
        let dir = match wanted.chosen {
            Some(dir) => dir,
            None if is_device => wanted.state_dir,
            None => image.parent().unwrap_or(&image),
        };
        let medium = Medium::of_directory(dir).map_err(|source| PlaceError::Examine { dir: dir.to_owned(), source })?;
        let name = name_of(&image, is_device || wanted.chosen.is_some());
        let place = Self { path: dir.join(name), survives: medium.survives(), medium: medium.to_string() };
        if is_device && wanted.must_survive_power && place.survives < Survives::PowerLoss {
            return Err(place.too_weak_for(image));
        }
        Ok(Some(place))
    }

    fn too_weak_for(self, device: PathBuf) -> PlaceError {
        let dir = self.path.parent().unwrap_or(&self.path).to_owned();
        PlaceError::TooWeak { device, dir, medium: self.medium }
    }
}

/// Its own name beside an image; elsewhere one that no other image's log has.
fn name_of(image: &Path, by_path: bool) -> PathBuf {
    let bytes = image.as_os_str().as_bytes();
    let name: Vec<u8> = match by_path {
        true => bytes
            .iter()
            .skip_while(|byte| **byte == b'/')
            .map(|byte| if *byte == b'/' { b'-' } else { *byte })
            .collect(),
        false => image.file_name().unwrap_or_default().as_bytes().to_vec(),
    };
    let mut name = PathBuf::from(std::ffi::OsStr::from_bytes(&name));
    name.as_mut_os_string().push(".");
    name.as_mut_os_string().push(EXTENSION);
    name
}

/// Logs that lie in `dir`, by their names.
pub(super) fn logs_in(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(chosen: Option<&'a Path>, state_dir: &'a Path) -> Wanted<'a> {
        Wanted { chosen, state_dir, must_survive_power: true }
    }

    fn place_of(image: &Path, wanted: Wanted<'_>) -> Place {
        Place::of([image].into_iter(), wanted).expect("a place").expect("a writable image")
    }

    #[test]
    fn log_lies_beside_the_file_that_a_name_leads_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().canonicalize().expect("it is there");
        let (image, link) = (dir.join("root.img"), dir.join("link"));
        fs::write(&image, "").expect("written");
        std::os::unix::fs::symlink(&image, &link).expect("linked");
        for name in [&image, &link] {
            assert_eq!(place_of(name, wanted(None, &dir)).path, dir.join("root.img.epochs"));
        }
        assert_eq!(Place::of(std::iter::empty(), wanted(None, &dir)).expect("nothing is needed"), None);
    }

    #[test]
    fn chosen_directory_holds_the_logs_of_images_of_one_name_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().canonicalize().expect("it is there");
        let place = |name: &str| {
            let image = dir.join(name).join("root.img");
            fs::create_dir(image.parent().expect("it has one")).expect("made");
            fs::write(&image, "").expect("written");
            place_of(&image, wanted(Some(&dir), &dir)).path
        };
        let (a, b) = (place("a"), place("b"));
        assert!(a != b && a.parent() == Some(&*dir) && a.to_string_lossy().ends_with("-a-root.img.epochs"), "{a:?}");
        assert_eq!(logs_in(&dir).len(), 0);
        fs::write(&a, "").expect("written");
        assert_eq!(logs_in(&dir), [a]);
    }

    #[test]
    fn missing_directory_is_not_found_and_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let missing = dir.path().join("none");
        let error =
            Place::of([Path::new("/dev/null")].into_iter(), wanted(Some(&missing), dir.path())).expect_err("none");
        let PlaceError::Examine { dir, source } = error else { panic!("{error}") };
        assert_eq!((dir, source.kind()), (missing, io::ErrorKind::NotFound));
    }
}
