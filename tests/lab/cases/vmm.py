"""One `outlast` process in a host: started, watched through its event file, asked, killed.

Its events, console and exit code lie in the host's shared directory: they are read from outside,
also when the host has no power any more.
"""

import json
from pathlib import Path

from outlast_lab import agent

from .failed import Failed, require
from .stage import Stage
from .waiting import wait_for

NAME = "vm0"
STATE_DIR = f"/dev/shm/outlast/{NAME}"


class Vmm:
    """A VMM that runs as a job of its host."""

    def __init__(self, stage: Stage, host: str, role: str, words: list[str], state_dir: str = STATE_DIR, name: str = NAME):
        self.stage, self.host, self.state_dir = stage, host, state_dir
        job = f"{stage.number_vmm()}-{role}"
        share = stage.host(host).share
        self.console_file = share / "vmm" / f"{job}.console"
        self._events_file = share / "vmm" / f"{job}.events"
        inside = f"/lab/host/vmm/{job}"
        command = ["outlast", role, "--name", name, *words]
        command += ["--console", f"file={inside}.console", "--event-monitor", f"path={inside}.events"]
        command += ["--state-dir", state_dir]
        self._start(job, command)

    @classmethod
    def resumed(cls, before: "Vmm") -> "Vmm":
        """`outlast resume` of a VMM that is gone: what it writes goes on in the files of that one."""
        vmm = cls.__new__(cls)
        vmm.stage, vmm.host, vmm.state_dir = before.stage, before.host, before.state_dir
        vmm.console_file, vmm._events_file = before.console_file, before._events_file
        vmm._start(f"{vmm.stage.number_vmm()}-resume", ["outlast", "resume", "--state-dir", vmm.state_dir])
        return vmm

    def _start(self, job: str, command: list[str]) -> None:
        self.job = job
        host = self.stage.host(self.host)
        self._code_file = host.share / "jobs" / f"{job}.rc"
        self.log_file = host.share / "jobs" / f"{job}.log"
        done = agent.capture(self.stage.lab, host, ["job", "start", job, *command])
        require(done.code == 0, f"job {job} on host {self.host}: {done.stderr.decode(errors='replace')}")

    def events(self, name: str | None = None) -> list[dict]:
        """Events so far, those of one name or all."""
        lines = _read(self._events_file).split("\n")[:-1]
        found = [json.loads(line) for line in lines]
        return [event for event in found if name in (None, event["event"])]

    def last_of(self, *names: str) -> str | None:
        """The latest event that has one of these names."""
        return next((event["event"] for event in reversed(self.events()) if event["event"] in names), None)

    def wait_event(self, name: str, seconds: float = 60, count: int = 1) -> dict:
        """Waits for the `count`-th event of a name; returns it."""
        what = f"event {name} of {self.job} on host {self.host}"
        return wait_for(what, lambda: self.events(name)[count - 1 : count], seconds, self.ended)[0]

    def next_of(self, name: str) -> int:
        """Which event of a name comes next, for `wait_event`: taken before what is to cause it. On a machine that is slow there
        may have been others before."""
        return len(self.events(name)) + 1

    def exit_code(self) -> int | None:
        """The code it ended with, None while it runs."""
        text = _read(self._code_file).strip()
        return int(text) if text else None

    def wait_exit(self, seconds: float = 30) -> int:
        """Waits for its end; returns its code."""
        return wait_for(f"end of {self.job} on host {self.host}", lambda: [self.exit_code()] if self.exit_code() is not None else None, seconds)[0]

    def kill(self) -> None:
        """kill -9 of the process; its host stays."""
        self.stage.run(self.host, f"job kill {self.job}")

    def ctl(self, *words: str, seconds: float = 60) -> dict:
        """Asks it through its control socket."""
        command = f"outlast ctl --api-socket {self.state_dir}/api.sock --output json {' '.join(words)}"
        text = self.stage.run(self.host, command, seconds)
        try:
            return json.loads(text) if text else {}
        except json.JSONDecodeError:
            raise Failed(f"'{command}' printed no JSON: {text[:300]}") from None

    def stop(self) -> None:
        """Ends its guest by `ctl stop`: it must end with code 0."""
        self.ctl("stop")
        code = self.wait_exit()
        require(code == 0, f"{self.job} on host {self.host} ended with {code} after ctl stop: {self.log()[-500:]}")

    def console(self) -> str:
        return _read(self.console_file)

    def wait_console(self, text: str, seconds: float) -> str:
        """Waits until the guest has printed `text`; returns all that it printed."""
        wait_for(f"'{text}' on the console of {self.job}", lambda: text in self.console(), seconds, self.ended)
        return self.console()

    def log(self) -> str:
        return _read(self.log_file)

    def ended(self) -> str | None:
        """Why nothing more can come from it, None while it runs."""
        code = self.exit_code()
        return None if code is None else f"it ended with {code}: {self.log()[-600:]}"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
