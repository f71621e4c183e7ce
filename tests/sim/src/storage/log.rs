//! The log of disk writes: whole records, until one that is not.

use replication::EpochId;

use crate::rng::Rng;

/// What a record costs beside its bytes.
const OVERHEAD: usize = 32;

/// Disk writes of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub epoch: EpochId,
    /// Where and what, in order.
    pub writes: Vec<(usize, Vec<u8>)>,
}

impl Record {
    fn bytes(&self) -> usize {
        OVERHEAD + self.writes.iter().map(|(_, data)| data.len()).sum::<usize>()
    }
}

/// A log file. A new one is begun by truncation, which is on the medium when it is done.
#[derive(Clone)]
pub struct Log {
    records: Vec<Record>,
    /// Of them are on the medium.
    synced: usize,
    room: usize,
}

impl Log {
    /// An empty log that is full at so many bytes.
    pub fn new(room: usize) -> Self {
        Log { records: Vec::new(), synced: 0, room }
    }

    fn used(&self) -> usize {
        self.records.iter().map(Record::bytes).sum()
    }

    /// Whether it takes a record now. An empty one takes any.
    pub fn has_room(&self, record: &Record) -> bool {
        self.records.is_empty() || self.used() + record.bytes() <= self.room
    }

    /// Whether it is time to empty it.
    pub fn is_half_full(&self) -> bool {
        self.used() > self.room / 2
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Writes a record behind the others, into the page cache.
    pub fn append(&mut self, record: Record) {
        self.records.push(record);
    }

    /// What was written is on the medium.
    pub fn sync(&mut self) {
        self.synced = self.records.len();
    }

    /// It has no record any more.
    pub fn truncate(&mut self) {
        self.records.clear();
        self.synced = 0;
    }

    /// The power failed: of records that were not synced the last ones are gone or torn, which ends the log.
    pub fn cut(&mut self, rng: &mut Rng) {
        let kept = rng.range(self.synced as u64, self.records.len() as u64) as usize;
        self.records.truncate(kept);
        self.synced = kept;
    }

    /// What its whole records have of epochs up to `upto`, in order.
    pub fn writes(&self, upto: EpochId) -> impl Iterator<Item = &(usize, Vec<u8>)> {
        self.records.iter().filter(move |record| record.epoch <= upto).flat_map(|record| &record.writes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SECTOR;

    fn record(epoch: u64) -> Record {
        Record { epoch: EpochId(epoch), writes: vec![(0, vec![epoch as u8; SECTOR])] }
    }

    #[test]
    fn loss_of_power_takes_records_from_the_end_that_were_not_synced() {
        let mut log = Log::new(1000);
        log.append(record(1));
        log.sync();
        log.append(record(2));
        log.append(record(3));
        let mut left: Vec<u8> = (0..100)
            .map(|seed| {
                let mut log = log.clone();
                log.cut(&mut Rng::new(seed));
                log.writes(EpochId(9)).last().expect("the first one was synced").1[0]
            })
            .collect();
        left.sort_unstable();
        left.dedup();
        assert_eq!(left, [1, 2, 3]);
    }

    #[test]
    fn log_takes_any_record_when_it_is_empty_and_none_beyond_its_room() {
        let mut log = Log::new(150);
        let large = Record { epoch: EpochId(1), writes: vec![(0, vec![1; 4 * SECTOR])] };
        assert!(log.has_room(&large));
        log.append(record(1));
        assert!(log.is_half_full() && !log.has_room(&record(2)));
        log.truncate();
        assert!(log.has_room(&record(2)) && !log.is_half_full());
    }
}
