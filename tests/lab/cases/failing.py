"""A guest that fails by itself: Debian's kernel says so through its own drivers, and `--on-guest-panic` is carried out.

The kernel reports its panic by `pvpanic-mmio`; a hang is found by the watchdog that it drives with `wdat_wdt`. Connections
of before do not survive a rollback: what is judged is a guest that serves new ones.
"""

import time
from dataclasses import replace

from outlast_lab import network
from outlast_lab.flows import Options

from . import checks
from .debian import BOOT_SECONDS, DEBIAN
from .failed import require
from .pair import BUSYBOX, Guest, Pair
from .stage import Stage
from .vmm import Vmm
from .waiting import wait_for

WORK_PORT = 7004
# As users have it: the kernel would boot again by itself after five seconds.
PANIC = "panic=5"
WATCHDOG_SECONDS = 5
# Long epochs: the guest boots faster in an emulated host, and nobody here waits for its answers.
EPOCH = ("--epoch", "200ms")
ROLLBACK = ("--on-guest-panic", "rollback")
CRASHED = 164
# Incident::relapse in vmm/src/run/incident.rs, without the way back.
RELAPSE_SECONDS = 60
# The host has 1.5 GiB: for the guest, its state directory, and earlier epochs.
DEBIAN_MEMORY = "256M"


def panic_is_rolled_back(stage: Stage) -> str:
    """The kernel panics and reports it: the guest goes on from an earlier epoch, with its disk."""
    vmm = _started(stage, BUSYBOX.with_words(PANIC), ROLLBACK)
    _wait_kept(vmm, 2)
    _do(stage, "panic 1")
    told = _rolled_back(vmm, "panicked")
    return f"{told}; {_serves_on(stage, vmm)}"


def hang_is_stopped(stage: Stage) -> str:
    """Nothing but a real-time process runs any more: the watchdog ends the guest, code 164, and it is not resumed."""
    vmm = _started(stage, BUSYBOX.with_words(f"outlast.watchdog={WATCHDOG_SECONDS}"), ())
    _do(stage, "hang 1")
    crash = vmm.wait_event("guest-panic", 120)["properties"]
    code = vmm.wait_exit()
    require((crash["what"], code) == ("watchdog", CRASHED), f"ended with {code} after {crash}: {vmm.log()[-500:]}")
    again = Vmm.resumed(vmm)
    require(again.wait_exit() == CRASHED and "crash.json" in again.log(), f"resumed all the same: {again.log()[-500:]}")
    return f"found in epoch {crash['epoch']}, stopped and kept"


def hang_is_rolled_back(stage: Stage) -> str:
    """The same with a rollback: the younger of the kept epochs are of a guest that hangs already."""
    vmm = _started(stage, BUSYBOX.with_words(f"outlast.watchdog={WATCHDOG_SECONDS}"), ROLLBACK)
    _wait_kept(vmm, 5)
    _do(stage, "hang 1")
    told = _rolled_back(vmm, "watchdog")
    return f"{told}; {_serves_on(stage, vmm)}"


def debian_hang_and_panic(stage: Stage) -> str:
    """Debian with systemd: its kernel panics and is rolled back; later it hangs, and systemd's watchdog finds it."""
    guest = replace(DEBIAN, memory=DEBIAN_MEMORY).with_words(f"{PANIC} systemd.watchdog_sec=10")
    vmm = _started(stage, guest, (*ROLLBACK, "--retain-bytes", "256M"), "login:")
    _wait_kept(vmm, 4)
    _do(stage, "panic 1")
    told = [_rolled_back(vmm, "panicked")]
    _serve(stage)
    # Sooner a crash would count as the same one come back, for which only older epochs are tried.
    relapse = RELAPSE_SECONDS + 2 * vmm.ctl("status")["incident"]["back_ms"] / 1000
    rolled_back_at = time.monotonic()
    wait_for("another crash is another one", lambda: time.monotonic() > rolled_back_at + relapse, 2 * relapse, vmm.ended)
    _wait_kept(vmm, 6)
    _do(stage, "hang 1")
    told.append(_rolled_back(vmm, "watchdog"))
    _serve(stage)
    vmm.stop()
    return "; ".join(told)


def _started(stage: Stage, guest: Guest, words: tuple[str, ...], ready: str = "guest: ready") -> Vmm:
    vmm = Pair(stage, guest).start_local("A", *EPOCH, *words)
    stage.breaks(vmm.console_file)
    vmm.wait_console(ready, BOOT_SECONDS)
    wait_for("an answer of the guest's agent", lambda: _answers(vmm), 60, vmm.ended)
    return vmm


def _serve(stage: Stage) -> None:
    """The guest serves a new client."""
    traffic = stage.traffic("stream")
    traffic.wait_more()
    traffic.finish()


def _serves_on(stage: Stage, vmm: Vmm) -> str:
    """So it does, and what it puts on its disk from now on is there, in a file system that is whole."""
    traffic = stage.traffic("stream", "journal")
    checks.goes_on(traffic)
    traffic.finish()
    return checks.journal_kept(stage, vmm, traffic)


def _wait_kept(vmm: Vmm, count: int) -> None:
    wait_for(f"{count} earlier epochs", lambda: len(vmm.ctl("status")["earlier"]) >= count, 120, vmm.ended)


def _do(stage: Stage, work: str) -> None:
    """Asks the guest's agent for work that it does not come back from."""
    with network.tcp_socket(stage.lab) as sock:
        sock.settimeout(30)
        sock.connect((Options().address, WORK_PORT))
        sock.sendall(f"{work}\n".encode())


def _rolled_back(vmm: Vmm, what: str) -> str:
    """Waits until the guest was rolled back, from older epochs as long as that did not help, and goes on."""
    before = len(vmm.events("rollback"))

    def settled() -> list[dict]:
        back = vmm.events("rollback")[before:]
        later = [event for event in vmm.events() if event["event"] == "guest-panic"][before:]
        return back if back and len(back) == len(later) and _answers(vmm) else []

    back = [event["properties"] for event in wait_for(f"an end of '{what}'", settled, 180, vmm.ended)]
    require(all(one["what"] == what for one in back), f"rolled back for something else: {back}")
    epochs = [one["epoch"] for one in back]
    require(epochs == sorted(epochs, reverse=True), f"not from older epochs each time: {epochs}")
    return f"{what}: rolled back to {', '.join(map(str, epochs))}"


def _answers(vmm: Vmm) -> bool:
    """Whether the guest's agent does a piece of work now."""
    try:
        with network.tcp_socket(vmm.stage.lab) as sock:
            sock.settimeout(2)
            sock.connect((Options().address, WORK_PORT))
            sock.sendall(b"cpu 1\n")
            return sock.recv(256).startswith(b"WORK cpu")
    except OSError:
        return False
