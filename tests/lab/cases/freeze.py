"""A host that hangs and comes back: the worst kind, because it does not know."""

import time

from outlast_lab import emulator

from . import checks
from .failed import require
from .pair import Pair
from .stage import Stage

SELF_FENCED = 160
SHORT_SECONDS = 0.3


def frozen_host(stage: Stage) -> str:
    """The primary's host stands still for longer than the detection: thawed, it releases nothing and fences itself."""
    scene = Pair(stage).protected()
    primary, backup, traffic = scene.primary, scene.backup, scene.traffic
    _freeze(stage, SHORT_SECONDS)
    checks.goes_on(traffic)
    require(not backup.events("failover-started"), f"a pause of {SHORT_SECONDS} s was taken for a death, with detection after 1 s")
    scene.load_for_a_while()
    fault_at = time.time()
    emulator.freeze(stage.host("A"))
    takeover = checks.wait_takeover(backup, fault_at)
    time.sleep(stage.rng.uniform(0, 2))
    thawed_at = time.time()
    emulator.thaw(stage.host("A"))
    code = primary.wait_exit(30)
    fenced_ms = (time.time() - thawed_at) * 1000
    require(code == SELF_FENCED, f"the thawed primary ended with {code}: {primary.log()[-500:]}")
    checks.goes_on(traffic)
    flows = traffic.finish()
    voice = checks.one_voice(stage.ports, "A", "B", fault_at)
    journal = checks.journal_kept(stage, backup, traffic)
    return f"{takeover}; thawed, ends with {code} after {fenced_ms:.0f} ms; {checks.gap_over(flows, fault_at)}; {journal}; {voice}"


def _freeze(stage: Stage, seconds: float) -> None:
    emulator.freeze(stage.host("A"))
    time.sleep(seconds)
    emulator.thaw(stage.host("A"))
