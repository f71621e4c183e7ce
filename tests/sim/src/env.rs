//! What surrounds the hosts: time, chance, links, the witness, the client, the faults that are armed.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

use replication::{ClaimResult, Time};

use crate::clock::Clock;
use crate::counts::Counts;
use crate::fault::{Fault, HOSTS, Step, What, When};
use crate::guest::Said;
use crate::net::{Net, Party};
use crate::oracle::{Oracle, Rule};
use crate::plan::{Break, MS, Plan};
use crate::rng::Rng;
use crate::story::{Line, words};
use crate::witness::{Answer, Asked, Question, Witness};

mod event;

pub use event::{Event, Lane, Piece};

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

/// What a host does to its surroundings.
#[derive(Clone, Debug)]
enum Effect {
    Send { connection: u64, bytes: Vec<u8> },
    Close { connection: u64 },
    Emit { said: Said, generation: u32 },
    Ask(Asked),
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
    /// Until when a host's disk is slow.
    pub slow_until: [u64; HOSTS],
    /// A host that crashes in the middle of a step loses its power.
    pub loses_power: [bool; HOSTS],
    /// Until when a host's disk has no room.
    pub full_until: [u64; HOSTS],
    /// Whose disk fails at the next thing asked of it.
    pub disk_fails: [bool; HOSTS],
    /// Whose disk never answers.
    pub disk_hangs: [bool; HOSTS],
    /// Who acks nothing from the next ack on.
    pub mute: [bool; HOSTS],
    /// Whose next filling makes no progress.
    pub stuck: [bool; HOSTS],
    /// Who finds that the next base cannot run there.
    pub unfit_base: [bool; HOSTS],
    /// Until when a host does nothing.
    pub paused_until: [u64; HOSTS],
    /// What a host that stands still had decided to do at once, in order.
    late: [VecDeque<Effect>; HOSTS],
    /// When a host last stood still for so long that another may have taken over meanwhile.
    stops: [Option<(u64, u64)>; HOSTS],
    /// When each record was appended.
    appended: Vec<u64>,
    /// Each host's clock.
    clocks: [Clock; HOSTS],
    /// What is hidden of a clock, if a rule is broken.
    hidden: [u64; HOSTS],
    last_shown: [u64; HOSTS],
    /// Whose time is asked for.
    pub host: usize,
    /// Faults stopped.
    pub healing: bool,
    /// What became of guests so far.
    pub counts: Counts,
    /// What each host is, for the reader of a replay.
    pub roles: [&'static str; HOSTS],
    trace: Option<Vec<Line>>,
    armed: Vec<Fault>,
    events: BinaryHeap<Scheduled>,
    numbered: u64,
}

impl Env {
    /// The surroundings of a run.
    pub fn new(seed: u64, plan: Plan, trace: bool) -> Env {
        let net = Net::new(plan.faults.iter().any(|fault| fault.what.is_replay()), plan.has_several);
        let armed = plan.faults.iter().filter(|fault| matches!(fault.when, When::Step { .. })).copied().collect();
        Env {
            witness: Witness::new(&plan),
            now: 0,
            rng: Rng::new(!seed),
            clocks: plan.clock_fast.map(Clock::new),
            plan,
            net,
            oracle: Oracle::default(),
            client: Client { request: 1, answered: 0 },
            slow_until: [0; HOSTS],
            loses_power: [false; HOSTS],
            full_until: [0; HOSTS],
            disk_fails: [false; HOSTS],
            disk_hangs: [false; HOSTS],
            mute: [false; HOSTS],
            stuck: [false; HOSTS],
            unfit_base: [false; HOSTS],
            paused_until: [0; HOSTS],
            late: Default::default(),
            stops: [None; HOSTS],
            appended: Vec::new(),
            hidden: [0; HOSTS],
            last_shown: [0; HOSTS],
            host: 0,
            healing: false,
            counts: Counts::default(),
            roles: [""; HOSTS],
            trace: trace.then(Vec::new),
            armed,
            events: BinaryHeap::new(),
            numbered: 0,
        }
    }

    /// The time as the cores want it: what the clock of the host shows that is at work.
    pub fn time(&mut self) -> Time {
        let host = self.host;
        let shown = self.clocks[host].shows(self.now);
        if self.plan.broken == Some(Break::StopUnnoticed) {
            // Broken: a clock that jumped, or that was not looked at for long, seems to go on where it was.
            let gap = shown - self.last_shown[host];
            self.hidden[host] += if gap > self.plan.detect / 2 { gap } else { 0 };
        }
        self.last_shown[host] = shown;
        Time(shown - self.hidden[host])
    }

