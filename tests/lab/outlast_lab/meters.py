"""What a client measures of a flow: when answers came, how long it heard nothing, when to stop."""

import json
import signal
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

# A silence of at least this is kept with its times, so that a cause can be found for it.
GAP_MS_MIN = 250.0
GAPS_MAX = 200


@dataclass
class Gap:
    """A time between two answers, and the wall-clock times (Unix, seconds) of both."""

    ms: float = 0.0
    begun_at: float = 0.0
    ended_at: float = 0.0


@dataclass
class Report:
    """What one flow saw. `ok` is the verdict; `failures` says what was wrong."""

    flow: str
    address: str
    sent: int = 0
    acked: int = 0
    acked_bytes: int = 0
    checked: int = 0
    connections: int = 0
    longest_gap: Gap = field(default_factory=Gap)
    gaps: list[Gap] = field(default_factory=list)
    round_trip_us: dict = field(default_factory=dict)
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures and self.acked > 0

    def as_dict(self) -> dict:
        return {**asdict(self), "ok": self.ok}


class Meter:
    """Fills a report as answers come in."""

    def __init__(self, report: Report):
        self.report = report
        self._begun = self._last = time.monotonic()
        self._last_wall = time.time()
        self._round_trips: list[float] = []

    def connected(self) -> None:
        """The clock of this flow begins here."""
        self.report.connections += 1
        self._begun = self._last = time.monotonic()

    def sent(self) -> None:
        self.report.sent += 1

    def answer(self, size: int = 0, round_trip: float | None = None) -> None:
        """An answer that was found right."""
        now, wall = time.monotonic(), time.time()
        gap = (now - self._last) * 1000
        if self.report.acked:
            self._note_gap(Gap(round(gap, 3), self._last_wall, wall))
        self._last, self._last_wall = now, wall
        self.report.acked += 1
        self.report.acked_bytes += size
        if round_trip is not None:
            self._round_trips.append(round_trip)

    def _note_gap(self, gap: Gap) -> None:
        if gap.ms > self.report.longest_gap.ms:
            self.report.longest_gap = gap
        if gap.ms >= GAP_MS_MIN and len(self.report.gaps) < GAPS_MAX:
            self.report.gaps.append(gap)

    def silent_ms(self) -> float:
        return (time.monotonic() - self._last) * 1000

    def fail(self, text: str) -> None:
        if len(self.report.failures) < 20:
            self.report.failures.append(text)

    def finish(self) -> None:
        self.report.seconds = round(time.monotonic() - self._begun, 3)
        times = sorted(self._round_trips)
        if times:
            ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
            self.report.round_trip_us = {name: round(times[min(int(len(times) * rank), len(times) - 1)] * 1e6) for name, rank in ranks.items()}


class Stop:
    """When to end: some time after the first flow connected, at SIGTERM or SIGINT, or when called."""

    def __init__(self, seconds: float | None):
        self._event = threading.Event()
        self._seconds = seconds
        self._deadline: float | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._event.set())

    def __bool__(self) -> bool:
        return self._event.is_set() or (self._deadline is not None and time.monotonic() >= self._deadline)

    def connected(self) -> None:
        """The time begins to count; later calls change nothing."""
        if self._deadline is None and self._seconds is not None:
            self._deadline = time.monotonic() + self._seconds

    def call(self) -> None:
        self._event.set()

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)


def write_progress(path: Path, meters: list[Meter]) -> None:
    """Replaces the progress file: what each flow has so far, for a script that looks on."""
    rows = [{"flow": m.report.flow, "acked": m.report.acked, "silent_ms": round(m.silent_ms(), 1), "failures": len(m.report.failures)} for m in meters]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(rows) + "\n")
    fresh.rename(path)
