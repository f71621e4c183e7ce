"""A member of an etcd cluster on a lab host: it goes down with the host's power, and what it synced is on the host's disk."""

from pathlib import Path

from . import agent, process, transfer
from .errors import LabError
from .instance import Host, Instance

JOB = "etcd"
PROGRAMS = "/usr/local/bin"


class OnHost:
    """What a station is to other members."""

    # Not where a case's own files are, which come and go.
    data = "/data/member"

    def __init__(self, lab: Instance, host: Host):
        self._lab, self._host = lab, host
        self.name, self.address = f"e{host.index}", host.lan_address

    @property
    def log(self) -> Path:
        return self._host.share / "jobs" / f"{JOB}.log"

    @property
    def is_running(self) -> bool:
        if process.pid_of(self._host.pid_record) is None:
            return False
        jobs = [line.split() for line in self._run("job", "list").splitlines()]
        return any(name == JOB and state == "running" for name, _, state in jobs)

    def make(self) -> None:
        """Its host is there; a former cluster's files are not any more."""
        self._run("rm", "-rf", self.data)

    def start(self, command: list[str]) -> None:
        """Starts the member. The program itself is gone whenever the host was."""
        program = Path(command[0])
        transfer.put(self._lab, self._host, [program], PROGRAMS)
        self._run("job", "start", JOB, f"{PROGRAMS}/{program.name}", *command[1:])

    def remove(self) -> None:
        """Ends it."""
        if self.is_running:
            self._run("job", "kill", JOB)

    def _run(self, *argv: str) -> str:
        done = agent.capture(self._lab, self._host, list(argv))
        if done.code != 0:
            raise LabError(f"'{' '.join(argv)}' on host {self._host.name}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode()
