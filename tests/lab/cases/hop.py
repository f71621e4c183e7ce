"""A guest that is saved and restored in another process, again and again, from its boot on."""

import time

from . import checks
from .failed import require
from .pair import FLOWS, Pair
from .ports import GUEST_MAC
from .stage import Stage
from .vmm import Vmm

SNAPSHOT = "/dev/shm/hop"
# A boot takes a few seconds: so long the first hops come one after the other.
BOOT_HOPS = 4


def hop_through_boot(stage: Stage) -> str:
    """Snapshot and restore in a new process, at random moments of the boot and under load: the guest goes on."""
    pair = Pair(stage)
    vmm = pair.start_primary("A", None)
    traffic = stage.traffic(*FLOWS)
    times = []
    for number in range(1, stage.options.hops + 1):
        if number > BOOT_HOPS:
            traffic.wait_more(2)
        time.sleep(stage.rng.uniform(0, 1.2))
        begun = time.monotonic()
        vmm = _hop(stage, pair, vmm, number)
        times.append(time.monotonic() - begun)
    checks.goes_on(traffic)
    flows = traffic.finish()
    journal = checks.journal_kept(stage, vmm, traffic)
    typical = sorted(times)[len(times) // 2] * 1000
    return f"{len(times)} hops of {typical:.0f} ms; {checks.gap_over(flows, 0)}; {journal}"


def _hop(stage: Stage, pair: Pair, vmm: Vmm, number: int) -> Vmm:
    """Pauses and saves the guest, kills its VMM, and has another go on with it."""
    require(vmm.exit_code() is None, f"the guest ended before hop {number}: {vmm.log()[-500:]}")
    directory = f"{SNAPSHOT}-{number}"
    vmm.wait_event("booting", 20)
    vmm.ctl("pause")
    vmm.ctl("snapshot", "create", directory)
    vmm.kill()
    vmm.wait_exit()
    restored = Vmm(stage, "A", "run", ["--restore", directory, *pair.devices(), "--net", f"tap=tap0,mac={GUEST_MAC}"])
    restored.wait_event("booting", 20)
    restored.ctl("resume")
    stage.run("A", f"rm -rf {directory}")
    return restored
