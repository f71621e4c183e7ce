//! Egress: everything that leaves the guest passes here, and waits here for its epoch's commit.
//!
//! Direct (no epochs): output goes out at once. Held: it is tagged with the running epoch and goes out when the
//! replication core releases that epoch, never earlier. A device cannot bypass this: it has no handle on the world.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use devices::virtio::net::{OUTPUT_BYTES_MAX, OUTPUT_FRAMES_MAX, Offloads, with_empty_header};
use replication::EpochId;
use replication::output::{Output, OutputQueue};

use super::console;
use crate::net::Tap;
use crate::stats::Stats;

/// Output held at most, in bytes. Half of it stops the guest, and no network card sends then (see [`Egress::is_pressed`]); the rest is
/// more than one turn of a card can produce, or one exit of each vCPU to the console.
pub const HOLD_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(OUTPUT_BYTES_MAX + OUTPUT_FRAMES_MAX * OutputQueue::OVERHEAD < HOLD_BYTES_MAX / 4);

/// Device number of the serial console in outputs and inputs; virtio slot `n` is `FIRST_SLOT + n`.
pub const CONSOLE: u16 = 0;
/// Device number of the first virtio slot.
pub const FIRST_SLOT: u16 = 1;
/// Flag in the device number of an input: the frame is behind its header. One without it was logged by a version without headers.
pub const WITH_HEADER: u16 = 1 << 15;

/// Kind of an output that is bytes of the console, or a frame that a version without headers held.
const BARE: u8 = 0;
/// Kind of an output that is a frame behind its header.
const PACKET: u8 = 1;

/// Console bytes are joined into one output up to this length.
const CONSOLE_OUTPUT_BYTES_MAX: usize = 4096;

/// Where output goes.
pub struct Sinks {
    /// Where the console's bytes go, if anywhere.
    pub console: Option<Box<dyn Write + Send>>,
    /// The tap of each virtio slot that is a network device.
    pub taps: Vec<Option<Arc<Tap>>>,
}

impl std::fmt::Debug for Sinks {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Sinks").field("console", &self.console.is_some()).field("taps", &self.taps).finish()
    }
}

#[derive(Debug)]
struct Inner {
    /// The epoch that output is tagged with; `None` is direct.
    running: Option<EpochId>,
    queue: OutputQueue,
    /// Console bytes of the running epoch, not yet an output.
    console: Vec<u8>,
    /// When the oldest output of each held epoch was produced, for the hold time.
    first_held: Vec<(EpochId, Instant)>,
}

/// The way out.
#[derive(Debug)]
pub struct Egress {
    inner: Mutex<Inner>,
    /// Held from the moment that outputs are taken to be sent until they are: so they leave in the order of production. Taken before
    /// `inner`, never while that is held: the guest goes on producing while an epoch's frames leave.
    leaving: Mutex<()>,
    /// Not behind a lock: who waits for the console must not keep frames from leaving.
    console: console::Console,
    /// The tap of each slot. Not behind a lock: they are cut at once, even while frames are sent.
    taps: Vec<Option<Arc<Tap>>>,
    /// So much is held that the guest must stop.
    is_pressed: AtomicBool,
    stats: Arc<Stats>,
}

impl Egress {
    /// A way out to `sinks`, direct at first.
    pub fn new(sinks: Sinks, stats: Arc<Stats>) -> Self {
        let Sinks { console, taps } = sinks;
        // One that goes nowhere holds the guest back like any other: its output is held for its commit all the same.
        let console = console::Console::new(console.unwrap_or_else(|| Box::new(io::sink())), Arc::clone(&stats));
        let inner = Inner {
            running: None,
            queue: OutputQueue::new(HOLD_BYTES_MAX),
            console: Vec::new(),
            first_held: Vec::new(),
        };
        let is_pressed = AtomicBool::new(false);
        Self { inner: Mutex::new(inner), leaving: Mutex::new(()), console, taps, is_pressed, stats }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of the egress panics")
    }

    /// Sends or holds what a device produced. True if it is held.
    pub fn emit(&self, device: u16, bytes: Vec<u8>) -> bool {
        if device == CONSOLE {
            self.stats.console_written(bytes.len());
            self.console.note_produced(bytes.len());
        }
        let kind = if device == CONSOLE { BARE } else { PACKET };
        let output = Output { device, kind, bytes };
        if let Some(inner) = self.lock_holding() {
            return self.hold(inner, output);
        }
        // Behind what is leaving; holding may have begun when that has left.
        let _leaving = self.lock_leaving();
        if let Some(inner) = self.lock_holding() {
            return self.hold(inner, output);
        }
        self.send(&output);
        false
    }

