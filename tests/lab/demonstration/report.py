"""report.json, and the summary on the screen: the same figures."""

import json
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

from cases.checks import Takeover

from . import evidence
from .screen import Screen


@dataclass
class Facts:
    """What the story has seen so far; what it did not come to stays empty."""

    seed: int
    guest: str
    versions: dict[str, str] = field(default_factory=dict)
    resync: dict | None = None
    before: dict | None = None
    status: dict | None = None
    takeover: Takeover | None = None
    first_frame_ms: float | None = None
    protected_again_s: float | None = None
    flows: dict[str, dict] = field(default_factory=dict)
    cut_at: float = 0.0
    voice: str = ""
    journal: dict | None = None
    failure: str = ""
    begun: float = field(default_factory=time.time)

    @property
    def ok(self) -> bool:
        """All was seen, and nothing was wrong."""
        return not self.failure and None not in (self.takeover, self.journal, self.protected_again_s) and bool(self.flows and self.voice)

    @property
    def epochs(self) -> int | None:
        """Sealed while protected, up to the last look before the power cut."""
        return self._grown("epochs")

    @property
    def shipped_bytes(self) -> int | None:
        """To the backup, the copy of the whole guest not counted."""
        return self._grown("shipped_bytes")

    def times_ms(self, name: str) -> dict[str, float] | None:
        """A distribution of the primary's status, up to the last look before the power cut."""
        return {key: round(self.status["epochs"][name][key] / 1e6, 3) for key in ("p50", "p99", "max")} if self.status else None

    def told_epochs(self) -> str:
        return f"{self.epochs} epochs under protection, {self.shipped_bytes / 1e6:.1f} MB shipped to host B"

    def told_pauses(self) -> str:
        pause = self.times_ms("pause_ns")
        return f"the guest stops for a boundary for {pause['p50']:.1f} ms (median), {pause['p99']:.1f} ms (p99)"

    def _grown(self, counter: str) -> int | None:
        if not (self.before and self.status):
            return None
        return self.status["epochs"]["counts"][counter] - self.before["epochs"]["counts"][counter]


def write(facts: Facts, path: Path) -> None:
    """Replaces report.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(as_dict(facts), indent=2) + "\n")
    fresh.rename(path)


def as_dict(facts: Facts) -> dict:
    """The report as it is written."""
    takeover, flows = facts.takeover, facts.flows
    kept = ("acked", "acked_bytes", "checked", "connections", "round_trip_us", "seconds")
    return {
        "verdict": "ok" if facts.ok else "failed",
        "failure": facts.failure or None,
        "seed": facts.seed,
        "guest": facts.guest,
        "epochs": facts.epochs,
        "pause_ms": facts.times_ms("pause_ns"),
        "commit_ms": facts.times_ms("commit_ns"),
        "hold_ms": facts.times_ms("hold_ns"),
        "bytes": facts.shipped_bytes,
        "resync": facts.resync,
        "detection_ms": takeover and takeover.silence_ms,
        "takeover_ms": takeover and takeover.takeover_ms,
        "outputs_sent_again": takeover and takeover.reemitted,
        "first_frame_ms": facts.first_frame_ms and round(facts.first_frame_ms, 1),
        "client_gap_ms": evidence.gaps_over_ms(flows, facts.cut_at),
        "client_longest_gap_ms": evidence.longest_gaps_ms(flows),
        "client": {name: {key: flow[key] for key in kept} for name, flow in flows.items()},
        "client_answers": sum(flow["acked"] for flow in flows.values()),
        "client_bytes": sum(flow["acked_bytes"] for flow in flows.values()),
        "connections": sum(flow["connections"] for flow in flows.values()),
        "journal": facts.journal,
        "frames": facts.voice,
        "protected_again_s": facts.protected_again_s and round(facts.protected_again_s, 1),
        "versions": facts.versions,
        "machine": machine(),
        "begun_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(facts.begun)),
        "seconds": round(time.time() - facts.begun, 1),
    }  # fmt: skip


def machine() -> dict:
    """Where it ran: the emulated hosts share these processors."""
    return {
        "cpu": _first_of("/proc/cpuinfo", "model name"),
        "cpus": os.cpu_count(),
        "memory_mib": int(_first_of("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": platform.release(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "hosts": "emulated by QEMU without acceleration: times are several times those of real hosts",
    }


def _first_of(path: str, key: str) -> str:
    """The first value of a key in a file of /proc."""
    rows = (line.partition(":") for line in Path(path).read_text().splitlines())
    return next((value.strip() for name, _, value in rows if name.strip() == key), "")


def show(facts: Facts, screen: Screen, path: Path) -> None:
    """The summary of a story that ended well."""
    takeover, pause, flows = facts.takeover, facts.times_ms("pause_ns"), facts.flows
    answers, size = sum(flow["acked"] for flow in flows.values()), sum(flow["acked_bytes"] for flow in flows.values())
    gaps = ", ".join(f"{name} {ms / 1000:.2f} s" for name, ms in evidence.gaps_over_ms(flows, facts.cut_at).items())
    rows = [
        ("verdict", "nothing that the client was told was lost or altered, on the same connections"),
        ("client", f"{answers} answers, {size / 1e6:.1f} MB checked; {len(flows)} connections, none broke"),
        ("silence", f"when the power went: {gaps}"),
        ("takeover", f"detected after {takeover.silence_ms:.0f} ms of silence, taken over in {takeover.takeover_ms:.0f} ms, {takeover.reemitted} held outputs sent again"),
        ("epochs", f"{facts.epochs}, pause {pause['p50']:.1f} ms median, {pause['p99']:.1f} ms p99; {facts.shipped_bytes / 1e6:.1f} MB shipped"),
        ("disk", f"{facts.journal['acked']} acknowledged lines, all there; file system clean"),
        ("again", f"protected again {facts.protected_again_s:.0f} s after host A got its power back"),
        ("report", str(path)),
    ]  # fmt: skip
    screen.box("the guest outlasted its host", rows, "green")
    screen.plain("Emulated hosts are several times slower than real ones; so are these times.", "dim")
    screen.plain(f"The same moments again: outlast demo --seed {facts.seed}", "dim")
