"""Protected by persistent memory of its own host: the host goes down, boots again, and the guest is resumed.

The guest's disk is on the host's disk, whose write cache a power cut empties at random; the state directory is on the
host's memory module, mounted with DAX.
"""

import time
from collections.abc import Callable

from . import checks
from .failed import require
from .pair import FLOWS, Pair
from .stage import Stage
from .vmm import Vmm

PMEM_DIR = "/pmem/outlast/vm0"


def kernel_crash_then_resume(stage: Stage) -> str:
    """The host's kernel crashes; it boots again and `outlast resume`: same connections, nothing lost."""
    return _goes_on_after(stage, stage.crash, PMEM_DIR)


def power_cut_then_resume(stage: Stage) -> str:
    """The host loses its power, and what its disk had not flushed; it boots again and `outlast resume`."""
    return _goes_on_after(stage, stage.plug, PMEM_DIR)


def _goes_on_after(stage: Stage, fault: Callable[[str], float], state_dir: str, *words: str) -> str:
    pair = Pair(stage)
    vmm = pair.start_local("A", *words, state_dir=state_dir)
    traffic = stage.traffic(*FLOWS)
    traffic.wait_more()
    time.sleep(stage.rng.uniform(0, stage.options.seconds))
    acked = traffic.acked()
    fault_at = fault("A")
    stage.boot("A")
    booted_at = time.time()
    vmm = Vmm.resumed(vmm)
    resumed = vmm.wait_event("resumed", 30)["properties"]
    checks.goes_on(traffic)
    flows = traffic.finish()
    journal = checks.journal_kept(stage, vmm, traffic)
    require(not vmm.events("degraded"), "the state directory stopped taking epochs")
    told = f"{sum(acked.values())} answers, then down for {booted_at - fault_at:.1f} s, restored in {resumed['restore_ms']:.0f} ms"
    return f"{told}; {checks.gap_over(flows, fault_at)}; {journal}"
