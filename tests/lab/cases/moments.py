"""Moments in a VM's life at which a witness is needed, each with a fault of it. Each gives who runs the guest at the end, and
what was seen.

A host that has its witness must come to its end during the fault; one that has none must do nothing that needs it, and do
it after the fault is healed. In no case may two hosts run the guest: where it can be arranged, another host tries.
"""

import time

from outlast_lab import network

from .cell import SOON_SECONDS, Cell, is_protected, require_running
from .failed import Failed, require
from .pair import STATES, wait_protected
from .vmm import Vmm
from .waiting import wait_for

SELF_FENCED = 160
# Tries of a supervisor after everything works again.
STARTS = 3


def start(cell: Cell) -> tuple[Vmm | None, str]:
    """Both hosts boot a VM at once that was stopped before."""
    first = cell.run("A")
    cell.serves(first)
    cell.remember()
    cell.end(first)
    cell.new_life()
    with cell.struck():
        tries = [cell.run(host) for host in ("A", "B")]
        runners = cell.settle(tries)
        able = {host for host in ("A", "B") if cell.sees(host)}
        runner = require_running(runners, able) if able else None
        require(runner or not runners, f"the guest runs on {[vmm.host for vmm in runners]}, and no host had its witness")
    told = [cell.refused(vmm, cell.sees(vmm.host)) for vmm in tries if vmm is not runner]
    return runner or _start_again(cell), ", ".join(told)


def pairing(cell: Cell) -> tuple[Vmm | None, str]:
    """A backup joins a guest that runs alone."""
    cell.remember()
    primary = cell.run("A")
    cell.serves(primary)
    backup = cell.backup("B")
    with cell.struck():
        said = cell.protect(primary, backup)
        if cell.sees("A") and cell.sees("B"):
            require(not said, f"ctl protect: {said}")
            wait_protected(primary, backup, SOON_SECONDS)
        else:
            cell.watch("a backup joined", lambda: is_protected(primary, backup))
        cell.serves(primary)
    if cell.fault.renews:
        cell.watch("a backup joined", lambda: is_protected(primary, backup))
        return cell.start_over(), "never joined"
    if not is_protected(primary, backup):
        _protect_again(cell, primary, backup)
    return primary, said or "joined"


def takeover(cell: Cell) -> tuple[Vmm | None, str]:
    """The primary is killed, and started again as a supervisor would."""
    primary, backup = cell.pair()
    with cell.struck():
        at = time.time()
        primary.kill()
        if cell.sees("B"):
            took = _wait_takeover(cell, backup, at)
        else:
            cell.watch("the backup took over", lambda: backup.events("failover-finished"))
        again = cell.run("A")
        require(not cell.settle([again]), "the primary runs again, and its backup may continue the guest")
    refused = cell.refused(again, cell.sees("A"))
    if cell.fault.renews:
        cell.watch("the backup took over", lambda: backup.events("failover-finished"))
        return cell.start_over(), "nobody could go on"
    if not cell.sees("B"):
        took = f"after the fault: {_wait_takeover(cell, backup, time.time())}"
    return backup, f"{took}; {refused}"


def parted(cell: Cell) -> tuple[Vmm | None, str]:
    """The link between the hosts is cut: both live, and both ask."""
    primary, backup = cell.pair()
    host = cell.stage.host("A")
    solo, kept = primary.next_of("solo"), backup.next_of("kept")

    def winner() -> Vmm | None:
        if backup.events("failover-finished"):
            return backup
        return primary if len(primary.events("solo")) >= solo else None

    with cell.struck():
        network.set_link(cell.stage.lab, host, "repl", up=False)
        able = {one for one in ("A", "B") if cell.sees(one)}
        if able:
            runner = wait_for("one side goes on", winner, SOON_SECONDS)
            require(runner.host in able, f"host {runner.host} goes on, and had no witness")
            cell.serves(runner)
        else:
            cell.watch("one side went on", winner)
    if cell.fault.renews:
        cell.watch("one side went on", winner)
        network.set_link(cell.stage.lab, host, "repl", up=True)
        return cell.start_over(), "nobody could go on"
    runner = wait_for("one side goes on", winner, SOON_SECONDS)
    cell.serves(runner)
    if runner is backup:
        code = primary.wait_exit(SOON_SECONDS)
        require(code == SELF_FENCED, f"the primary that lost ended with {code}: {primary.log()[-500:]}")
    else:
        backup.wait_event("kept", SOON_SECONDS, kept)
    network.set_link(cell.stage.lab, host, "repl", up=True)
    return runner, f"{runner.host} goes on"