    /// When the clock of the host that is at work shows that; now at the earliest.
    pub fn when(&self, time: Time) -> u64 {
        self.clocks[self.host].when(time.0 + self.hidden[self.host]).max(self.now)
    }

    /// The clock of a host jumps forward.
    pub fn jump(&mut self, host: usize, by: u64) {
        let now = self.now;
        self.clocks[host].jump(now, by);
    }

    /// A host stands still from now on. What it has just decided to do is done afterwards.
    pub fn pause(&mut self, host: usize, time: u64) {
        self.paused_until[host] = self.now + time;
        if time > self.plan.detect + self.plan.detect / 10 {
            self.stops[host] = Some((self.now, self.now + time));
        }
        self.after(time, Event::Relief(What::Pause(host, time)));
    }

    /// Whether a host stands still.
    pub fn is_paused(&self, host: usize) -> bool {
        self.paused_until[host] > self.now
    }

    /// A host is gone, with what it had decided to do.
    pub fn lose_host(&mut self, host: usize) {
        (self.paused_until[host], self.stops[host]) = (0, None);
        self.late[host].clear();
    }

    /// Hosts that stood still do what they had decided to, before anything else.
    pub fn do_late(&mut self) {
        for host in 0..HOSTS {
            while !self.is_paused(host)
                && let Some(effect) = self.late[host].pop_front()
            {
                self.perform(host, effect);
            }
        }
    }

    fn effect(&mut self, host: usize, effect: Effect) {
        if self.is_paused(host) {
            self.late[host].push_back(effect);
        } else {
            self.perform(host, effect);
        }
    }

    fn perform(&mut self, host: usize, effect: Effect) {
        match effect {
            Effect::Send { connection, bytes } => self.carry(connection, Some(host), bytes),
            Effect::Close { connection } => self.carry_end(connection, Some(host)),
            Effect::Emit { said, generation } => self.let_out(host, said, generation),
            Effect::Ask(asked) => self.carry_ask(asked),
        }
    }

