"""Protected by persistent memory of its own host: the host goes down, boots again, and the guest is resumed.

The guest's disk is on the host's disk, whose write cache a power cut empties at random; the state directory is on the
host's memory module, mounted with DAX, or on the same disk, with a redo log.
"""

import time
from collections.abc import Callable

from . import checks
from .failed import require
from .pair import FLOWS, Pair
from .stage import Stage
from .vmm import Vmm

PMEM_DIR = "/pmem/outlast/vm0"
DISK_DIR = "/data/work/vm0"
FAULTS = 2
MUST_SURVIVE_POWER = ("--require-survives", "power")


def kernel_crash_then_resume(stage: Stage) -> str:
    """The host's kernel crashes; it boots again and `outlast resume`: same connections, nothing lost."""
    return _goes_on_after(stage, stage.crash, PMEM_DIR, "undo")


def power_cut_then_resume(stage: Stage) -> str:
    """The host loses its power, and what its disk had not flushed; it boots again and `outlast resume`."""
    return _goes_on_after(stage, stage.plug, PMEM_DIR, "undo")


def power_cut_then_resume_from_disk(stage: Stage) -> str:
    """The same with the state directory on the host's ordinary disk: the guest goes on from a redo log."""
    return _goes_on_after(stage, stage.plug, DISK_DIR, "redo")


def _goes_on_after(stage: Stage, fault: Callable[[str], float], state_dir: str, log: str) -> str:
    pair = Pair(stage)
    vmm = pair.start_local("A", *MUST_SURVIVE_POWER, state_dir=state_dir)
    traffic = stage.traffic(*FLOWS)
    traffic.wait_more()
    protection = vmm.ctl("status")
    require((protection["local"], protection["local_log"]) == ("a loss of power", log), f"kept otherwise: {protection}")
    told = []
    for _ in range(FAULTS):
        # The second time soon after the first: what a resume has put right must be as durable as what came before.
        time.sleep(stage.rng.uniform(0, stage.options.seconds))
        fault_at = fault("A")
        stage.boot("A")
        down_s = time.time() - fault_at
        vmm = Vmm.resumed(vmm)
        resumed = vmm.wait_event("resumed", 30, len(told) + 1)["properties"]
        told.append(f"down for {down_s:.1f} s, restored in {resumed['restore_ms']:.0f} ms")
        checks.goes_on(traffic)
    flows = traffic.finish()
    journal = checks.journal_kept(stage, vmm, traffic)
    require(not vmm.events("degraded"), "the state directory stopped taking epochs")
    return f"{log} log; {'; '.join(told)}; {checks.gap_over(flows, fault_at)}; {journal}"