    fn hold(&self, mut inner: MutexGuard<'_, Inner>, output: Output) -> bool {
        let is_console = output.device == CONSOLE;
        inner.note_held();
        if is_console {
            inner.console.extend_from_slice(&output.bytes);
            if inner.console.len() >= CONSOLE_OUTPUT_BYTES_MAX {
                inner.flush_console();
            }
        } else {
            inner.flush_console();
            inner.hold(output);
        }
        self.note_pressed(&inner);
        true
    }

    /// What holds output, if it is held.
    fn lock_holding(&self) -> Option<MutexGuard<'_, Inner>> {
        Some(self.lock()).filter(|inner| inner.running.is_some())
    }

    fn lock_leaving(&self) -> MutexGuard<'_, ()> {
        self.leaving.lock().expect("no holder of the way out panics")
    }

    /// Whether so much is held that the guest must stop until a commit. Until then nothing is taken from a network card's ring:
    /// every vCPU may have one more exit, and each would produce a turn's bytes.
    pub fn is_pressed(&self) -> bool {
        self.is_pressed.load(Ordering::SeqCst)
    }

    fn note_pressed(&self, inner: &Inner) {
        self.is_pressed.store(!inner.queue.has_room(HOLD_BYTES_MAX / 2), Ordering::SeqCst);
    }

    /// Whether the console has so much to write that whoever writes to it must wait.
    pub fn is_console_full(&self) -> bool {
        self.console.is_full()
    }

    /// Waits until the console can take more, at most for `time`.
    pub fn wait_for_console(&self, time: Duration) {
        self.console.wait_for_room(time);
    }

    /// Waits at most `time` until all console output that may leave is written; gives how many bytes are not.
    pub fn drain_console(&self, time: Duration) -> usize {
        self.console.drain(time)
    }

    /// From now on output is held, tagged with `epoch`.
    pub fn begin(&self, epoch: EpochId) {
        self.lock().running = Some(epoch);
    }

    /// The running epoch ends: gives its output for shipping; what comes now belongs to `next`.
    pub fn seal(&self, next: EpochId) -> Vec<Arc<Output>> {
        let mut inner = self.lock();
        inner.flush_console();
        self.note_pressed(&inner);
        let running = inner.running.replace(next).expect("an epoch is sealed only while output is held");
        inner.queue.of_epoch(running).cloned().collect()
    }

    /// Lets out what epochs up to and including `upto` produced. When this returns the frames have left, and the
    /// console's bytes too unless the console is stuck: all has left when [`Egress::console_written`] is at least what is
    /// given here.
    pub fn release(&self, upto: EpochId) -> u64 {
        self.leave(self.lock_leaving(), upto)
    }

    /// The guest produces meanwhile: what leaves is not held any more, and as much again may be.
    fn leave(&self, leaving: MutexGuard<'_, ()>, upto: EpochId) -> u64 {
        let (outputs, held_since) = self.take_released(upto);
        outputs.iter().for_each(|output| self.send(output));
        drop(leaving);
        let now = Instant::now();
        held_since.iter().for_each(|since| self.stats.record_hold(now.duration_since(*since)));
        if outputs.iter().any(|o| o.device == CONSOLE) {
            self.console.settle();
        }
        self.console.handed_over()
    }

    fn take_released(&self, upto: EpochId) -> (Vec<Arc<Output>>, Vec<Instant>) {
        let mut inner = self.lock();
        let released = inner.take_released(upto);
        self.note_pressed(&inner);
        released
    }

    /// Bytes of the console's that are written since the beginning.
    pub fn console_written(&self) -> u64 {
        self.console.written()
    }

    /// Has `told` called from now on whenever [`Egress::console_written`] has grown.
    pub fn watch_console(&self, told: impl Fn() + Send + Sync + 'static) {
        self.console.watch(told);
    }

    /// How the console takes what is written to it.
    pub fn console_health(&self) -> console::Health {
        self.console.health()
    }

    /// Ends holding: lets out all that is held, the running epoch's too. Only for a guest that is alone by right.
    pub fn direct(&self) {
        let leaving = self.lock_leaving();
        let running = {
            let mut inner = self.lock();
            inner.flush_console();
            inner.running.take()
        };
        if let Some(epoch) = running {
            self.leave(leaving, epoch);
        }
    }

    /// Emits what a failed primary may not have let out: the outputs that a backup held.
    pub fn emit_again(&self, outputs: &[Output]) {
        let _leaving = self.lock_leaving();
        for output in outputs {
            if output.device == CONSOLE {
                self.console.note_produced(output.bytes.len());
            }
            self.send(output);
        }
    }

    /// Sends a frame of the host's own on every tap: the announcement of a guest that moved.
    pub fn announce(&self, slot: usize, frame: &[u8]) {
        let _leaving = self.lock_leaving();
        self.send(&Output { device: FIRST_SLOT + slot as u16, kind: BARE, bytes: frame.to_vec() });
    }

    /// The guest finishes so much of the frames that come from the tap of `slot`.
    pub fn set_offloads(&self, slot: usize, offloads: Offloads) {
        if let Some(Some(tap)) = self.taps.get(slot) {
            tap.set_offloads(offloads);
        }
    }

    /// The guest has ended, and finishes no frame any more. The interfaces stay with what was set last: who opens them next may not
    /// know of offloads.
    pub fn end_offloads(&self) {
        self.taps.iter().flatten().for_each(|tap| tap.set_offloads(Offloads::default()));
    }

    /// Pulls the cables of all network cards, at once and for good: another host runs the guest.
    pub fn cut(&self) {
        self.taps.iter().flatten().for_each(|tap| tap.cut());
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        self.lock().queue.held_bytes()
    }

    /// Sends one output. Called with `leaving` held: in the order of production.
    fn send(&self, output: &Output) {
        let Output { device, kind, bytes } = output;
        let result = match device.checked_sub(FIRST_SLOT) {
            None => {
                self.console.hand_over(bytes);
                Ok(())
            }
            Some(slot) if *kind == PACKET => self.write_packet(slot, bytes),
            Some(slot) => self.write_packet(slot, &with_empty_header(bytes)),
        };
        match result {
            Ok(()) => self.stats.output_sent(bytes.len()),
            // The world's side of a wire may lose a frame; it is counted, and the guest's protocols repeat it.
            Err(error) => {
                self.stats.output_lost();
                tracing::debug!(device, %error, "output could not be delivered");
            }
        }
    }

    fn write_packet(&self, slot: u16, packet: &[u8]) -> io::Result<()> {
        match self.taps.get(usize::from(slot)) {
            Some(Some(tap)) => match tap.send(packet)? {
                true => Ok(()),
                false => Err(io::Error::from(io::ErrorKind::WouldBlock)),
            },
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }
}

