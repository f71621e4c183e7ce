//! Transactions of PostgreSQL as its `pgbench` makes them (TPC-B): seven statements, each one's answer awaited, one transaction at a
//! time on each connection, all served by one thread.
//!
//! Each connection has a branch of its own, whose accounts nobody else changes: so it knows what each balance must be.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::PollFlags;

use super::{Client, Counted, POSTGRES_PORT, SILENCE_MAX, connections, failed, wait};
use crate::load::agent;
use crate::session::Session;
use vmm::exit::{Exit, Failure};

/// Accounts of a branch, and tellers; `guest-images/debian/customize` makes them.
const ACCOUNTS: u64 = 10_000;
const TELLERS: u64 = 10;
const STATEMENTS: usize = 7;
/// Of those, the one whose answer is the account's balance.
const SELECT: usize = 2;
const PROTOCOL: i32 = 3 << 16;
/// Longer than any message of a server that answers these statements.
const MESSAGE_MAX: usize = 64 << 10;

/// A message of the server, whole.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    kind: u8,
    body: Vec<u8>,
}

/// Takes the first message out of `bytes`, if it is whole.
fn take_message(bytes: &mut Vec<u8>) -> Result<Option<Message>, Failure> {
    let Some((head, rest)) = bytes.split_first_chunk::<5>() else { return Ok(None) };
    let len = u32::from_be_bytes(head[1..].try_into().expect("four of five bytes")) as usize;
    if !(4..=MESSAGE_MAX).contains(&len) {
        return Err(Failure::new(Exit::Error, format!("PostgreSQL sent a message of {len} bytes")));
    }
    if rest.len() < len - 4 {
        return Ok(None);
    }
    let message = Message { kind: head[0], body: rest[..len - 4].to_vec() };
    bytes.drain(..len + 1);
    Ok(Some(message))
}

fn startup() -> Vec<u8> {
    let words = b"user\0postgres\0database\0postgres\0\0";
    let len = (8 + words.len()) as i32;
    [&len.to_be_bytes()[..], &PROTOCOL.to_be_bytes(), words].concat()
}

fn query(sql: &str) -> Vec<u8> {
    let len = (4 + sql.len() + 1) as u32;
    [b"Q", &len.to_be_bytes()[..], sql.as_bytes(), b"\0"].concat()
}

/// The only column of a row, as a number.
fn number_of(row: &[u8]) -> Option<i64> {
    std::str::from_utf8(row.get(6..)?).ok()?.parse().ok()
}

