"""The plug is pulled: the host of the guest is gone at once, in the middle of everything."""

from . import checks
from .failed import require
from .pair import Pair
from .stage import Stage

# From the cut, with detection after one second: what the first landing promises.
GOES_ON_SECONDS_MAX = 2.0


def plug_one_vcpu(stage: Stage) -> str:
    """A guest under load loses its host; its clients lose nothing."""
    return _plug(stage, cpus=1)


def plug_two_vcpus(stage: Stage) -> str:
    """The same with two virtual processors."""
    return _plug(stage, cpus=2)


def _plug(stage: Stage, cpus: int) -> str:
    scene = Pair(stage, cpus=cpus).protected()
    scene.load_for_a_while()
    fault_at = stage.plug("A")
    takeover = checks.wait_takeover(scene.backup, fault_at)
    on_seconds = takeover.finished_at - fault_at
    require(on_seconds <= GOES_ON_SECONDS_MAX, f"the guest went on {on_seconds:.1f} s after the cut")
    checks.goes_on(scene.traffic)
    flows = scene.traffic.finish()
    voice = checks.one_voice(stage.ports, "A", "B", 0)
    journal = checks.journal_kept(stage, scene.backup, scene.traffic)
    return f"{takeover}; {checks.gap_over(flows, fault_at)}; {journal}; {voice}; resync {scene.resync['ms']} ms"
