"""A VMM is killed while its host stays up."""

import time

from . import checks
from .failed import require
from .pair import Pair, Scene, wait_protected
from .stage import Stage


def kill_primary_vmm(stage: Stage) -> str:
    """kill -9 of the primary's process only: the backup takes over."""
    scene = Pair(stage).protected()
    scene.load_for_a_while()
    fault_at = time.time()
    scene.primary.kill()
    takeover = checks.wait_takeover(scene.backup, fault_at)
    checks.goes_on(scene.traffic)
    flows = scene.traffic.finish()
    voice = checks.one_voice(stage.ports, "A", "B", 0)
    return f"{takeover}; {checks.gap_over(flows, fault_at)}; {checks.journal_kept(stage, scene.backup, scene.traffic)}; {voice}"


def kill_backup_then_plug(stage: Stage) -> str:
    """kill -9 of the backup: the primary goes on solo and says so; a new backup joins, and then the plug."""
    scene = Pair(stage).protected()
    scene.load_for_a_while()
    killed_at, solo = time.time(), scene.primary.next_of("solo")
    scene.backup.kill()
    reason = scene.primary.wait_event("solo", 20, solo)["properties"]["reason"]
    solo_ms = (time.time() - killed_at) * 1000
    require("witness gave the guest to this host" in reason, f"the primary went solo for another reason: {reason}")
    checks.goes_on(scene.traffic)
    second = scene.pair.start_backup("B")
    wait_protected(scene.primary, second)
    scene.load_for_a_while()
    fault_at = stage.plug("A")
    takeover = checks.wait_takeover(second, fault_at)
    checks.goes_on(scene.traffic)
    flows = scene.traffic.finish()
    voice = checks.one_voice(stage.ports, "A", "B", 0)
    journal = checks.journal_kept(stage, second, scene.traffic)
    return f"solo {solo_ms:.0f} ms after the kill; protected again; {takeover}; {checks.gap_over(flows, fault_at)}; {journal}; {voice}"


def plug_of_backup(stage: Stage) -> str:
    """The backup's host loses its power: the guest goes on solo after the detection, its clients unharmed."""
    scene = Pair(stage).protected()
    scene.load_for_a_while()
    solo = scene.primary.next_of("solo")
    fault_at = stage.plug("B")
    scene.primary.wait_event("solo", 20, solo)
    solo_ms = (time.time() - fault_at) * 1000
    checks.goes_on(scene.traffic)
    flows = scene.traffic.finish()
    checks.silent(stage.ports, "B")
    journal = checks.journal_kept(stage, scene.primary, scene.traffic)
    return f"solo {solo_ms:.0f} ms after it; {checks.gap_over(flows, fault_at)}; {journal}"


def chain_of_takeovers(stage: Stage) -> str:
    """A to B to A to B: each time the host that died comes back as the backup, over the same connections."""
    scene = Pair(stage).protected()
    told = []
    for _ in range(3):
        scene.load_for_a_while()
        fault_at = stage.plug(scene.primary.host)
        takeover = checks.wait_takeover(scene.backup, fault_at)
        checks.goes_on(scene.traffic)
        voice = checks.one_voice(stage.ports, scene.primary.host, scene.backup.host, fault_at)
        told.append(f"{scene.primary.host} to {scene.backup.host}: {takeover}, {voice}")
        _protect_again(stage, scene)
    flows = scene.traffic.finish()
    journal = checks.journal_kept(stage, scene.primary, scene.traffic)
    return f"{'; '.join(told)}; {checks.gap_over(flows, fault_at)}; {journal}"


def _protect_again(stage: Stage, scene: Scene) -> None:
    """The host that died is the backup of the one that took over."""
    dead = scene.primary.host
    stage.revive(dead)
    scene.primary, scene.backup = scene.backup, scene.pair.start_backup(dead)
    scene.primary.ctl("protect", scene.pair.target(dead))
    wait_protected(scene.primary, scene.backup)