/// What a server says that has begun and takes no connections yet.
const STARTS: &[u8] = b"C57P03";
/// How long one may take for that in a guest that has just booted, and how often it is asked.
const START_MAX: Duration = Duration::from_secs(300);
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Waits until PostgreSQL takes connections.
fn wait_until_served(session: &Session) -> Result<(), Failure> {
    let deadline = Instant::now() + START_MAX;
    loop {
        let first = first_answer(session, deadline)?;
        let starts = first.kind == b'E' && first.body.windows(STARTS.len()).any(|words| words == STARTS);
        if !starts {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(Exit::Timeout, "PostgreSQL does not come up in the guest"));
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

fn first_answer(session: &Session, deadline: Instant) -> Result<Message, Failure> {
    let mut stream = agent::connect(session, POSTGRES_PORT)?;
    stream.write_all(&startup()).map_err(|error| failed(&error))?;
    let (mut received, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Err(Failure::new(Exit::Error, "PostgreSQL ended a connection without a word")),
            Ok(len) => received.extend_from_slice(&bytes[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => session.check()?,
            Err(error) => return Err(failed(&error)),
        }
        if let Some(message) = take_message(&mut received)? {
            return Ok(message);
        }
    }
}

/// What one transaction is about.
#[derive(Debug, Clone, Copy, Default)]
struct Order {
    account: u64,
    teller: u64,
    branch: u64,
    delta: i64,
}

impl Order {
    /// The `number`-th of a branch; by a fixed rule that looks random.
    fn new(branch: u64, number: u64) -> Self {
        let random = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        Self {
            account: branch * ACCOUNTS + random % ACCOUNTS + 1,
            teller: branch * TELLERS + random % TELLERS + 1,
            branch: branch + 1,
            delta: (random % 10_001) as i64 - 5000,
        }
    }

    fn statement(self, index: usize) -> String {
        let Self { account, teller, branch, delta } = self;
        match index {
            0 => "BEGIN".into(),
            1 => format!("UPDATE pgbench_accounts SET abalance = abalance + {delta} WHERE aid = {account}"),
            SELECT => format!("SELECT abalance FROM pgbench_accounts WHERE aid = {account}"),
            3 => format!("UPDATE pgbench_tellers SET tbalance = tbalance + {delta} WHERE tid = {teller}"),
            4 => format!("UPDATE pgbench_branches SET bbalance = bbalance + {delta} WHERE bid = {branch}"),
            5 => format!(
                "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ({teller}, {branch}, {account}, {delta}, now())"
            ),
            _ => "END".into(),
        }
    }
}

/// A connection and its transaction.
struct Ordering {
    stream: TcpStream,
    branch: u64,
    /// Transactions begun.
    number: u64,
    order: Order,
    /// The statement whose answer is awaited; none: the server does not yet take any.
    statement: Option<usize>,
    /// What the server said of the account.
    balance: Option<i64>,
    balances: HashMap<u64, i64>,
    received: Vec<u8>,
    begun: Instant,
}

impl Ordering {
    fn new(stream: TcpStream, branch: u64) -> Self {
        let (balances, received) = (HashMap::new(), Vec::new());
        let (order, begun) = (Order::default(), Instant::now());
        Self { stream, branch, number: 0, order, statement: None, balance: None, balances, received, begun }
    }

    /// Reads what came and goes on; how many statements were answered by it, and whether a transaction was committed.
    fn serve(&mut self) -> Result<(u64, bool), Failure> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(Failure::new(Exit::Error, "PostgreSQL ended a connection that had a transaction")),
            Ok(len) => self.received.extend_from_slice(&bytes[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(&error)),
        }
        let (mut answered, mut is_committed) = (0, false);
        while let Some(Message { kind, body }) = take_message(&mut self.received)? {
            match kind {
                b'E' => {
                    let why = String::from_utf8_lossy(&body).replace('\0', " ");
                    return Err(Failure::new(Exit::Error, format!("PostgreSQL refused a statement: {why}")));
                }
                b'D' => self.balance = number_of(&body),
                // Ready for the next.
                b'Z' => {
                    // The first one says that it takes statements.
                    answered += u64::from(self.statement.is_some());
                    is_committed |= self.next()?;
                }
                _ => {}
            }
        }
        Ok((answered, is_committed))
    }

    /// Asks for the next statement; whether the last one was a commit.
    fn next(&mut self) -> Result<bool, Failure> {
        if self.statement == Some(SELECT) {
            self.check()?;
        }
        let is_committed = self.statement == Some(STATEMENTS - 1);
        let next = self.statement.map_or(0, |statement| (statement + 1) % STATEMENTS);
        if next == 0 {
            self.order = Order::new(self.branch, self.number);
            self.number += 1;
        }
        self.statement = Some(next);
        // A statement fits into a socket's buffer: each waits for the answer to the one before.
        self.stream.write_all(&query(&self.order.statement(next))).map_err(|error| failed(&error))?;
        Ok(is_committed)
    }

    fn check(&mut self) -> Result<(), Failure> {
        let Order { account, delta, .. } = self.order;
        let said = self.balance.take();
        let expected = self.balances.get(&account).map(|before| before + delta);
        match said {
            Some(said) if expected.is_none_or(|expected| expected == said) => {
                self.balances.insert(account, said);
                Ok(())
            }
            _ => {
                let why = format!("account {account} has {said:?}; {expected:?} belongs there: output was wrong");
                Err(Failure::new(Exit::Error, why))
            }
        }
    }
}

/// Clients that order transactions.
pub(crate) struct Transactions<'a> {
    session: &'a Session,
    ordering: Vec<Ordering>,
    times: Histogram<u64>,
    /// Statements that were answered, and transactions that were committed.
    answered: u64,
    committed: u64,
    last_answer: Instant,
}

impl<'a> Transactions<'a> {
    pub(crate) fn connect(session: &'a Session, count: usize) -> Result<Self, Failure> {
        wait_until_served(session)?;
        let streams = connections(session, POSTGRES_PORT, count, |_| startup())?;
        let ordering = streams.into_iter().zip(0..).map(|(stream, branch)| Ordering::new(stream, branch)).collect();
        let times = Histogram::new(3).expect("three significant digits are valid");
        Ok(Self { session, ordering, times, answered: 0, committed: 0, last_answer: Instant::now() })
    }

    fn serve(&mut self, index: usize) -> Result<(), Failure> {
        let ordering = &mut self.ordering[index];
        let (answered, is_committed) = ordering.serve()?;
        self.answered += answered;
        if is_committed {
            let nanos = u64::try_from(ordering.begun.elapsed().as_nanos()).expect("shorter than the time limit");
            self.times.record(nanos).expect("it grows to any value");
            self.committed += 1;
            self.last_answer = Instant::now();
            ordering.begun = Instant::now();
        }
        Ok(())
    }
}

impl Client for Transactions<'_> {
    /// Goes on until then, and until at least one transaction is committed.
    fn work(&mut self, until: Instant) -> Result<(), Failure> {
        self.last_answer = Instant::now();
        let before = self.committed;
        while Instant::now() < until || self.committed == before {
            let sockets: Vec<_> = self.ordering.iter().map(|one| (&one.stream, PollFlags::IN)).collect();
            let ready = wait(self.session, &sockets, Instant::now() + super::LOOK_AROUND)?;
            for (index, _) in ready.into_iter().enumerate().filter(|(_, ready)| *ready) {
                self.serve(index)?;
            }
            if self.last_answer.elapsed() > SILENCE_MAX {
                return Err(Failure::new(Exit::Timeout, format!("no commit for {} s", SILENCE_MAX.as_secs())));
            }
        }
        Ok(())
    }

    /// Statements: a transaction takes seconds where a guest is emulated, and few would be counted.
    fn units(&mut self) -> Result<u64, Failure> {
        Ok(self.answered)
    }

    fn begin(&mut self) -> Result<u64, Failure> {
        self.times.reset();
        Ok(self.answered)
    }

    fn round_trip_us(&self) -> Option<(f64, f64)> {
        let us = |quantile| self.times.value_at_quantile(quantile) as f64 / 1e3;
        Some((us(0.5), us(0.99)))
    }

    fn end(self: Box<Self>) -> Result<Counted, Failure> {
        Ok(Counted { least: self.answered, most: self.answered + self.ordering.len() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_taken_when_it_is_whole_and_nonsense_is_refused() {
        let mut bytes = query("END");
        bytes.push(b'Z');
        let whole = Message { kind: b'Q', body: b"END\0".to_vec() };
        assert_eq!(take_message(&mut bytes).expect("it is one"), Some(whole));
        assert_eq!((take_message(&mut bytes).expect("a beginning"), &bytes[..]), (None, &b"Z"[..]));
        assert!(take_message(&mut vec![b'D', 0xff, 0, 0, 0]).is_err());
        assert!(take_message(&mut vec![b'D', 0, 0, 0, 3]).is_err());
    }

    #[test]
    fn balance_is_read_from_a_row_of_one_column() {
        assert_eq!(number_of(b"\0\x01\0\0\0\x04-123"), Some(-123));
        assert_eq!(number_of(b"\0\x01"), None);
    }

    #[test]
    fn accounts_and_tellers_of_an_order_are_of_its_branch() {
        for number in 0..1000 {
            let Order { account, teller, branch, delta } = Order::new(7, number);
            assert!((70_001..=80_000).contains(&account) && (71..=80).contains(&teller), "{account} {teller}");
            assert!(branch == 8 && (-5000..=5000).contains(&delta));
        }
    }
}
