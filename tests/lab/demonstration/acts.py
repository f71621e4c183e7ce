"""The story in its order. Each act does one thing to the lab, waits for what follows, and tells it."""

import random
import time

from cases import checks
from cases.failed import require
from cases.pair import STATES, Pair
from cases.ports import Frame
from cases.stage import Options, Stage
from cases.traffic import Traffic
from cases.vmm import Vmm
from cases.waiting import wait_for
from outlast_lab import hostimage, lifecycle
from outlast_lab.instance import Instance
from recipes import debian

from . import evidence, guests
from .guests import Choice
from .report import Facts
from .screen import Screen, last_line

# Silence after which a host counts as lost; the longer one on a machine that is too busy to be sure after the shorter.
DETECT, DETECT_WHEN_BUSY = "1s", "2s"
BOOT_SECONDS_MAX = 420
PROTECT_SECONDS_MAX = 240
# Protected service before the power cut: a random time between these.
QUIET_SECONDS = (4.0, 10.0)
# Enough to show that nothing breaks; an emulated processor in an emulated host is not to be saturated.
PACE = {"interval_ms": 30, "rate": 131072}
RARP = b"\x80\x35"


class Demo(Stage):
    """The lab of the story, with what it knows so far in `facts`."""

    def __init__(self, options: Options, choice: Choice, screen: Screen, facts: Facts, pid: int):
        super().__init__(options, choice.name == "debian", with_alpine=False)
        self.lab = Instance(f"demo-{pid}", nice=self.lab.nice)
        self.choice, self.screen, self.facts = choice, screen, facts
        self.pair = Pair(self, choice.guest, detect=DETECT_WHEN_BUSY if guests.machine_is_busy() else DETECT)
        self._pid = pid
        self.primary: Vmm | None = None
        self.backup: Vmm | None = None
        self.flows: Traffic | None = None

    def play(self) -> None:
        """All acts. An act that does not end as it must raises."""
        self.screen.heading("Two hosts, a guest, a client")
        self.prepare()
        with self.watched():
            self._play()

    def _play(self) -> None:
        self.boot_guest()
        self.connect_client()
        self.screen.heading("A backup joins the running guest")
        self.protect()
        self.serve()
        self.screen.heading("Host A loses its power")
        self.pull_plug()
        self.watch_takeover()
        self.screen.heading("The pair is made whole again")
        self.protect_again()
        self.screen.heading("What was the client told, and is it so?")
        self.judge()

    def prepare(self) -> None:
        """Images from the cache or made, and the hosts."""
        with self.screen.waiting("making what is missing of kernels and guest (the first time takes minutes)"):
            hostimage.get()
            seed = guests.files(self.choice)
        seed += [self._named(self.options.binary, "outlast")]
        begun = time.time()
        with self.screen.waiting("booting two emulated hosts", lambda: "each is a whole machine with its own KVM"):
            lifecycle.up(self.lab, seed, self._pid)
            self.clean()
        self.say("lab", f"hosts A and B are up after {time.time() - begun:.0f} s: emulated machines with real KVM inside")
        if self.pair.detect != DETECT:
            self.say("", f"this machine is busy: a host counts as lost only after {self.pair.detect} of silence")

    def boot_guest(self) -> None:
        """The guest boots on A, unprotected."""
        self.primary = self.pair.start_primary("A", "B")
        self.say("host A", f"outlast run: a guest boots Debian's stock kernel {debian.kernel('cloud').release}")
        self.say("", f"with {self.choice.title}; nothing protects it yet")
        booted = time.time()
        look = lambda: self.choice.ready in self.primary.console()  # noqa: E731
        with self.screen.waiting("the guest boots", lambda: last_line(self.primary.console())):
            wait_for("the guest's services", look, BOOT_SECONDS_MAX, self.primary.ended)
        self.say("host A", f"the guest serves after {time.time() - booted:.0f} s")

    def connect_client(self) -> None:
        """One connection for each flow; they stay to the end."""
        self.flows = self.traffic(*self.choice.flows, **PACE)
        with self.screen.waiting("the client connects"):
            self.flows.wait_more()
        self.say("client", "connects to the guest; it checks every answer and never connects again")
        for flow in self.choice.flows:
            self.say("", f"{flow:8}  {evidence.MEANING[flow]}")

    def protect(self) -> None:
        """A backup on B; the guest is copied while it runs."""
        self.backup = self.pair.start_backup("B")
        self.say("host B", "outlast backup: waits for the guest")
        self.facts.resync = self._wait_protected(self.primary, self.backup, "the guest's disk and memory go to host B, while it serves")
        self.say("host B", f"has the whole guest, which served meanwhile: {_told_resync(self.facts.resync)}")
        self.say("host A", "from now on what the guest sends waits until host B has the epoch that made it")
        self.facts.before = self.primary.ctl("status")

    def serve(self) -> None:
        """Protected service until a random moment."""
        seconds = self.rng.uniform(*QUIET_SECONDS)
        with self.screen.waiting("the client works; a power cut comes at a random moment", self._traffic_line):
            time.sleep(seconds)
            self.facts.status = self.primary.ctl("status")
            self.flows.check()
            time.sleep(self.rng.uniform(0, 2))
        require(not self.backup.events("failover-started"), "host B took host A for dead before its power was cut: this machine is too busy")
        self.say("host A", self.facts.told_epochs())
        self.say("", self.facts.told_pauses())
        self.say("client", self._told_answers())

    def pull_plug(self) -> None:
        """kill -9 of the emulator."""
        self.facts.cut_at = self.plug("A")
        self.say("power", "host A is off (kill -9 of the machine): nothing synced, nothing closed", self.facts.cut_at, "red")

    def watch_takeover(self) -> None:
        """Until every flow of the client has answers again."""
        with self.screen.waiting("host B listens to the silence", self._traffic_line):
            started = self.backup.wait_event("failover-started", 30)["properties"]
            started_at = time.time()
        self.say("host B", f"{self._after_cut(started_at)} heard nothing for {started['silence_ms']} ms; asks the witness for the guest", started_at)
        with self.screen.waiting("host B takes over", self._traffic_line):
            self.facts.takeover = checks.wait_takeover(self.backup, self.facts.cut_at)
        frames = wait_for("a frame of the guest from host B", lambda: self.ports.of("B", self.facts.cut_at), 20, self.backup.ended)
        self._tell_takeover(frames[0])
        with self.screen.waiting("the client hears from the guest again", self._traffic_line):
            self.flows.wait_more(1)
        self.say("client", f"{self._after_cut(time.time())} answers on each of its connections again", colour="green")

    def protect_again(self) -> None:
        """Host A comes back as the backup."""
        begun = time.time()
        with self.screen.waiting("host A gets its power back and boots", self._traffic_line):
            self.revive("A")
        self.say("host A", f"has power again, and is up after {time.time() - begun:.0f} s")
        second = self.pair.start_backup("A")
        self.backup.ctl("protect", self.pair.target("A"))
        self.say("host B", "outlast ctl protect: host A is to be the backup now")
        resync = self._wait_protected(self.backup, second, "the guest goes to host A, while it serves")
        self.facts.protected_again_s = time.time() - begun
        self.primary, self.backup = self.backup, second
        self.say("host A", f"has the whole guest: {_told_resync(resync)}")
        self.say("", "the pair is whole again", colour="green")

    def judge(self) -> None:
        """The client's books against the guest's disk."""
        with self.screen.waiting("the client goes on for a while", self._traffic_line):
            checks.goes_on(self.flows)
        back = " and reads back what redis was given" if "redis" in self.choice.flows else ""
        with self.screen.waiting(f"the client ends its flows{back}"):
            self.facts.flows = self.flows.finish()
        self.say("client", f"all of its {len(self.choice.flows)} connections lasted to the end; nothing lost, nothing altered")
        for text in evidence.told_flows(self.facts.flows, self.facts.cut_at):
            self.say("", text)
        self.facts.voice = checks.one_voice(self.ports, "A", "B", 0)
        self.say("lab", "from host B's first frame on host A sent nothing that B did not: never two guests")
        with self.screen.waiting("the guest's disk is checked"):
            self.primary.stop()
            self.facts.journal = evidence.journal(self, self.primary, self.flows, self.choice.guest.disk, self.choice.journal)
        self.say("host B", f"the guest's disk has all {self.facts.journal['acked']} acknowledged lines, each once; e2fsck: clean")

    def say(self, place: str, text: str, at: float | None = None, colour: str | None = None) -> None:
        self.screen.say(place, text, at, colour)

    def _tell_takeover(self, first: Frame) -> None:
        """In the order of the times: the frame may go out before the event is written."""
        takeover = self.facts.takeover
        self.facts.first_frame_ms = (first.at - self.facts.cut_at) * 1000
        lines = [
            (takeover.finished_at, f"runs the guest from the last committed epoch ({takeover.takeover_ms:.0f} ms)"),
            (first.at, f"sends its first frame of the guest: {_kind(first)}"),
        ]
        for at, text in sorted(lines):
            self.say("host B", f"{self._after_cut(at)} {text}", at)

    def _wait_protected(self, primary: Vmm, backup: Vmm, what: str) -> dict:
        with self.screen.waiting(what, self._traffic_line):
            backup.wait_event("protected", PROTECT_SECONDS_MAX)
            wait_for("the primary is protected", lambda: primary.last_of(*STATES) == "protected", PROTECT_SECONDS_MAX, primary.ended)
        return primary.events("resync-finished")[-1]["properties"]

    def _after_cut(self, at: float) -> str:
        return f"+{at - self.facts.cut_at:.2f} s:"

    def _traffic_line(self) -> str:
        silent = max((row["silent_ms"] for row in self.flows.progress().values()), default=0)
        return self._told_answers() + (f"; silent for {silent / 1000:.1f} s" if silent > 500 else "")

    def _told_answers(self) -> str:
        return "answers so far: " + ", ".join(f"{flow} {count}" for flow, count in self.flows.acked().items())


def _kind(frame: Frame) -> str:
    return "a RARP, its announcement" if frame.head[12:14] == RARP else f"{frame.length} bytes, held until now"


def _told_resync(resync: dict) -> str:
    return f"{resync['bytes'] / 1e6:.0f} MB in {resync['ms'] / 1000:.1f} s"


def chance(seed: int) -> random.Random:
    """All the chance of one demo."""
    return random.Random(f"demo {seed}")