def resume(cell: Cell) -> tuple[Vmm | None, str]:
    """A guest protected by its host's state directory is resumed, and another host starts it afresh."""
    vmm = cell.run("A", "--protect", "local")
    cell.serves(vmm)
    if cell.fault.forgets:
        cell.remember()
        vmm.kill()
        vmm = cell.resume(vmm)
        cell.serves(vmm)
    vmm.kill()
    with cell.struck():
        tries = [cell.resume(vmm), cell.run("B")]
        runners = cell.settle(tries)
        runner = require_running(runners, {"A"}) if cell.sees("A") else None
        require(runner or not runners, f"the guest runs on {[one.host for one in runners]}, and no host had its witness")
    told = [cell.refused(tries[1], cell.sees("B"))]
    if runner is None:
        told.append(f"resume: {tries[0].wait_exit(SOON_SECONDS)}")
        runner = cell.resume(vmm)
        cell.serves(runner)
    return runner, ", ".join(told)


def stop(cell: Cell) -> tuple[Vmm | None, str]:
    """A protected guest is stopped by its operator."""
    primary, backup = cell.pair()
    with cell.struck():
        said = cell.stop(primary)
        if cell.sees("A"):
            require(not said, f"ctl stop: {said}")
            require(cell.has_ended(), "ctl stop answered that the guest ended, and the witness has no word of that")
    code = primary.wait_exit(SOON_SECONDS)
    require((code == 0) == (not said), f"ctl stop said '{said}', and the process ended with {code}")
    if cell.fault.renews and not cell.has_ended():
        cell.watch("the backup took over", lambda: backup.events("failover-finished"))
        return cell.start_over(), f"not recorded, and said so (code {code}); nobody could go on"
    since = time.time()
    wait_for("the guest ended, or its backup runs it", lambda: cell.has_ended() or cell.is_served_by("B", since), SOON_SECONDS)
    if cell.has_ended():
        wait_for("the backup knows of the end", lambda: backup.exit_code() is not None or backup.last_of(*STATES) == "kept", SOON_SECONDS)
        return None, f"ended, code {code}"
    # Without a record of its end nobody was told that there was one.
    require(said, "ctl stop answered that the guest ended, and its backup runs it")
    return backup, f"not recorded, and said so (code {code}); B runs it"


MOMENTS = {moment.__name__: moment for moment in (start, pairing, takeover, parted, resume, stop)}


def _start_again(cell: Cell) -> Vmm:
    """Everything works, and nobody runs the guest: a supervisor on one of the hosts gets it."""
    for _ in range(STARTS):
        for host in ("A", "B"):
            vmm = cell.run(host)
            if cell.settle([vmm]):
                return vmm
    raise Failed(f"nobody runs the guest, and nobody can start it: {cell.started[-1].log()[-500:]}")


def _protect_again(cell: Cell, primary: Vmm, backup: Vmm) -> None:
    """What was asked for happens by itself; if it was refused, it is asked for again."""
    if primary.ctl("status").get("state") in ("Solo", "solo"):
        said = cell.protect(primary, backup)
        require(not said, f"ctl protect after the fault: {said}")
    wait_protected(primary, backup, SOON_SECONDS)


def _wait_takeover(cell: Cell, backup: Vmm, at: float) -> str:
    backup.wait_event("failover-finished", SOON_SECONDS)
    ms = (time.time() - at) * 1000
    cell.serves(backup)
    return f"B goes on {ms:.0f} ms after it"