impl Inner {
    /// Takes what epochs up to and including `upto` produced, and since when the first output of each waited.
    fn take_released(&mut self, upto: EpochId) -> (Vec<Arc<Output>>, Vec<Instant>) {
        let outputs = self.queue.release(upto).collect();
        let released = self.first_held.extract_if(.., |(epoch, _)| *epoch <= upto);
        let held_since = released.map(|(_, since)| since).collect();
        (outputs, held_since)
    }

    fn note_held(&mut self) {
        let Some(running) = self.running else { return };
        if self.first_held.last().is_none_or(|(epoch, _)| *epoch < running) {
            self.first_held.push((running, Instant::now()));
        }
    }

    fn flush_console(&mut self) {
        if !self.console.is_empty() {
            let bytes = std::mem::take(&mut self.console);
            self.hold(Output { device: CONSOLE, kind: BARE, bytes });
        }
    }

    fn hold(&mut self, output: Output) {
        let Some(epoch) = self.running else { return };
        self.queue
            .hold(epoch, output)
            .expect("the guest is stopped at half of the limit, and one exit cannot fill the rest");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_bytes_press_the_guest_from_half_of_the_limit_on_until_they_are_released() {
        let egress = Egress::new(Sinks { console: None, taps: vec![None] }, Arc::default());
        egress.begin(EpochId(1));
        let mut held = 0;
        while !egress.is_pressed() {
            held += 1 << 20;
            assert!(held <= HOLD_BYTES_MAX / 2 && egress.emit(FIRST_SLOT, vec![0; 1 << 20]));
        }
        assert_eq!(held, HOLD_BYTES_MAX / 2);
        egress.seal(EpochId(2));
        assert!(egress.is_pressed(), "a seal lets nothing out");
        egress.release(EpochId(1));
        assert!(!egress.is_pressed());
    }

    #[test]
    fn console_that_goes_nowhere_holds_the_guest_back_like_any_other() {
        // Without one nothing did: what was held for its commit grew until it was more than can be held.
        let egress = Egress::new(Sinks { console: None, taps: Vec::new() }, Arc::default());
        egress.begin(EpochId(1));
        while !egress.is_console_full() {
            assert!(egress.held_bytes() <= 2 * console::CONSOLE_BACKLOG_BYTES, "nothing holds the guest back");
            egress.emit(CONSOLE, vec![b'x'; 1024]);
        }
        egress.wait_for_console(Duration::from_millis(1));
        assert!(egress.is_console_full(), "it is held for its commit");
        egress.seal(EpochId(2));
        egress.release(EpochId(1));
        egress.wait_for_console(Duration::from_secs(10));
        assert!(!egress.is_console_full());
    }
}
