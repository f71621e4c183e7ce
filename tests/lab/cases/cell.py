"""One VM with one witness while one thing happens to it: what the moments (moments.py) act on, and what is judged after each.

Every cell has a VM name of its own: the witness keeps the registers of all cells, as it does for the VMs of a site. The hosts
stay up from cell to cell.
"""

import contextlib
import json
import time
from collections.abc import Iterator

from outlast_lab import agent

from . import counting
from .counting import Requests
from .failed import Failed, require
from .pair import PORT, STATES, wait_protected
from .ports import GUEST_MAC
from .stage import CLEAN, Stage, other
from .vmm import Vmm
from .waiting import wait_for
from .witnesses import Fault, Witness

KERNEL = "/data/net-echo"
DETECT = "1s"
SPLIT_BRAIN = 6
# An emulated host starts a VMM in one to two seconds, and a call to a witness that is away takes up to six.
SOON_SECONDS = 40
# How long it is watched that something does not happen.
WATCH_SECONDS = 4
SERVES = 5


class Cell:
    """What is started in it, and who may run the guest."""

    def __init__(self, stage: Stage, witness: Witness, fault: Fault, vm: str):
        self.stage, self.witness, self.fault, self.vm = stage, witness, fault, vm
        self.started: list[Vmm] = []
        self.is_struck = False
        self._seen: list[bytes] = []
        self._struck: contextlib.ExitStack | None = None
        for host in stage.lab.hosts:
            stage.run(host, CLEAN)
        stage.ports.forget()
        self.requests = Requests(stage.lab)

    def close(self) -> None:
        """Nothing of it is left, whatever happened in it."""
        self.heal()
        self.requests.close()

    # What an operator or a supervisor does.

    def run(self, host: str, *words: str) -> Vmm:
        """`outlast run` on a host."""
        return self._vmm(host, "run", ["--kernel", KERNEL, "--memory", "48M", "--net", f"tap=tap0,mac={GUEST_MAC}", *words])

    def backup(self, host: str) -> Vmm:
        """`outlast backup` on a host, ready for a primary."""
        vmm = self._vmm(host, "backup", ["--net", "tap=tap0", "--listen", self._target(host)])
        vmm.wait_event("waiting", SOON_SECONDS)
        return vmm

    def resume(self, vmm: Vmm) -> Vmm:
        """`outlast resume` of a VMM that is gone."""
        self.started.append(Vmm.resumed(vmm))
        return self.started[-1]

    def protect(self, primary: Vmm, backup: Vmm) -> str:
        """`outlast ctl protect`; gives what it said if it was refused."""
        return self._ctl(primary, "protect", self._target(backup.host))

    def stop(self, vmm: Vmm) -> str:
        """`outlast ctl stop`; gives what it said if it failed."""
        return self._ctl(vmm, "stop")

    def pair(self, host: str = "A") -> tuple[Vmm, Vmm]:
        """A guest that the other host could take over; what the witness knew before the backup was listed is remembered."""
        primary = self.run(host)
        self.serves(primary)
        self.remember()
        backup = self.backup(other(host))
        said = self.protect(primary, backup)
        require(not said, f"the guest could not be protected before anything was done: {said}")
        wait_protected(primary, backup, SOON_SECONDS)
        self.serves(primary)
        return primary, backup

    def start_over(self) -> Vmm:
        """The documented way when nobody is left who can continue the guest: each host says that its processes are gone, and the guest
        boots anew."""
        for vmm in self.started:
            if vmm.exit_code() is None:
                vmm.kill()
                vmm.wait_exit(SOON_SECONDS)
        gone = self.backup("B")
        gone.kill()
        gone.wait_exit()
        self.new_life()
        runner = self.run("A")
        self.serves(runner)
        return runner

    def new_life(self) -> None:
        """The guest has ended; one that boots now counts from the beginning."""
        self.requests.life += 1

    # The fault.

    def remember(self) -> None:
        """What the witness has now is what it will have when it is restored."""
        if self.fault.forgets:
            self.witness.remember()

    def strike(self) -> None:
        """The fault begins."""
        self.is_struck = True
        self._struck = contextlib.ExitStack()
        self._struck.enter_context(self.fault.strike())

    def heal(self) -> None:
        """The fault ends, if it began."""
        struck, self._struck = self._struck, None
        if struck:
            struck.close()

    @contextlib.contextmanager
    def struck(self) -> Iterator[None]:
        """The fault lasts as long as the context."""
        self.strike()
        yield
        self.heal()

    def sees(self, host: str) -> bool:
        """Whether a host has its witness during the fault."""
        return host not in self.fault.blind

    # What is seen.

    def serves(self, vmm: Vmm) -> None:
        """Waits until the guest of a VMM answers again and again."""
        counting.wait_answers(self.stage.ports, vmm.host, SOON_SECONDS, vmm.ended, SERVES)

    def is_served_by(self, host: str, since: float) -> bool:
        """Whether a host's guest answered again and again since a time."""
        return counting.hosts_since(self.stage.ports, since)[host] >= SERVES

    def settle(self, vmms: list[Vmm], seconds: float = SOON_SECONDS) -> list[Vmm]:
        """Waits until each of these serves or has said why it does not; gives those that serve."""
        since = time.time()

        def settled() -> bool:
            return all(has_given_up(vmm) or self.is_served_by(vmm.host, since) for vmm in vmms)

        wait_for(f"{' and '.join(vmm.job for vmm in vmms)} serving or ended", settled, seconds)
        return [vmm for vmm in vmms if not has_given_up(vmm)]

    def watch(self, what: str, happened, seconds: float = WATCH_SECONDS) -> None:
        """For a time, something does not happen."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            require(not happened(), f"{what}, and the witness could not have been asked")
            time.sleep(0.05)

    def refused(self, vmm: Vmm, host_sees: bool) -> str:
        """A start that must come to nothing: it ends, with code 6 if its host has the witness, and no guest began there."""
        code = vmm.wait_exit(SOON_SECONDS)
        require(code != 0 and not vmm.events("booting"), f"{vmm.job} on host {vmm.host} ran and ended with {code}: {vmm.log()[-500:]}")
        require(code == SPLIT_BRAIN or not host_sees, f"{vmm.job} on host {vmm.host} was refused with {code}: {vmm.log()[-500:]}")
        return f"{vmm.job.split('-')[1]} on {vmm.host}: {code}"

    def records(self) -> list[dict]:
        """The VM's register as the witness has it. What was seen of it stays."""
        records = self.witness.records(self.vm)
        if not (self._struck and self.fault.forgets):
            require(records[: len(self._seen)] == self._seen, "the witness has lost or changed records")
            self._seen = records
        return [json.loads(record) for record in records]

    def has_ended(self) -> bool:
        """Whether the register says that the guest ended."""
        records = self.records()
        return bool(records) and records[-1]["standing"] == "ended"

    # The end.

    def end(self, runner: Vmm | None) -> None:
        """The one guest is stopped, and that stands at the witness."""
        if runner is not None:
            self._one_voice(runner)
            said = self.stop(runner)
            require(not said, f"the guest could not be stopped at the end: {said}")
            code = runner.wait_exit(SOON_SECONDS)
            require(code == 0, f"{runner.job} ended with {code} after ctl stop: {runner.log()[-500:]}")
        wait_for("no guest", lambda: not counting.hosts_since(self.stage.ports, time.time() - 1.0), 10)

    def judge(self) -> str:
        """One line of answers, and a register that tells the same story."""
        line = counting.one_line(self.stage.ports)
        records = self.records()
        numbers = [record["number"] for record in records]
        require(numbers == list(range(1, len(records) + 1)), f"the register has records {numbers}")
        require(len({record["register"] for record in records}) == 1, "the records are of several registers")
        require(len({record["attempt"] for record in records}) == len(records), "one attempt was won twice")
        require(records[-1]["standing"] == "ended", f"the guest was stopped and the register says {records[-1]['standing']}")
        for record in records:
            require(record["branch"] <= record["number"], f"record {record['number']} is of branch {record['branch']}")
        return f"{len(records)} records; {line}"

    def _one_voice(self, runner: Vmm) -> None:
        since = time.time()
        self.serves(runner)
        newest = self.records()[-1]
        named = (newest["standing"], newest["primary"]["location"]["host"])
        require(named == ("running", runner.host), f"host {runner.host} runs the guest, and the newest record says {named}")
        others = {host: number for host, number in counting.hosts_since(self.stage.ports, since).items() if host != runner.host}
        require(not others, f"two guests: {runner.host} runs the guest, and {others} answers came from elsewhere")

    def _vmm(self, host: str, role: str, words: list[str]) -> Vmm:
        words = [*words, "--witness", self.witness.option, "--detect", DETECT]
        self.started.append(Vmm(self.stage, host, role, words, f"/dev/shm/outlast/{self.vm}", self.vm))
        return self.started[-1]

    def _target(self, host: str) -> str:
        return f"tcp:{self.stage.host(host).repl_address}:{PORT},clear"

    def _ctl(self, vmm: Vmm, *words: str) -> str:
        command = ["outlast", "ctl", "--api-socket", f"{vmm.state_dir}/api.sock", *words]
        done = agent.capture(self.stage.lab, self.stage.host(vmm.host), command, timeout=SOON_SECONDS + 60)
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        return "" if done.code == 0 else f"{done.code}: {said}"


def has_given_up(vmm: Vmm) -> bool:
    """It ended, or would have: storage that hangs may keep a process from its end."""
    return vmm.exit_code() is not None or "\noutlast: " in f"\n{vmm.log()}"


def is_protected(primary: Vmm, backup: Vmm) -> bool:
    """Both say that the backup could take over."""
    return all(vmm.last_of(*STATES) == "protected" for vmm in (primary, backup))


def require_running(runners: list[Vmm], allowed: set[str]) -> Vmm:
    """Exactly one, on a host on which it may be."""
    hosts = [vmm.host for vmm in runners]
    if len(runners) != 1 or hosts[0] not in allowed:
        raise Failed(f"the guest runs on {hosts or 'no host'}, and may on one of {sorted(allowed)}: {'; '.join(vmm.log()[-300:] for vmm in runners)}")
    return runners[0]
