"""Protected by the state directory of its own host: the VMM is killed, and the guest resumed."""

import time

from . import checks
from .failed import require
from .pair import FLOWS, Pair
from .stage import Stage
from .vmm import Vmm

KILLS = 3


def resume_after_kills(stage: Stage) -> str:
    """kill -9 of the only VMM, again and again; each time `outlast resume`: same connections, nothing lost."""
    pair = Pair(stage)
    vmm = pair.start_local("A")
    traffic = stage.traffic(*FLOWS)
    traffic.wait_more()
    told = []
    for _ in range(KILLS):
        time.sleep(stage.rng.uniform(0.3, 2.0))
        fault_at = time.time()
        vmm.kill()
        vmm = Vmm.resumed(vmm)
        resumed = vmm.wait_event("resumed", 30, len(told) + 1)["properties"]
        told.append(f"{resumed['restore_ms']:.0f} ms")
        checks.goes_on(traffic)
    flows = traffic.finish()
    journal = checks.journal_kept(stage, vmm, traffic)
    require(not vmm.events("degraded"), "the state directory stopped taking epochs")
    return f"{KILLS} kills, restored in {', '.join(told)}; {checks.gap_over(flows, fault_at)}; {journal}"
