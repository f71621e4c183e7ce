//! What surrounds the hosts: time, chance, links, the witness, the client, the faults that are armed.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use replication::view::Entry;
use replication::{ClaimResult, EpochId, SessionId, Time};

use crate::fault::{Fault, Step, What, When};
use crate::guest::Said;
use crate::net::Net;
use crate::oracle::Oracle;
use crate::plan::{MS, Plan};
use crate::rng::Rng;
use crate::story::{Line, words};
use crate::witness::{Answer, Asked, Question, Witness};

/// This host is gone; whatever was being done stays half done.
#[derive(Debug)]
pub struct Crashed;

/// One incarnation of a host: events for an earlier one are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostId {
    /// 0 or 1.
    pub host: usize,
    /// Counts its starts.
    pub life: u32,
}

/// Something that happens at its time.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it; each is handled in one place, in world.rs")]
pub enum Event {
    Boundary(HostId),
    Timer(HostId),
    Connect(HostId),
    /// The next piece of the stream that `from` sends on that connection.
    Piece {
        connection: u64,
        from: usize,
        piece: Piece,
    },
    Shipped {
        to: HostId,
        session: SessionId,
        epoch: EpochId,
    },
    LocalDurable {
        to: HostId,
        epoch: EpochId,
    },
    /// A lane of a backup has done its step.
    Lane {
        to: HostId,
        lane: Lane,
    },
    /// A host puts a question to the witness, again.
    Ask {
        by: HostId,
        question: Question,
    },
    /// A question arrives there. One that was given up long ago is not answered.
    AskArrives {
        asked: Asked,
        is_late: bool,
    },
    AskAnswered {
        to: HostId,
        found: Option<Vec<Entry>>,
    },
    /// A host learns what it asked.
    Learn {
        to: HostId,
        question: Question,
        answer: Answer,
    },
    /// A backup looks whether it has to tell the witness of something: now, because a join came to nothing, or again and again.
    Look {
        /// Which one.
        by: HostId,
        /// Again and again.
        again: bool,
    },
    /// The next piece of what a primary sends.
    Outgoing(HostId),
    /// A primary has sent a round of its filling.
    Round {
        /// The primary.
        to: HostId,
        /// Of which session.
        session: SessionId,
    },
    Request {
        host: usize,
        request: u64,
    },
    /// A guest that was to begin anew does not, unless it has.
    GiveUp(HostId),
    /// The VM is started beside, by that number.
    StartBeside(usize),
    Response(Said),
    ClientRetry,
    Fault(What),
    Relief(What),
    Restart(usize),
    Heal,
    Operate,
}

/// What does one thing at a time on a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// It has the memory and the connection.
    Loop,
    /// It has the image and its log.
    Storage,
    /// It syncs the image beside all else.
    Upkeep,
}

/// A piece of a stream.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes.
    Bytes(Vec<u8>),
    /// The sender closed.
    End,
}

struct Scheduled {
    time: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The heap gives the greatest first: the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time, other.number).cmp(&(self.time, self.number))
    }
}

/// The client: asks one request after the other, again and again until it is answered.
#[derive(Default)]
pub struct Client {
    /// The request that waits for its answer.
    pub request: u64,
    /// Requests answered.
    pub answered: u64,
}

