use super::backing::LocalLog;
use super::*;
use crate::epoch::capture;
use machine::stats::Stats;
use recoverable::{Rvm, Vista, VistaOptions};
use replication::{ChainHash, EpochId, Term};

const RAM_BYTES: u64 = 2 << 20;

/// What a whole guest does with it is in tests/guests. Here: the files, with either log.
struct Place {
    dir: tempfile::TempDir,
    options: LocalOptions,
}

impl Place {
    fn new(log: LocalLog) -> Self {
        let options = LocalOptions { log, required: Survives::ProcessDeath, images: Survives::PowerLoss };
        Self { dir: tempfile::tempdir_in("/dev/shm").unwrap(), options }
    }

    fn each() -> [Self; 2] {
        [LocalLog::Undo, LocalLog::Redo].map(Self::new)
    }

    /// On an ordinary file system, if the sources lie on one.
    fn on_disk(log: LocalLog) -> Self {
        Self { dir: tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap(), ..Self::new(log) }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn create(&self) -> Result<LocalStore, LocalError> {
        LocalStore::create(self.path(), RAM_BYTES, self.options)
    }

    fn open(&self) -> Result<(LocalStore, LastEpoch), LocalError> {
        LocalStore::open(self.path(), RAM_BYTES, self.options)
    }
}

pub(super) fn identity(count: u64) -> Identity {
    let mark = EpochMark { branch: Term(1), count: EpochId(count), chain: ChainHash([count as u8; 16]) };
    Identity { mark, life: LifeId::default(), line: Line::Nothing }
}

/// Commits an epoch in which pages `gfns` became `fill`.
fn commit(store: &mut LocalStore, epoch: u64, gfns: &[u64], fill: u8) -> Committed {
    let ram = Ram::new(RAM_BYTES).unwrap();
    gfns.iter().for_each(|gfn| assert!(ram.write_page(*gfn, &[fill; PAGE_SIZE])));
    let pages = capture::stop_and_copy(&std::sync::Arc::new(Stats::default())).capture(&ram, gfns.to_vec());
    let mut record = Vec::new();
    record::encode(&identity(epoch), format!("state {epoch}").as_bytes(), [].iter(), &mut record);
    store.commit_with(&pages, &record).unwrap()
}

fn page_of(store: &LocalStore, gfn: u64) -> u8 {
    let mut page = [0; PAGE_SIZE];
    assert!(store.map_ram().unwrap().read_page(gfn, &mut page));
    assert!(page.iter().all(|byte| *byte == page[0]));
    page[0]
}

#[test]
fn directory_without_a_guest_is_not_found_and_one_that_never_committed_is_free() {
    for place in Place::each() {
        assert!(matches!(place.open().unwrap_err(), LocalError::Nothing { .. }));
        drop(place.create().unwrap());
        let error = place.open().unwrap_err();
        assert!(matches!(error, LocalError::Record { source: RecordError::Empty, .. }), "{error}");
        drop(LocalStore::create(place.path(), 2 * RAM_BYTES, place.options).unwrap());
    }
}

#[test]
fn committed_epoch_is_there_again_and_its_directory_is_taken() {
    for place in Place::each() {
        let mut store = place.create().unwrap();
        commit(&mut store, 1, &[3, 511], 7);
        let committed = commit(&mut store, 2, &[3, 4], 7);
        assert_eq!(committed.unchanged, vec![3]);
        let is_in_use = |error: &LocalError| matches!(error, LocalError::Memory(recoverable::Error::Locked { .. }));
        assert!(is_in_use(&place.open().unwrap_err()));
        drop(store);
        assert!(matches!(place.create().unwrap_err(), LocalError::Occupied { .. }));
        let (store, last) = place.open().unwrap();
        assert_eq!((last.epoch(), last.state), (EpochId(2), b"state 2".to_vec()));
        assert_eq!([0, 3, 4, 511].map(|gfn| page_of(&store, gfn)), [0, 7, 7, 7]);
    }
}

#[test]
fn guest_is_resumed_by_the_log_that_it_has_whatever_is_asked_for() {
    for (began, asked) in [(LocalLog::Redo, LocalLog::Undo), (LocalLog::Undo, LocalLog::Redo)] {
        let mut place = Place::new(began);
        commit(&mut place.create().unwrap(), 1, &[3], 7);
        place.options.log = asked;
        let (store, _) = place.open().unwrap();
        assert_eq!(
            (store.kept().log.name(), page_of(&store, 3)),
            (if began == LocalLog::Redo { "redo" } else { "undo" }, 7)
        );
    }
}

#[test]
fn memory_of_a_resumed_guest_stays_while_later_epochs_are_committed() {
    for place in Place::each() {
        let mut store = place.create().unwrap();
        commit(&mut store, 1, &(0..512).collect::<Vec<_>>(), 7);
        drop(store);
        let (mut store, _) = place.open().unwrap();
        let ram = store.map_ram().unwrap();
        // As the guest does it: first it writes the page, then an epoch has it. So many epochs that a redo log is truncated.
        let written: Vec<u64> = (0..400).collect();
        assert!(written.iter().all(|gfn| ram.write_page(*gfn, &[8; PAGE_SIZE])));
        for epoch in 2..80 {
            commit(&mut store, epoch, &written, 7 + epoch as u8);
        }
        let pages = [3, 400].map(|gfn| {
            let mut page = [0; PAGE_SIZE];
            assert!(ram.read_page(gfn, &mut page));
            page[0]
        });
        assert_eq!(pages, [8, 7]);
    }
}

#[test]
fn guest_of_another_size_than_expected_is_opened_with_its_own() {
    for place in Place::each() {
        commit(&mut place.create().unwrap(), 1, &[511], 7);
        let (store, _) = LocalStore::open(place.path(), 64 << 20, place.options).unwrap();
        assert_eq!(page_of(&store, 511), 7);
    }
}

#[test]
fn transaction_that_was_not_ended_is_not_there_again() {
    for place in Place::each() {
        let mut store = place.create().unwrap();
        commit(&mut store, 1, &[3], 7);
        store.memory.begin().unwrap();
        store.memory.set_range(store.ram, 0..PAGE_SIZE * 8).unwrap().fill(9);
        store.memory.set_range(store.state, 0..100).unwrap().fill(9);
        // As if the process were killed here: nothing is aborted, the files are as they are.
        let copy = Place::new(place.options.log);
        for file in std::fs::read_dir(place.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let (store, last) = copy.open().unwrap();
        assert_eq!(last.epoch(), EpochId(1));
        assert_eq!([0, 3].map(|gfn| page_of(&store, gfn)), [0, 7]);
    }
}

/// An epoch of 400 pages, behind one and before another, where the log has not the room for it.
fn in_pieces(place: &Place) {
    let mut store = LocalStore::map(place.path(), RAM_BYTES, place.options).unwrap();
    commit(&mut store, 1, &[3], 7);
    let pages: Vec<u64> = (0..400).collect();
    store.piece_bytes = store.piece_bytes.min(16 * PAGE_SIZE);
    assert!(commit(&mut store, 2, &pages, 8).in_pieces);
    assert!(!commit(&mut store, 3, &[5], 9).in_pieces);
    drop(store);
    let (store, last) = place.open().unwrap();
    assert_eq!(last.epoch(), EpochId(3));
    assert_eq!([0, 5, 399, 400].map(|gfn| page_of(&store, gfn)), [8, 9, 8, 0]);
}

#[test]
fn epoch_larger_than_the_log_is_committed_in_pieces() {
    let [undo, redo] = Place::each();
    // Logs with room for the state and a few pages.
    let options = VistaOptions { log_bytes: 16 * PAGE_SIZE as u64, required: Survives::ProcessDeath };
    drop(Vista::open(undo.path().join("undo"), options).unwrap());
    in_pieces(&undo);
    Rvm::create_log(redo.path().join("redo"), 64 * PAGE_SIZE as u64).unwrap();
    in_pieces(&redo);
}

#[test]
fn damaged_record_is_refused_and_says_so() {
    for place in Place::each() {
        let mut store = place.create().unwrap();
        commit(&mut store, 1, &[3], 7);
        drop(store);
        // A redo log has brought its content to the files when it is opened again.
        drop(place.open().unwrap());
        let path = place.path().join("state");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4096 + HEAD_BYTE] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = place.open().unwrap_err();
        assert!(matches!(error, LocalError::Record { .. }), "{error:?}");
        assert!(error.to_string().contains("checksum"), "{error}");
    }
}

/// Of the epoch's number.
const HEAD_BYTE: usize = 9;

#[test]
fn removed_guest_is_not_found() {
    for place in Place::each() {
        let mut store = place.create().unwrap();
        commit(&mut store, 1, &[3], 7);
        store.remove().unwrap();
        assert!(matches!(place.open().unwrap_err(), LocalError::Nothing { .. }));
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
}

#[test]
fn log_is_chosen_by_the_medium_and_says_what_it_survives() {
    let kept = |place: Place| place.create().map(|store| (store.kept().log.name(), store.kept().survives));
    assert_eq!(kept(Place::new(LocalLog::Auto)).unwrap(), ("undo", Survives::ProcessDeath));
    assert_eq!(kept(Place::new(LocalLog::Redo)).unwrap(), ("redo", Survives::ProcessDeath));
    let disk = Place::on_disk(LocalLog::Auto);
    if recoverable::Medium::of_directory(disk.path()).unwrap() == recoverable::Medium::Disk {
        assert_eq!(kept(disk).unwrap(), ("redo", Survives::PowerLoss));
        assert_eq!(kept(Place::on_disk(LocalLog::Undo)).unwrap(), ("undo", Survives::ProcessDeath));
        let mut weak = Place::on_disk(LocalLog::Redo);
        weak.options.images = Survives::ProcessDeath;
        assert_eq!(kept(weak).unwrap(), ("redo", Survives::ProcessDeath), "the images lie on tmpfs");
    }
}

#[test]
fn weaker_storage_than_required_is_refused_and_leaves_nothing() {
    let mut place = Place::new(LocalLog::Auto);
    place.options.required = Survives::KernelCrash;
    let error = place.create().unwrap_err();
    assert!(matches!(error, LocalError::TooWeak { .. }), "{error}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    place.options.required = Survives::ProcessDeath;
    commit(&mut place.create().unwrap(), 1, &[3], 7);
    // A guest that is there is not harmed by asking for more.
    place.options.required = Survives::PowerLoss;
    assert!(matches!(place.open().unwrap_err(), LocalError::TooWeak { .. }));
    place.options.required = Survives::ProcessDeath;
    assert_eq!(place.open().unwrap().1.epoch(), EpochId(1));
}

#[test]
fn images_survive_what_the_weakest_survives() {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    assert_eq!(backing::survival_of_images([file.path()].into_iter()).unwrap(), Survives::ProcessDeath);
    assert_eq!(backing::survival_of_images(std::iter::empty()).unwrap(), Survives::PowerLoss);
    assert!(backing::survival_of_images([Path::new("/nowhere/x")].into_iter()).is_err());
}
