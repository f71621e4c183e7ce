"""The plug again and again, at other moments each time."""

from . import checks, resync
from .pair import BUSYBOX, Pair
from .stage import Stage

# Memory and disk are written all the time, whatever the clients ask for.
HEAVY = "outlast.work=mem:20:512,fsync:16:64 outlast.repeat=1000000"


def plugs_in_a_row(stage: Stage) -> str:
    """--plugs N pulls: under load, during resync, under heavy writing, with one and two processors."""
    told = []
    for number in range(1, stage.options.plugs + 1):
        if number > 1:
            stage.clean()
        stage.ports.forget()
        kind = KINDS[(number - 1) % len(KINDS)] if number <= len(KINDS) else stage.rng.choice(KINDS)
        cpus = stage.rng.choice((1, 2))
        told.append(f"{number}: {kind.__name__[1:]}, {cpus} vCPU, {kind(stage, cpus)}")
        print(f"     plug {told[-1]}", flush=True)
    return f"{len(told)} pulls, nothing lost"


def _under_load(stage: Stage, cpus: int) -> str:
    return _plug(stage, Pair(stage, cpus=cpus))


def _under_heavy_writing(stage: Stage, cpus: int) -> str:
    return _plug(stage, Pair(stage, BUSYBOX.with_words(HEAVY), cpus))


def _during_resync(stage: Stage, cpus: int) -> str:
    return resync.plug_before_whole(stage, Pair(stage, cpus=cpus))


KINDS = (_under_heavy_writing, _during_resync, _under_load)


def _plug(stage: Stage, pair: Pair) -> str:
    scene = pair.protected()
    scene.load_for_a_while()
    fault_at = stage.plug("A")
    takeover = checks.wait_takeover(scene.backup, fault_at)
    checks.goes_on(scene.traffic)
    flows = scene.traffic.finish()
    voice = checks.one_voice(stage.ports, "A", "B", 0)
    journal = checks.journal_kept(stage, scene.backup, scene.traffic)
    return f"{takeover}; {checks.gap_over(flows, fault_at)}; {journal}; {voice}"
