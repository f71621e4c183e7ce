"""Protected by a backup and by persistent memory of its own host, whose disk and kernel may go down with it."""

from . import checks
from .failed import require
from .pair import FLOWS, Pair, Scene, wait_protected
from .reboot import MUST_SURVIVE_POWER, PMEM_DIR
from .stage import Stage
from .vmm import Vmm

SPLIT_BRAIN = 6


def both_plug_then_resume_is_refused(stage: Stage) -> str:
    """The guest's host loses its power and the backup takes over; booted again, the host has the guest's last epoch, and may not run it."""
    scene = _protected_by_both(stage)
    scene.load_for_a_while()
    fault_at = stage.plug("A")
    takeover = checks.wait_takeover(scene.backup, fault_at)
    checks.goes_on(scene.traffic)
    voice = checks.one_voice(stage.ports, "A", "B", 0)
    stage.boot("A")
    late = Vmm.resumed(scene.primary)
    code = late.wait_exit()
    require(code == SPLIT_BRAIN, f"`outlast resume` ended with {code}")
    require(not late.events("resumed"), "the guest was resumed beside the backup's")
    checks.goes_on(scene.traffic)
    flows = scene.traffic.finish()
    journal = checks.journal_kept(stage, scene.backup, scene.traffic)
    return f"{takeover}; resume refused; {checks.gap_over(flows, fault_at)}; {journal}; {voice}; resync {scene.resync['ms']} ms"


def both_plugs_then_resume(stage: Stage) -> str:
    """The backup's host loses its power, then the guest's: booted again, the guest is resumed; same connections, nothing lost."""
    scene = _protected_by_both(stage)
    scene.load_for_a_while()
    solo = scene.primary.next_of("solo")
    stage.plug("B")
    scene.primary.wait_event("solo", count=solo)
    checks.goes_on(scene.traffic)
    fault_at = stage.plug("A")
    stage.boot("A")
    vmm = Vmm.resumed(scene.primary)
    resumed = vmm.wait_event("resumed", 30)["properties"]
    checks.goes_on(scene.traffic)
    flows = scene.traffic.finish()
    journal = checks.journal_kept(stage, vmm, scene.traffic)
    return f"alone, then restored in {resumed['restore_ms']:.0f} ms; {checks.gap_over(flows, fault_at)}; {journal}"


def _protected_by_both(stage: Stage) -> Scene:
    pair = Pair(stage)
    primary = pair.start_primary("A", "B", local=PMEM_DIR, more=MUST_SURVIVE_POWER)
    traffic = stage.traffic(*FLOWS)
    traffic.wait_more()
    backup = pair.start_backup("B")
    scene = Scene(pair, primary, backup, traffic, wait_protected(primary, backup))
    require(primary.ctl("status")["local"] == "a loss of power", "the state directory keeps less than it is to keep")
    return scene