    /// A host is woken at the first of these times, if that is before what `armed` says.
    pub fn wake(&mut self, id: HostId, armed: &mut Option<u64>, wanted: impl IntoIterator<Item = Option<Time>>) {
        let at = wanted.into_iter().flatten().min().map(|time| self.when(time));
        if let Some(at) = at.filter(|at| armed.is_none_or(|armed| *at < armed)) {
            *armed = Some(at);
            self.at(at, Event::Timer(id));
        }
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
                if matches!(what, What::Pause(paused, _) if paused == host) && !self.healing {
                    // In the middle of what it does, and not when it has done it.
                    self.say(|| format!("FAULT: {}", words::what(&what)));
                    self.stand_still(what);
                    continue;
                }
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

    /// A pause is neither ended nor made longer by another: what waits for its end would be overtaken.
    pub fn stand_still(&mut self, what: What) {
        if let What::Pause(host, time) = what
            && !self.is_paused(host)
        {
            self.pause(host, time);
        }
    }

    /// Faults stop.
    pub fn disarm(&mut self) {
        self.armed.clear();
        self.healing = true;
    }

    /// Whether a host's disk has no room.
    pub fn is_full(&self, host: usize) -> bool {
        self.full_until[host] > self.now
    }

    /// For how long a host's disk is slow yet.
    pub fn slowness(&self, host: usize) -> u64 {
        self.slow_until[host].saturating_sub(self.now)
    }

    /// How long a disk of `host` takes for a sync.
    pub fn disk_delay(&mut self, host: usize) -> u64 {
        self.slowness(host) + self.rng.range(0, self.plan.disk_delay)
    }

    /// `from` sends bytes to the other end.
    pub fn send(&mut self, connection: u64, from: usize, bytes: Vec<u8>) {
        self.effect(from, Effect::Send { connection, bytes });
    }

    /// `from` closes the connection.
    pub fn close(&mut self, connection: u64, from: usize) {
        self.effect(from, Effect::Close { connection });
    }

    /// Bytes are on their way.
    pub fn carry(&mut self, connection: u64, from: Party, mut bytes: Vec<u8>) {
        let Some(side) = self.net.side_of(connection, from) else { return };
        self.net.record(connection, side, &bytes);
        if std::mem::take(&mut self.net.garble_next) && !bytes.is_empty() {
            let at = self.rng.range(0, bytes.len() as u64 - 1) as usize;
            bytes[at] ^= 1 << self.rng.range(0, 7);
        }
        if bytes.len() > 1 && self.rng.percent(20) {
            let rest = bytes.split_off(self.rng.range(1, bytes.len() as u64 - 1) as usize);
            self.carry_piece(connection, side, Piece::Bytes(bytes));
            bytes = rest;
        }
        self.carry_piece(connection, side, Piece::Bytes(bytes));
    }

    /// The end of a connection is on its way.
    pub fn carry_end(&mut self, connection: u64, from: Party) {
        if let Some(side) = self.net.side_of(connection, from) {
            self.carry_piece(connection, side, Piece::End);
        }
    }

    /// A link that slows takes half of the time for which it does in addition.
    fn carry_piece(&mut self, connection: u64, side: usize, piece: Piece) {
        let delay = self.rng.range(self.plan.link_delay / 4, self.plan.link_delay);
        let Some(Some(from)) = self.net.receiver(connection, 1 - side) else {
            return self.after(delay, Event::Piece { connection, side, piece });
        };
        let slows = self.net.slows_since[from].map_or(0, |since| (self.now - since) / 2);
        let arrives = self.now + delay + slows;
        let Some(connected) = self.net.connection(connection) else { return };
        let pipe = &mut connected.pipes[side];
        pipe.arrives = pipe.arrives.max(arrives);
        let at = pipe.arrives;
        self.at(at, Event::Piece { connection, side, piece });
    }

    /// A host asks the witness.
    pub fn ask(&mut self, by: HostId, question: Question) {
        if self.plan.unwitnessed {
            return self.learn_unasked(by, question);
        }
        self.whisper(|| format!("host {} asks: {}", by.host, words::question(&question)));
        let up = self.net.witness_up[by.host];
        let mut question = question;
        if let Question::Forswear { reaches, .. } | Question::Move { reaches, .. } = &mut question {
            *reaches = up;
        }
        if let Some(asked) = self.witness.put(by, question) {
            self.send_ask(asked);
        }
        self.tell_ready();
    }

    /// What needed no witness is answered a little later too.
    pub fn tell_ready(&mut self) {
        for (to, question, answer) in self.witness.take_ready() {
            let delay = self.rng.range(50_000, MS);
            self.after(delay, Event::Learn { to, question, answer });
        }
    }

    /// A host is told without asking: a rule that is broken on purpose.
    pub fn learn_unasked(&mut self, to: HostId, question: Question) {
        self.after(MS, Event::Learn { to, question, answer: Answer::Claim(ClaimResult::Granted) });
    }

    /// A question is on its way: it may arrive when its asker is long gone, or its answer be lost.
    pub fn send_ask(&mut self, asked: Asked) {
        self.effect(asked.by.host, Effect::Ask(asked));
    }

    fn carry_ask(&mut self, asked: Asked) {
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
        let count = self.witness.newest().map_or(0, |record| record.view() as usize);
        self.appended.resize(count, self.now);
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
        self.check_look(host);
        let generation = self.oracle.generation;
        self.effect(host, Effect::Emit { said, generation });
    }

    /// What was decided before a guest was booted anew may come after that, as a packet may that was long on its way.
    fn let_out(&mut self, host: usize, said: Said, generation: u32) {
        self.whisper(|| format!("host {host} lets output {} out", said.position));
        self.oracle.emitted(host, &said, generation);
        if self.net.client_up[host] && !self.rng.percent(self.plan.client_loss) {
            let delay = self.rng.range(0, self.plan.client_delay);
            self.after(delay, Event::Response(said));
        }
    }

    /// A host that stood still looks who is primary before it decides to let anything out.
    fn check_look(&mut self, host: usize) {
        let Some((from, to)) = self.stops[host].filter(|_| !self.is_paused(host)) else { return };
        let Some(record) = self.witness.newest() else { return };
        let appended = self.appended.get(record.view() as usize - 1).copied().unwrap_or(0);
        if record.primary.id != self.witness.place(host).id && (from..=to).contains(&appended) {
            let number = record.view();
            let text = || {
                format!("host {host} stood still while record {number} made another the primary, and lets output out")
            };
            self.oracle.fail(Rule::LooksAfterAStop, host, text);
        }
    }

    /// The client sends its request, to whoever listens.
    pub fn request(&mut self) {
        let request = self.client.request;
        for host in 0..HOSTS {
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
