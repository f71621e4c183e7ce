"""The network is cut: both hosts live, each thinks the other dead, and one guest may go on.

The proof is in the frames at each host's port: a port that the bridge has closed still shows
what its host sends, so the side that lost is seen even while nobody could hear it.
"""

import time
from dataclasses import dataclass

from outlast_lab import network

from . import checks
from .failed import require
from .pair import Pair, wait_protected
from .stage import Stage, other
from .vmm import Vmm
from .waiting import wait_for

SELF_FENCED = 160


def cut_link_backup_wins(stage: Stage) -> str:
    """The replication link is cut and the backup asks first: the primary fences itself; then it is the backup."""
    return _cut(stage, {"primary_detect": "4s", "backup_detect": "1s"}, lan_too=False, expected="B")


def cut_link_primary_wins(stage: Stage) -> str:
    """The replication link is cut and the primary asks first: the backup stays one, and follows again when joined."""
    return _cut(stage, {"primary_detect": "1s", "backup_detect": "4s"}, lan_too=False, expected="A")


def cut_link_who_wins(stage: Stage) -> str:
    """The replication link is cut and both ask at the same time: one of them goes on."""
    return _cut(stage, {}, lan_too=False, expected=None)


def cut_all_who_wins(stage: Stage) -> str:
    """The primary's host is cut off replication and clients: one of the two goes on."""
    return _cut(stage, {}, lan_too=True, expected=None)


@dataclass(frozen=True)
class Next:
    """Which events of each kind come next: on a machine that is slow there may have been others before the cut."""

    solo: int
    kept: int
    protected: int


def _cut(stage: Stage, detect: dict, lan_too: bool, expected: str | None) -> str:
    scene = Pair(stage).protected(**detect)
    primary, backup, traffic = scene.primary, scene.backup, scene.traffic
    scene.load_for_a_while()
    then = Next(primary.next_of("solo"), backup.next_of("kept"), backup.next_of("protected"))
    fault_at = time.time()
    _set(stage, up=False, lan_too=lan_too)
    winner = wait_for("one side goes on", lambda: _winner(primary, backup, then), 30)
    decided_ms = (time.time() - fault_at) * 1000
    require(expected in (None, winner), f"host {winner} went on, {expected} asked seconds earlier")
    # The guest is cut off with its host if that one won: nothing to hear from it before the join.
    if not (lan_too and winner == "A"):
        checks.goes_on(traffic)
    aftermath = _primary_lost if winner == "B" else _backup_lost
    after = aftermath(stage, primary, backup, fault_at, then)
    _set(stage, up=True, lan_too=lan_too)
    checks.goes_on(traffic)
    follower = _follow_again(scene.pair, primary, backup, winner, then)
    healed = _plug_again(stage, traffic, primary if winner == "A" else backup, follower)
    flows = traffic.finish()
    journal = checks.journal_kept(stage, follower, traffic)
    return f"{winner} goes on {decided_ms:.0f} ms after it; {after}; {healed}; {checks.gap_over(flows, fault_at)}; {journal}"


def _winner(primary: Vmm, backup: Vmm, then: Next) -> str | None:
    if backup.events("failover-finished"):
        return "B"
    return "A" if len(primary.events("solo")) >= then.solo else None


def _primary_lost(stage: Stage, primary: Vmm, backup: Vmm, fault_at: float, _then: Next) -> str:
    code = primary.wait_exit(30)
    require(code == SELF_FENCED, f"the primary that lost ended with {code}: {primary.log()[-500:]}")
    require(primary.events("fenced"), "the primary that lost told of no fence")
    return f"A ends with {code}; {checks.one_voice(stage.ports, 'A', 'B', fault_at)}"


def _backup_lost(stage: Stage, primary: Vmm, backup: Vmm, fault_at: float, then: Next) -> str:
    backup.wait_event("kept", 30, then.kept)
    require(backup.exit_code() is None, f"the backup that lost ended with {backup.exit_code()}")
    require(not backup.events("failover-finished"), "two guests: the backup took over as well")
    checks.silent(stage.ports, "B")
    return "B stays a backup, no frame of the guest from it"


def _follow_again(pair: Pair, primary: Vmm, backup: Vmm, winner: str, then: Next) -> Vmm:
    """After the join the loser's host is the backup."""
    if winner == "A":
        backup.wait_event("protected", 90, then.protected)
        wait_protected(primary, backup)
        return backup
    follower = pair.start_backup("A")
    backup.ctl("protect", pair.target("A"))
    wait_protected(backup, follower)
    return follower


def _plug_again(stage: Stage, traffic, runs: Vmm, follower: Vmm) -> str:
    traffic.wait_more()
    at = stage.plug(runs.host)
    takeover = checks.wait_takeover(follower, at)
    checks.goes_on(traffic)
    voice = checks.one_voice(stage.ports, runs.host, other(runs.host), at)
    return f"joined, protected, plug of {runs.host}: {takeover}, {voice}"


def _set(stage: Stage, up: bool, lan_too: bool) -> None:
    """Cuts or joins host A. Its place on `lan` is closed at the bridge: its frames are still recorded."""
    if lan_too:
        stage.set_port("A", forwarding=up)
    network.set_link(stage.lab, stage.host("A"), "repl", up)
