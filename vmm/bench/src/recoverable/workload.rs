//! What the transactions do: tables of rows, and changes to them, the same for every engine.

/// Bytes of the database.
pub(crate) const DATABASE_BYTES: usize = 50 << 20;
/// Most rows of the table of single stores: what an index has to hold for small rows.
const STORE_ROWS_MAX: u64 = 400_000;

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// One range of so many bytes, anywhere in the database.
    Store(usize),
    /// An account, a teller and a branch get an amount, and the history a line (after TPC-B).
    DebitCredit,
    /// An order with ten lines, each taking from a stock (after TPC-C's new order).
    OrderEntry,
}

/// A table of rows of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) rows: u64,
    pub(crate) row_bytes: usize,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Adds to the number at the beginning of a row.
    Add { table: usize, row: u64, amount: u64 },
    /// Writes a whole row.
    Write { table: usize, row: u64, byte: u8 },
}

const LINES: u64 = 10;

impl Work {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Store(bytes) => format!("store-{bytes}"),
            Self::DebitCredit => "debit-credit".into(),
            Self::OrderEntry => "order-entry".into(),
        }
    }

    /// The tables, some 50 MB together. An engine without an index sees the whole database at every length of a row.
    pub(crate) fn tables(self, is_indexed: bool) -> Vec<Table> {
        let table = |rows, row_bytes| Table { rows, row_bytes };
        match self {
            Self::Store(bytes) => {
                let rows = (DATABASE_BYTES / bytes) as u64;
                vec![table(if is_indexed { rows.min(STORE_ROWS_MAX) } else { rows }, bytes)]
            }
            Self::DebitCredit => vec![table(500_000, 100), table(1000, 100), table(100, 100), table(40_000, 50)],
            Self::OrderEntry => vec![table(100_000, 320), table(100, 96), table(100_000, 32), table(200_000, 56)],
        }
    }

    /// The changes of transaction `n`, into `changes`.
    pub(crate) fn changes(self, n: u64, tables: &[Table], changes: &mut Vec<Change>) {
        changes.clear();
        let random = mix(n);
        let byte = n as u8 | 1;
        match self {
            Self::Store(_) => changes.push(Change::Write { table: 0, row: random % tables[0].rows, byte }),
            Self::DebitCredit => {
                let amount = random % 1000;
                let row = |table: usize, shift: u32| (random >> shift) % tables[table].rows;
                let rows = [(0, row(0, 8)), (1, row(1, 30)), (2, row(2, 45))];
                changes.extend(rows.map(|(table, row)| Change::Add { table, row, amount }));
                changes.push(Change::Write { table: 3, row: n % tables[3].rows, byte });
            }
            Self::OrderEntry => {
                changes.push(Change::Add { table: 1, row: random % tables[1].rows, amount: 1 });
                changes.push(Change::Write { table: 2, row: n % tables[2].rows, byte });
                for line in 0..LINES {
                    let stock = mix(random ^ line) % tables[0].rows;
                    changes.push(Change::Add { table: 0, row: stock, amount: 1 });
                    changes.push(Change::Write { table: 3, row: (n * LINES + line) % tables[3].rows, byte });
                }
            }
        }
    }
}

fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_stay_within_their_tables() {
        for work in [Work::Store(8), Work::Store(1 << 20), Work::DebitCredit, Work::OrderEntry] {
            let tables = work.tables(false);
            let bytes: usize = tables.iter().map(|table| table.rows as usize * table.row_bytes).sum();
            assert!((44 << 20..60 << 20).contains(&bytes), "{}: {bytes} bytes", work.name());
            let mut changes = Vec::new();
            for n in 0..1000 {
                work.changes(n, &tables, &mut changes);
                assert!(!changes.is_empty());
                for change in &changes {
                    let (Change::Add { table, row, .. } | Change::Write { table, row, .. }) = *change;
                    assert!(row < tables[table].rows);
                }
            }
        }
    }
}