/// What surrounds the hosts.
pub struct Env {
    /// Nanoseconds since the start.
    pub now: u64,
    /// The run's chance.
    pub rng: Rng,
    /// The plan.
    pub plan: Plan,
    /// Links.
    pub net: Net,
    /// The judge.
    pub oracle: Oracle,
    /// The client.
    pub client: Client,
    /// The witness.
    pub witness: Witness,
    /// Until when a host's disk is slow, and until when a host does nothing.
    pub slow_until: [u64; 2],
    /// A host that crashes in the middle of a step loses its power.
    pub loses_power: [bool; 2],
    /// Until when a host's disk has no room.
    pub full_until: [u64; 2],
    /// Whose disk fails at the next thing asked of it.
    pub disk_fails: [bool; 2],
    /// Who acks nothing from the next ack on.
    pub mute: [bool; 2],
    /// Whose next filling makes no progress.
    pub stuck: [bool; 2],
    /// Who finds that the next base cannot run there.
    pub unfit_base: [bool; 2],
    /// Until when a host does nothing.
    pub paused_until: [u64; 2],
    /// Faults stopped.
    pub healing: bool,
    /// Takeovers so far.
    pub takeovers: u32,
    /// Guests begun afresh after a crash of all who could continue them, so far.
    pub begun: u32,
    /// Guests resumed so far.
    pub resumes: u32,
    /// Guests booted anew so far.
    pub resets: u32,
    /// What each host is, for the reader of a replay.
    pub roles: [&'static str; 2],
    trace: Option<Vec<Line>>,
    armed: Vec<Fault>,
    events: BinaryHeap<Scheduled>,
    numbered: u64,
}

impl Env {
    /// The surroundings of a run.
    pub fn new(seed: u64, plan: Plan, trace: bool) -> Env {
        let armed = plan.faults.iter().filter(|fault| matches!(fault.when, When::Step { .. })).copied().collect();
        Env {
            witness: Witness::new(&plan),
            now: 0,
            rng: Rng::new(!seed),
            plan,
            net: Net::default(),
            oracle: Oracle::default(),
            client: Client { request: 1, answered: 0 },
            slow_until: [0; 2],
            loses_power: [false; 2],
            full_until: [0; 2],
            disk_fails: [false; 2],
            mute: [false; 2],
            stuck: [false; 2],
            unfit_base: [false; 2],
            paused_until: [0; 2],
            healing: false,
            takeovers: 0,
            begun: 0,
            resumes: 0,
            resets: 0,
            roles: [""; 2],
            trace: trace.then(Vec::new),
            armed,
            events: BinaryHeap::new(),
            numbered: 0,
        }
    }

    /// The time as the cores want it.
    pub fn time(&self) -> Time {
        Time(self.now)
    }

    /// `event` happens `delay` from now.
    pub fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    /// `event` happens at `time`. Of two at the same time the one put in first happens first.
    pub fn at(&mut self, time: u64, event: Event) {
        self.numbered += 1;
        self.events.push(Scheduled { time, number: self.numbered, event });
    }

    /// The next event; time moves to it.
    pub fn next_event(&mut self) -> Option<Event> {
        let Scheduled { time, event, .. } = self.events.pop()?;
        self.now = self.now.max(time);
        Some(event)
    }

    /// A line for the reader of a replay. One that begins with "host N" is that host's.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        self.note(true, line);
    }

    /// The same, of what comes again and again: it is read only where nothing is left out.
    pub fn whisper(&mut self, line: impl FnOnce() -> String) {
        self.note(false, line);
    }

