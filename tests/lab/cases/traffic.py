"""The client's flows as a process that runs beside a case."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from outlast_lab import network
from outlast_lab.instance import Instance

from .failed import Failed, require
from .waiting import wait_for

LAB = Path(__file__).resolve().parents[1]
CONNECT_SECONDS = 180
STALL_SECONDS = 90
END_SECONDS = 120
# On a machine with much else to do a guest takes a minute to boot. What is judged are the answers.
PATIENCE_SECONDS = 180


class Traffic:
    """Flows over one connection each, checked answer by answer."""

    def __init__(self, lab: Instance, work: Path, number: int, flows: tuple[str, ...], seed: int, options: dict):
        self.flows = flows
        self.acked_file = work / f"traffic-{number}.acked"
        self._progress, self._errors = work / f"traffic-{number}.progress", work / f"traffic-{number}.stderr"
        self.out = work / f"traffic-{number}.json"
        for path in (self.acked_file, self._progress, self.out):
            path.unlink(missing_ok=True)
        words = [*flows, "--seed", seed, "--connect-seconds", CONNECT_SECONDS, "--stall-seconds", STALL_SECONDS]
        words += ["--acked-file", self.acked_file, "--progress", self._progress, "--out", self.out]
        words += [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
        command = network.inside(lab, [sys.executable, "-m", "outlast_lab.client", *map(str, words)])
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": str(LAB)}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
            )

    def progress(self) -> dict[str, dict]:
        """What each flow has so far, by its name."""
        try:
            return {row["flow"]: row for row in json.loads(self._progress.read_text())}
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def acked(self) -> dict[str, int]:
        """Answers so far, by flow."""
        return {flow: row["acked"] for flow, row in self.progress().items()}

    def wait_more(self, count: int = 3, seconds: float = PATIENCE_SECONDS) -> dict[str, int]:
        """Waits until every flow has `count` answers more than now; returns how many each has."""
        before = self.acked()

        def grown():
            now = self.acked()
            return now if len(now) == len(self.flows) and all(now[flow] >= before.get(flow, 0) + count for flow in now) else None

        return wait_for(f"{count} more answers on each of {', '.join(self.flows)}", grown, seconds, self._ended)

    def check(self) -> None:
        """Nothing has gone wrong so far."""
        if why := self._ended():
            raise Failed(why)

    def finish(self) -> dict[str, dict]:
        """Ends the flows in good order; every answer must have been right. Returns their reports."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"the client did not end within {END_SECONDS} s: {self.progress()}") from None
        flows = {flow["flow"]: flow for flow in json.loads(self.out.read_text())["flows"]}
        for name, flow in flows.items():
            require(flow["ok"], f"{name}: {'; '.join(flow['failures']) or 'nothing was acknowledged'}")
            require(flow["connections"] == 1, f"{name}: {flow['connections']} connections instead of one")
        require(code == 0, f"the client ended with {code}")
        return flows

    def kill(self) -> None:
        """Ends the process, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _ended(self) -> str | None:
        if self._process.poll() is None:
            return None
        try:
            reports = json.loads(self.out.read_text())["flows"]
            return "the client gave up: " + "; ".join(f"{one['flow']}: {text}" for one in reports for text in one["failures"])
        except (OSError, ValueError):
            return f"the client ended with {self._process.returncode}: {self._errors.read_text()[-500:]}"
