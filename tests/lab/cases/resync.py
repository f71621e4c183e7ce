"""A new backup is filled: the plug is pulled meanwhile, when it is not whole and must not run; and the guest writes all the time."""

import time
from dataclasses import replace

from outlast_lab import network
from outlast_lab.flows import Options

from . import checks
from .failed import Failed, require
from .pair import BUSYBOX, FLOWS, Pair, wait_protected
from .stage import Stage

# Longer than the backup needs to find the primary gone, had it anything to take over.
QUIET_SECONDS = 4.0
ATTEMPTS = 4
WORK_PORT = 7004
# A guest that rewrites 200 MB, and has some memory beside.
BUSY_PAGES = 200 * 1024 * 1024 // 4096
BUSY_MEMORY = "320M"


def plug_during_resync(stage: Stage) -> str:
    """The primary's host dies before the backup is whole: the backup runs nothing, and waits for another."""
    return plug_before_whole(stage, Pair(stage))


def plug_before_whole(stage: Stage, pair: Pair) -> str:
    """Pulls the plug during the resync; where that was already done, tries again at another moment."""
    for attempt in range(1, ATTEMPTS + 1):
        primary = pair.start_primary("A", "B")
        stage.traffic("stream").wait_more()
        backup = pair.start_backup("B")
        primary.wait_event("resync-started", 30)
        time.sleep(stage.rng.uniform(0.05, 1.5))
        stage.plug("A")
        if not backup.events("protected") and not primary.events("resync-finished"):
            return _runs_nothing(stage, primary, backup) + f" (attempt {attempt})"
        stage.clean()
    raise Failed(f"in {ATTEMPTS} attempts the resync was always done before the plug")


def _runs_nothing(stage: Stage, primary, backup) -> str:
    discarded = backup.wait_event("discarded", 30)["properties"]["reason"]
    time.sleep(QUIET_SECONDS)
    require(backup.exit_code() is None, f"the backup ended with {backup.exit_code()}: {backup.log()[-400:]}")
    claimed = [event["event"] for event in backup.events() if event["event"].startswith("failover")]
    require(not claimed, f"a backup that was not whole tried to take over: {claimed}")
    state = backup.ctl("status").get("state")
    checks.silent(stage.ports, "B")
    return f"discarded ({discarded}), {state}, no frame of the guest from B in {QUIET_SECONDS:g} s"


def backup_plug_during_resync(stage: Stage) -> str:
    """The backup's host dies while it is filled: the guest goes on, and is protected when the host is back."""
    pair = Pair(stage)
    primary = pair.start_primary("A", "B")
    traffic = stage.traffic(*FLOWS)
    traffic.wait_more()
    pair.start_backup("B")
    primary.wait_event("resync-started", 30)
    time.sleep(stage.rng.uniform(0.05, 1.5))
    fault_at = stage.plug("B")
    whole = bool(primary.events("resync-finished"))
    primary.wait_event("solo", 30)
    checks.goes_on(traffic)
    stage.revive("B")
    backup = pair.start_backup("B")
    wait_protected(primary, backup)
    plug_at = stage.plug("A")
    takeover = checks.wait_takeover(backup, plug_at)
    checks.goes_on(traffic)
    flows = traffic.finish()
    voice = checks.one_voice(stage.ports, "A", "B", plug_at)
    journal = checks.journal_kept(stage, backup, traffic)
    when = "after" if whole else "before"
    return f"B dies {when} the base; solo, protected again, plug of A: {takeover}; {checks.gap_over(flows, fault_at)}; {journal}; {voice}"


def filled_under_load(stage: Stage) -> str:
    """The guest rewrites 200 MB while it is protected again: that ends by converging, clients are served, nothing is said to hang."""
    pair = Pair(stage, replace(BUSYBOX, memory=BUSY_MEMORY))
    primary = pair.start_primary("A", None)
    traffic = stage.traffic("stream", "journal")
    traffic.wait_more()
    _rewrite_for_ever(stage)
    traffic.wait_more()
    backup = pair.start_backup("B")
    primary.ctl("protect", pair.target("B"))
    resync = wait_protected(primary, backup)
    require(resync["end"] in ("converged", "throttled", "long-pause"), f"the rounds ended otherwise: {resync}")
    failed = primary.events("resync-failed")
    require(not failed, f"filling failed on the way: {failed}")
    checks.goes_on(traffic)
    plug_at = stage.plug("A")
    takeover = checks.wait_takeover(backup, plug_at)
    checks.goes_on(traffic)
    flows = traffic.finish()
    gaps = ", ".join(f"{name} {flow['longest_gap']['ms']:.0f} ms" for name, flow in flows.items())
    percents = [event["properties"]["guest_percent"] for event in primary.events("resync-diverging")]
    figures = f"{resync['rounds']} rounds, {resync['ms'] / 1000:.1f} s, {resync['bytes'] >> 20} MiB, {resync['left_bytes'] >> 10} KiB left"
    return f"{resync['end']}: {figures}, guest at {percents or 100} %; {takeover}; longest silence: {gaps}"


def _rewrite_for_ever(stage: Stage) -> None:
    with network.tcp_socket(stage.lab) as sock:
        sock.settimeout(30)
        sock.connect((Options().address, WORK_PORT))
        sock.sendall(f"mem 1000000 {BUSY_PAGES}\n".encode())