    fn note(&mut self, matters: bool, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(Line::of(self.now, matters, &self.roles, line()));
        }
    }

    /// Whether somebody will read it.
    pub fn is_told(&self) -> bool {
        self.trace.is_some()
    }

    /// The lines so far.
    pub fn take_trace(&mut self) -> Vec<Line> {
        self.trace.take().unwrap_or_default()
    }

    /// A host comes to a step; armed faults strike. `Err` if that host is gone.
    pub fn step(&mut self, host: usize, step: Step, after: bool) -> Result<(), Crashed> {
        for index in (0..self.armed.len()).rev() {
            let Fault { when: When::Step { host: at, step: when, nth, after: then }, what } = &mut self.armed[index]
            else {
                continue;
            };
            if (*at, *when, *then) != (host, step, after) {
                continue;
            }
            *nth -= 1;
            if *nth == 0 {
                let what = *what;
                self.armed.remove(index);
                self.after(0, Event::Fault(what));
                if let What::Crash { host: crashed, power, .. } = what
                    && crashed == host
                {
                    self.loses_power[host] = power;
                    return Err(Crashed);
                }
            }
        }
        Ok(())
    }

    /// Faults stop.
    pub fn disarm(&mut self) {
        self.armed.clear();
        self.healing = true;
    }

    /// How long a disk of `host` takes for a sync.
    pub fn disk_delay(&mut self, host: usize) -> u64 {
        let slow = self.slow_until[host].saturating_sub(self.now);
        slow + self.rng.range(0, self.plan.disk_delay)
    }

    /// `from` sends bytes to the other host.
    pub fn send(&mut self, connection: u64, from: usize, mut bytes: Vec<u8>) {
        if std::mem::take(&mut self.net.garble_next) && !bytes.is_empty() {
            let at = self.rng.range(0, bytes.len() as u64 - 1) as usize;
            bytes[at] ^= 1 << self.rng.range(0, 7);
        }
        if bytes.len() > 1 && self.rng.percent(20) {
            let rest = bytes.split_off(self.rng.range(1, bytes.len() as u64 - 1) as usize);
            self.send_piece(connection, from, Piece::Bytes(bytes));
            bytes = rest;
        }
        self.send_piece(connection, from, Piece::Bytes(bytes));
    }

    /// `from` closes the connection.
    pub fn close(&mut self, connection: u64, from: usize) {
        self.send_piece(connection, from, Piece::End);
    }

    fn send_piece(&mut self, connection: u64, from: usize, piece: Piece) {
        if self.net.connection.id != connection {
            return;
        }
        let arrives = self.now + self.rng.range(self.plan.link_delay / 4, self.plan.link_delay);
        let pipe = &mut self.net.connection.pipes[from];
        pipe.arrives = pipe.arrives.max(arrives);
        let at = pipe.arrives;
        self.at(at, Event::Piece { connection, from, piece });
    }

    /// A host asks the witness.
    pub fn ask(&mut self, by: HostId, question: Question) {
        if self.plan.unwitnessed {
            return self.learn_unasked(by, question);
        }
        self.whisper(|| format!("host {} asks: {}", by.host, words::question(&question)));
        if let Some(asked) = self.witness.put(by, question) {
            self.send_ask(asked);
        }
    }

    /// A host is told without asking: a rule that is broken on purpose.
    pub fn learn_unasked(&mut self, to: HostId, question: Question) {
        self.after(MS, Event::Learn { to, question, answer: Answer::Claim(ClaimResult::Granted) });
    }

    /// A question is on its way: it may arrive when its asker is long gone, or its answer be lost.
    pub fn send_ask(&mut self, asked: Asked) {
        let to = asked.by;
        let is_late = !self.healing && self.rng.percent(4);
        if is_late || !self.net.witness_up[to.host] {
            self.after(8 * MS, Event::AskAnswered { to, found: None });
        }
        if is_late {
            let delay = self.rng.range(8 * MS, 3 * self.plan.detect);
            self.after(delay, Event::AskArrives { asked, is_late });
        } else if self.net.witness_up[to.host] {
            let delay = self.rng.range(50_000, MS);
            self.after(delay, Event::AskArrives { asked, is_late });
        }
    }

    /// The question is there.
    pub fn ask_arrives(&mut self, asked: &Asked, is_late: bool) {
        let found = self.witness.perform(asked);
        if is_late {
            return;
        }
        // The answer can be lost although the append counts.
        let is_lost = !self.net.witness_up[asked.by.host] || (!self.healing && self.rng.percent(5));
        let delay = self.rng.range(50_000, 2 * MS);
        self.after(delay, Event::AskAnswered { to: asked.by, found: Some(found).filter(|_| !is_lost) });
    }

    /// An output of `host` leaves for the world.
    pub fn emit(&mut self, host: usize, said: Said) {
        self.whisper(|| format!("host {host} lets output {} out", said.position));
        self.oracle.emitted(host, &said);
        if self.net.client_up[host] && !self.rng.percent(self.plan.client_loss) {
            let delay = self.rng.range(0, self.plan.client_delay);
            self.after(delay, Event::Response(said));
        }
    }

    /// The client sends its request, to whoever listens.
    pub fn request(&mut self) {
        let request = self.client.request;
        for host in 0..2 {
            if self.net.client_up[host] && !self.rng.percent(self.plan.client_loss) {
                let delay = self.rng.range(0, self.plan.client_delay);
                self.after(delay, Event::Request { host, request });
            }
        }
    }

    /// The client got something.
    pub fn hear(&mut self, said: Said) {
        if said.request == 0 || said.value == 0 {
            return;
        }
        self.oracle.answered(said.request, said.value);
        if said.request == self.client.request {
            self.whisper(|| format!("the client has the answer to request {}", said.request));
            self.client.request += 1;
            self.client.answered += 1;
            self.request();
        }
    }
}
