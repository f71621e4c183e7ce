use super::*;
use crate::epoch::capture;
use crate::stats::Stats;
use replication::EpochId;

const RAM_BYTES: u64 = 2 << 20;

/// What a whole guest does with it is in tests/guests. Here: the files.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    fn create(&self) -> Result<LocalStore, LocalError> {
        LocalStore::create(self.0.path(), RAM_BYTES)
    }

    fn open(&self) -> Result<(LocalStore, LastEpoch), LocalError> {
        LocalStore::open(self.0.path(), RAM_BYTES)
    }
}

/// Commits an epoch in which pages `gfns` became `fill`.
fn commit(store: &mut LocalStore, epoch: u64, gfns: &[u64], fill: u8) -> Committed {
    let ram = Ram::new(RAM_BYTES).unwrap();
    gfns.iter().for_each(|gfn| assert!(ram.write_page(*gfn, &[fill; PAGE_SIZE])));
    let pages = capture::stop_and_copy(&std::sync::Arc::new(Stats::default())).capture(&ram, gfns.to_vec());
    let mut record = Vec::new();
    record::encode(EpochId(epoch), format!("state {epoch}").as_bytes(), [].iter(), &mut record);
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
    let place = Place::new();
    assert_eq!(place.open().unwrap_err().exit(), Exit::NotFound);
    drop(place.create().unwrap());
    let error = place.open().unwrap_err();
    assert!(matches!(error, LocalError::Record { source: RecordError::Empty, .. }), "{error}");
    drop(LocalStore::create(place.0.path(), 2 * RAM_BYTES).unwrap());
}

#[test]
fn committed_epoch_is_there_again_and_its_directory_is_taken() {
    let place = Place::new();
    let mut store = place.create().unwrap();
    commit(&mut store, 1, &[3, 511], 7);
    let committed = commit(&mut store, 2, &[3, 4], 7);
    assert_eq!(committed.unchanged, vec![3]);
    assert_eq!(place.open().unwrap_err().exit(), Exit::Conflict, "it is in use");
    drop(store);
    assert_eq!(place.create().unwrap_err().exit(), Exit::Conflict);
    let (store, last) = place.open().unwrap();
    assert_eq!((last.epoch, last.state), (EpochId(2), b"state 2".to_vec()));
    assert_eq!([0, 3, 4, 511].map(|gfn| page_of(&store, gfn)), [0, 7, 7, 7]);
}

#[test]
fn guest_of_another_size_than_expected_is_opened_with_its_own() {
    let place = Place::new();
    commit(&mut place.create().unwrap(), 1, &[511], 7);
    let (store, _) = LocalStore::open(place.0.path(), 64 << 20).unwrap();
    assert_eq!(page_of(&store, 511), 7);
}

#[test]
fn transaction_that_was_not_ended_is_not_there_again() {
    let place = Place::new();
    let mut store = place.create().unwrap();
    commit(&mut store, 1, &[3], 7);
    RecoverableMemory::begin(&mut store.memory).unwrap();
    store.memory.set_range(store.ram, 0..PAGE_SIZE * 8).unwrap().fill(9);
    store.memory.set_range(store.state, 0..100).unwrap().fill(9);
    // As if the process were killed here: nothing is aborted, the files are closed.
    std::mem::forget(std::mem::replace(
        &mut store.memory,
        Vista::open(place.0.path().join("x"), VistaOptions::default()).unwrap(),
    ));
    drop(store);
    let files = [RAM, STATE, UNDO].map(|name| place.0.path().join(name));
    let copy = Place::new();
    for file in files {
        std::fs::copy(&file, copy.0.path().join(file.file_name().unwrap())).unwrap();
    }
    let (store, last) = copy.open().unwrap();
    assert_eq!(last.epoch, EpochId(1));
    assert_eq!([0, 3].map(|gfn| page_of(&store, gfn)), [0, 7]);
}

#[test]
fn epoch_larger_than_the_log_is_committed_in_pieces() {
    let place = Place::new();
    // A log with room for the state and a few pages.
    let options = VistaOptions { log_bytes: 16 * PAGE_SIZE as u64, required: Survives::ProcessDeath };
    drop(Vista::open(place.0.path().join(UNDO), options).unwrap());
    let mut store = LocalStore::map(place.0.path(), RAM_BYTES).unwrap();
    commit(&mut store, 1, &[3], 7);
    let pages: Vec<u64> = (0..400).collect();
    assert!(commit(&mut store, 2, &pages, 8).in_pieces);
    assert!(!commit(&mut store, 3, &[5], 9).in_pieces);
    drop(store);
    let (store, last) = place.open().unwrap();
    assert_eq!(last.epoch, EpochId(3));
    assert_eq!([0, 5, 399, 400].map(|gfn| page_of(&store, gfn)), [8, 9, 8, 0]);
}

#[test]
fn damaged_record_is_refused_and_says_so() {
    let place = Place::new();
    commit(&mut place.create().unwrap(), 1, &[3], 7);
    let path = place.0.path().join(STATE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096 + HEAD_BYTE] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = place.open().unwrap_err();
    assert_eq!(error.exit(), Exit::Incompatible);
    assert!(error.to_string().contains("checksum"), "{error}");
}

/// Of the epoch's number.
const HEAD_BYTE: usize = 9;

#[test]
fn removed_guest_is_not_found() {
    let place = Place::new();
    let mut store = place.create().unwrap();
    commit(&mut store, 1, &[3], 7);
    store.remove().unwrap();
    assert_eq!(place.open().unwrap_err().exit(), Exit::NotFound);
    assert_eq!(std::fs::read_dir(place.0.path()).unwrap().count(), 0);
}
